"""What a document has to keep to. Each rule takes a page and all pages, and yields what is wrong, with its line."""

from __future__ import annotations

import argparse
import ast
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from textwrap import dedent
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.settings import DEFAULTS, Settings
from tests.documents import project
from tests.documents.markdown import OPTION, Fence, Page, Text
from tests.documents.shell import retrain_arguments, simple_commands, typed

Pages = Mapping[str, Page]
Findings = Iterator[tuple[int, str]]

SHELL = {"sh", "bash", "shell", "console"}
# What programs say may have anything in it, tables too.
OUTPUT = {"", "text", "console", "md", "markdown"}
# Options of docker and of prefect worker start, which documents name without the command.
OTHER_OPTIONS = {"--build-arg", "--limit", "--network", "--read-only", "--restart", "--secret", "--tmpfs", "--volume"}
DELIMITER = re.compile(r"(?=.*\|)\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?")
VARIABLE = re.compile(r"\b(?:AWS|PREFECT|RETRAIN)_[A-Z0-9_]*[A-Z0-9]\b")
PATH = re.compile(
    r"(?:\.ci|\.github|deployments|flows|tasks|tests)/[\w./*-]*"
    r"|Dockerfile|LICENSE|Makefile|pyproject\.toml|requirements[\w-]*\.(?:lock|txt)|CHANGELOG\.md"
)
MODULE = re.compile(r"(?<![\w./:@-])(?:deployments|flows|tasks|tests)(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_]\w*)?")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
GATE_ROWS = {
    "accuracy": "--min-accuracy",
    "accuracy lower bound": "--min-accuracy-lower-bound",
    "lowest class recall": "--min-class-recall",
    "loss to champion": "--max-regression",
    "loss to reference": "--max-regression",
}


def findings(pages: Pages) -> list[str]:
    """All that is wrong with them, as `file:line: what`."""
    found = [
        (page.name, line, what) for page in pages.values() for rule in RULES for line, what in rule(page, pages)
    ] + [(name, 1, "no links lead here from README.md") for name in orphans(pages)]
    return [f"{name}:{line}: {what}" for name, line, what in sorted(set(found))]


def links(page: Page, pages: Pages) -> Findings:
    for line, target in page.links:
        parts, path = urlsplit(target), destination(page, target)
        if path is None:
            continue
        if path.startswith(".."):
            yield line, f"the link {target} leaves the repository"
        elif path not in pages and not project.is_kept(path):
            yield line, f"the link {target} leads to nothing"
        elif parts.fragment and unquote(parts.fragment) not in _anchors(path, pages):
            yield line, f"the link {target} names an anchor that is not there"


def destination(page: Page, target: str) -> str | None:
    """The path in the repository that a link leads to; None where it leads to elsewhere."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    base = "" if parts.path.startswith("/") else posixpath.dirname(page.name)
    path = posixpath.normpath(posixpath.join(base, unquote(parts.path).lstrip("/"))) if parts.path else page.name
    return readme if (readme := posixpath.normpath(f"{path}/README.md")) in project.files() else path


def _anchors(path: str, pages: Pages) -> set[str]:
    if path in pages:
        return pages[path].anchors
    number = len((project.ROOT / path).read_bytes().splitlines()) if path in project.files() else 0
    return {f"L{line}" for line in range(1, number + 1)}


def orphans(pages: Pages) -> set[str]:
    """The documents that no links lead to, README.md's first."""
    reached: set[str] = set()
    ahead = ["README.md"]
    while ahead:
        name = ahead.pop()
        if name in pages and name not in reached:
            reached.add(name)
            ahead += [path for _, target in pages[name].links if (path := destination(pages[name], target))]
    return {*pages, "deployments/README.md"} - reached - {"CHANGELOG.md"}


def fences(page: Page, _: Pages) -> Findings:
    for fence in page.fences:
        if not fence.closed:
            yield fence.line, "the fence is never closed"
        for line, text in fence.numbered():
            if re.match(rf" {{0,3}}{fence.mark}{fence.mark[0]}*[^\S\n]*\w", text):
                yield line, f"a fence within the one of line {fence.line}"
            if fence.language not in OUTPUT and DELIMITER.fullmatch(text.strip()):
                yield line, f"a table within the fence of line {fence.line}"


def tables(page: Page, _: Pages) -> Findings:
    for line in page.stray_rows:
        yield line, "no table: it needs a header and a delimiter row of as many cells"
    for table in page.tables:
        for number, row in enumerate(table.rows):
            if len(row) != len(table.rows[0]):
                yield table.line + number, f"{len(row)} cells below a header of {len(table.rows[0])}"


def commands(page: Page, _: Pages) -> Findings:
    for fence in page.fences:
        if fence.language in SHELL:
            yield from _shell(fence)
    for line, text in _code(page):
        try:
            found = list(simple_commands([text]))
        except ValueError:
            continue
        yield from ((line, fault) for _, command in found for fault in _faults(command, whole=False))
        if text.lstrip("[ ").startswith("-"):
            unknown = set(OPTION.findall(text)) - set(project.options()) - OTHER_OPTIONS
            yield from ((line, f"no command has the option {option}") for option in unknown)


def _shell(fence: Fence) -> Findings:
    lines = typed(fence.lines) if any(line.startswith("$ ") for line in fence.lines) else fence.lines
    try:
        for number, command in simple_commands(lines):
            yield from ((fence.line + 1 + number, fault) for fault in _faults(command, whole=True))
    except ValueError as error:
        yield fence.line + 1 + error.args[0], "a quote is never closed"


