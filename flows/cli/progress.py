"""The log of the job on standard error, one plain line for each message; in a terminal with a bar for what takes long.

Called by `run` and `up`; no Prefect, and rich only to draw the bar.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TextIO

from flows.cli.layout import columns, has_colours, wrapped
from flows.cli.start import stopping
from tasks.address import escaped

LOG = logging.getLogger("retrain")


TIME = "%H:%M:%S"

# How far a step is, as its messages begin.
PERCENT = re.compile(r"(?P<step>\w+): +(?P<percent>\d{1,3}) % +(?P<rest>.*)")

# Columns of the bar: in a terminal of 80, an epoch's accuracy fits beside it.
BAR = 12

# One line up, and clear it.
REDRAW = "\x1b[1A\x1b[2K"


class _Line(logging.Formatter):
    """A message as one line; in a terminal wrapped at words, below the time, to its width at that moment.

    It may repeat a text from a store, such as the machine that computed a result: control characters are escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__("%(message)s", TIME)
        self._stream = stream

    def formatMessage(self, record: logging.LogRecord) -> str:
        time, text = f"{self.formatTime(record, TIME)}  ", escaped(record.message)
        return wrapped(time, text, columns(self._stream)) if self._stream.isatty() else f"{time}{text}"


class _LineWithBar(_Line):
    """The same, but a message of how far a step is has a bar, and replaces the one before it of the same step.

    Each is a whole line at all times, so whatever else is printed begins on a line of its own.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        super().__init__(stream)
        self._last = ""
        self._console = Console(file=stream, force_terminal=True, force_jupyter=False, legacy_windows=False)

    def formatMessage(self, record: logging.LogRecord) -> str:
        found = PERCENT.fullmatch(record.message)
        step, percent = (found["step"], int(found["percent"])) if found else ("", 100)
        redraw = REDRAW if step and step == self._last else ""
        self._last = step if percent < 100 else ""
        if not found:
            return super().formatMessage(record)
        before = f"{self.formatTime(record, TIME)}  {step}: "
        after = f" {percent:3} % {escaped(found['rest'])}"
        room = max(0, columns(self._stream) - len(before) - BAR - 1)  # a longer line would be two, and only one redrawn
        return f"{redraw}{before}{self._bar(percent)}{after[:room]}"

    def _bar(self, percent: int) -> str:
        from rich.progress_bar import ProgressBar

        with self._console.capture() as captured:
            bar = ProgressBar(total=100, completed=percent, width=BAR, complete_style="cyan", finished_style="cyan")
            self._console.print(bar, end="")
        return captured.get()


class _Progress(logging.StreamHandler[TextIO]):
    """A line that standard error cannot take, because it is full or gone, is lost: no reason to end a run."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def show_progress() -> None:
    """Send the logger `retrain` to standard error."""
    # A copy of the descriptor: importing TensorFlow closes standard error for a moment.
    encoding = getattr(sys.stderr, "encoding", None)
    copy = os.fdopen(os.dup(2), "w", buffering=1, encoding=encoding, errors="backslashreplace")
    handler = _Progress(copy)
    handler.addFilter(lambda _: not stopping())
    handler.setFormatter(_LineWithBar(copy) if has_colours(copy) else _Line(copy))
    LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    LOG.propagate = False
