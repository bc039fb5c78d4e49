"""A Markdown document as GitHub reads it: its links, anchors, code, fences and tables, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


class Text(NamedTuple):
    """A link's target, or a piece of code, and the line that it stands on."""

    line: int
    text: str


class Fence(NamedTuple):
    line: int
    mark: str
    language: str
    lines: list[str]
    closed: bool

    def numbered(self) -> Iterator[Text]:
        return (Text(self.line + number, line) for number, line in enumerate(self.lines, 1))


class Table(NamedTuple):
    line: int
    rows: list[list[str]]
    """Header, delimiter row, body."""

    def body(self) -> Iterator[tuple[int, list[str]]]:
        return ((self.line + number, row) for number, row in enumerate(self.rows[2:], 2))


class Page:
    """A document: its path in the repository, its lines, and what is in them."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.lines = name, text.splitlines()
        self.links: list[Text] = []
        self.code: list[Text] = []  # inline, and options that stand in the text as they are
        self.fences: list[Fence] = []
        self.tables: list[Table] = []
        self.stray_rows: list[int] = []  # where lines begin with | that are no table
        self.anchors: set[str] = set()
        self._slugs: dict[str, int] = {}
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        for before, token in zip([None, *tokens], tokens, strict=False):
            self._add(before.type if before else "", token)

    def _add(self, before: str, token: Token) -> None:
        first, last = token.map or (0, 0)
        if token.type == "fence":
            self._add_fence(token, first, last)
        elif token.type == "table_open":
            self.tables.append(Table(first + 1, [cells(line) for line in self.lines[first:last]]))
        elif token.type == "html_block":
            self._add_html(token.content, first + 1)
        elif token.type == "inline":
            self._add_inline(token.children or [], first, last)
            if before == "heading_open":
                self._add_anchor(token.children or [])
            if before == "paragraph_open":
                self.stray_rows += [n + 1 for n in range(first, last) if bare(self.lines[n]).startswith("|")][:1]

    def _add_fence(self, token: Token, first: int, last: int) -> None:
        end = bare(self.lines[last - 1]).rstrip()
        closed = last - first > 1 and end == token.markup[0] * len(end) and len(end) >= len(token.markup)
        language = (token.info.split() or [""])[0].lower()
        self.fences.append(Fence(first + 1, token.markup, language, token.content.splitlines(), closed))

    def _add_inline(self, tokens: Sequence[Token], first: int, last: int) -> None:
        for token in tokens:
            line = self._line(token, first, last)
            if token.type in {"softbreak", "hardbreak"}:
                first += 1
            elif token.type == "code_inline":
                self.code.append(Text(line, token.content))
            elif token.type == "text":
                self.code += [Text(line, option) for option in OPTION.findall(token.content)]
                self.links += [Text(line, f"[{name}]") for name in re.findall(r"\]\[([^\]]*)\]", token.content)]
            elif token.type == "html_inline":
                self._add_html(token.content, line)
            elif target := token.attrGet("href") or token.attrGet("src"):
                self.links.append(Text(line, str(target)))

    def _line(self, token: Token, first: int, last: int) -> int:
        """Code may have had line breaks in it, which are not told: look for its first word."""
        word = (token.content.split() or [""])[0]
        return next((number for number in range(first, last) if word in self.lines[number]), first) + 1

    def _add_html(self, text: str, line: int) -> None:
        self.links += [Text(line, target) for target in re.findall(r'\b(?:href|src|srcset)="([^"]*)"', text)]
        self.anchors |= set(re.findall(r'\b(?:id|name)="([^"]*)"', text))

    def _add_anchor(self, heading: Sequence[Token]) -> None:
        text = "".join(token.content for token in heading if token.type in {"text", "code_inline"})
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        number = self._slugs[slug] = self._slugs.get(slug, -1) + 1
        self.anchors.add(f"{slug}-{number}" if number else slug)


def bare(line: str) -> str:
    """A line without what marks quotes and lists."""
    return line.lstrip(" >")


def cells(line: str) -> list[str]:
    """A row's cells. On GitHub a | divides them also in code, unless it is written as \\|."""
    row = re.sub(r"(?<!\\)\|$", "", bare(line).rstrip().removeprefix("|"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