def _faults(command: Sequence[str], *, whole: bool) -> Iterator[str]:
    given = retrain_arguments(command)
    if given and (why := project.refusal(given, whole=whole)):
        yield f"`retrain {' '.join(given)}`: {why}"
    if command[0] == "make" and "-C" not in command:
        targets, variables = project.makefile()
        for name, equals, value in (word.partition("=") for word in command[1:] if not word.startswith("-")):
            if equals and name not in variables:
                yield f"the Makefile knows no variable {name}"
            elif name == "ARGS" and {"run"} == targets.intersection(command):
                yield from _faults(["retrain", "run", *shlex.split(value)], whole=whole)
            elif not equals and name not in targets and not re.fullmatch(rf"{project.PLACEHOLDER.pattern}|\d+", name):
                yield f"the Makefile has no target {name}"


def _code(page: Page) -> Iterator[Text]:
    """Inline code, and what comments in lines of shell quote like it or tell of `retrain`'s options."""
    yield from page.code
    for fence in page.fences:
        for line, text in fence.numbered() if fence.language in SHELL else ():
            command, _, comment = text.partition("# ")
            options = OPTION.findall(comment) if command.startswith("retrain ") else []
            yield from (Text(line, found) for found in [*re.findall("`([^`]+)`", comment), *options])


def variables(page: Page, _: Pages) -> Findings:
    for line, text in enumerate(page.lines, 1):
        for name in VARIABLE.findall(text):
            if not project.is_variable(name):
                yield line, f"nothing reads the variable {name}"


def names(page: Page, _: Pages) -> Findings:
    """Paths and modules of the project."""
    for line, text in [*page.code, *(each for fence in page.fences for each in fence.numbered())]:
        for word in re.split(r"[\s\"'`(){},;=]+", re.sub(r"::?[\w\[\]-]+", " ", text)):
            if PATH.fullmatch(word := word.rstrip(".:")) and not project.is_there(word):
                yield line, f"there is no {word}"
        for name in MODULE.findall(text):
            if not project.is_defined(name.replace(":", ".")):
                yield line, f"nothing defines {name}"
    for fence in page.fences:
        if fence.language in {"python", "py"}:
            yield from _imports(fence)


def _imports(fence: Fence) -> Findings:
    try:
        tree = ast.parse(dedent("\n".join(fence.lines)))
    except SyntaxError as error:
        yield fence.line + (error.lineno or 0), f"no Python: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and MODULE.fullmatch(f"{node.module}.any"):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                if not project.is_defined(name):
                    yield fence.line + node.lineno, f"nothing defines {name}"


def defaults(page: Page, _: Pages) -> Findings:
    for line, options, cell in told_defaults(page):
        shown = re.split(r",\s+", cell) if len(options) > 1 else [cell]
        if len(shown) != len(options):
            yield line, f"{len(options)} options have {len(shown)} defaults"
        for option, text in zip(options, shown, strict=False):
            if (default := _default(project.options()[option])) is not None and not _same(text, default):
                yield line, f"the default of {option} is {default}, not {text}"


def told_defaults(page: Page) -> Iterator[tuple[int, list[str], str]]:
    """The rows that tell of a default: line, options, and what stands in the column."""
    for table in page.tables:
        header = [cell.lower() for cell in table.rows[0]]
        column = header.index("default") if "default" in header else len(header)
        for line, row in table.body():
            cell = row[column] if column < len(row) else ""
            if cell not in {"", "-", "–", "—"} and (options := _options(row, column)):
                yield line, options, cell


def _options(row: Sequence[str], column: int) -> list[str]:
    """The options whose default a row tells: those in its first cell, else of the gate's row, else in any cell."""
    others = " ".join([*row[:column], *row[column + 1 :]])
    for text in (row[0], GATE_ROWS.get(row[0], ""), others):
        if named := [option for option in OPTION.findall(text) if option in project.options()]:
            return named
    return []


def _default(action: argparse.Action) -> Any:
    """None where it is not told in numbers or words, or is another one for each command."""
    if action.dest in Settings.model_fields:
        recipe, gate = DEFAULTS["mnist"]
        default = Settings.model_fields[action.dest].default
        if default is False:
            return "off"
        return (recipe.model_dump() | gate.model_dump()).get(action.dest, default) if default != () else None
    return "off" if action.default is False else None


def _same(text: str, default: Any) -> bool:
    text = re.split(" *[(;]", text)[0].strip("`* ")  # 0.97 (digits: 0.94)
    if isinstance(default, str):
        return text == default
    return bool(NUMBER.fullmatch(text)) and float(text.replace(",", "")) == default


def operating(page: Page, _: Pages) -> Findings:
    for table in page.tables:
        header = table.rows[0]
        for line, row in table.body() if header[0] == "candidates that pass" else ():
            computed = project.operating().get(row[0], {})
            for name, cell in zip(header[1:], row[1:], strict=False):
                shown, values = NUMBER.findall(cell), computed.get(name, ())
                right = [f"{value:.{len(text.partition('.')[2])}f}" for text, value in zip(shown, values, strict=False)]
                if not shown or shown != right:
                    yield line, f"{row[0]}, {name}: computed is {' ± '.join(map(str, values)) or 'nothing'}, not {cell}"


RULES = (links, fences, tables, commands, variables, names, defaults, operating)
