"""The log of the job on standard error, one plain line for each message. Called by `run` and `up`; no Prefect."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

LOG = logging.getLogger("retrain")


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
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    LOG.propagate = False
