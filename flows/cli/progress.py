"""The log of the job on standard error, one plain line for each message. Called by `run` and `up`; no Prefect."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from flows.cli.layout import columns, wrapped
from flows.cli.start import stopping
from tasks.address import escaped

LOG = logging.getLogger("retrain")


TIME = "%H:%M:%S"


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
    handler.setFormatter(_Line(copy))
    LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    LOG.propagate = False
