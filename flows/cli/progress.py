"""What the job says while it works: one plain line each, on standard error. Called by the command line."""

from __future__ import annotations

import logging
import os

LOG = logging.getLogger("retrain")


def show_progress() -> None:
    """Send what the job logs to standard error."""
    # A stream of its own: TensorFlow's import closes the ordinary one for a moment.
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    LOG.setLevel(logging.INFO)
    LOG.addHandler(handler)
    LOG.propagate = False
