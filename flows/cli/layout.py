"""How results look in a terminal: wrapped at words to its width, verdicts in colour, Markdown rendered.

Elsewhere the row of a list is one line, as programs read it; escape codes are for a terminal alone, colours for one
without NO_COLOR. Called by the commands and by `progress`; imports no Prefect, and rich only to render.
"""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

from tasks.address import escaped

# Columns where a stream is no terminal, or one that does not tell its size.
COLUMNS = 80

# The width of a line that is not wrapped, since a program reads it.
UNWRAPPED = sys.maxsize

# What is coloured in the summary of a run, and how; the names of the colours are rich's.
COLOURS = {
    r"(?m)^  pass\b": "green",
    r"(?m)^  FAIL\b": "bold red",
    r"(?m)^(PUBLISHED|PASSED|UNCHANGED)\b": "bold green",
    r"(?m)^REJECTED\b": "bold red",
}

# Fewer columns than this beside a prefix are no room for a text.
NARROW = 24


def columns(stream: TextIO) -> int:
    """The width of the terminal behind a stream."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except (OSError, ValueError):  # no terminal; a stream without a descriptor, or closed
        return COLUMNS


def wrapped(prefix: str, text: str, width: int) -> str:
    """A text after a prefix; its later lines begin below its first word, or all of it where the room is too narrow.

    A word is never broken: a path or an address that is longer than the line can still be copied.
    """
    room = width - len(prefix)
    longest = max(map(len, text.split()), default=0)
    if prefix.strip() and (room < NARROW or room < longest <= width - 4):
        lines = [prefix.rstrip(), *_lines(text, " " * 4, " " * 4, width)]
    else:
        lines = _lines(text, prefix, " " * len(prefix), width)
    return "\n".join(lines)


def _lines(text: str, first: str, others: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def say(text: str, prefix: str = "") -> None:
    """Print a result or the row of a list: wrapped in a terminal, elsewhere one line; control characters escaped."""
    prefix, text = escaped(prefix), escaped(text)
    print(wrapped(prefix, text, columns(sys.stdout)) if sys.stdout.isatty() else f"{prefix}{text}", flush=True)


def show_markdown(text: str) -> None:
    """Print Markdown as it reads. It may come from a store, so control characters are escaped and links are text."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(
        width=columns(sys.stdout), force_terminal=sys.stdout.isatty(), force_jupyter=False, legacy_windows=False
    )
    with console.capture() as rendered:
        console.print(Markdown(plain(text), hyperlinks=False))
    print("\n".join(line.rstrip() for line in rendered.get().splitlines()))


def has_colours(stream: TextIO) -> bool:
    """Whether colours may be shown there: in a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str) -> str:
    """The summary of a run, with its verdict and the gate's results in colour where standard output has any."""
    if not has_colours(sys.stdout):
        return text
    from rich.console import Console
    from rich.text import Text

    shown = Text(text)
    for words, style in COLOURS.items():
        shown.highlight_regex(words, style)
    console = Console(force_terminal=True, force_jupyter=False, legacy_windows=False, color_system="standard")
    with console.capture() as captured:
        console.print(shown, end="", soft_wrap=True)
    return captured.get()


def plain(text: str) -> str:
    """A text of several lines from a store, with its control characters escaped."""
    return "\n".join(map(escaped, text.split("\n")))
