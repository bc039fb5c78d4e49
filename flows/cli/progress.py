"""The log of the job on standard error, one plain line for each message. Called by `run` and `up`; no Prefect."""

from __future__ import annotations

import logging
import os

LOG = logging.getLogger("retrain")


def show_progress() -> None:
    """Send the logger `retrain` to standard error."""
    # A copy of the descriptor: importing TensorFlow closes standard error for a moment.
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    LOG.propagate = False
