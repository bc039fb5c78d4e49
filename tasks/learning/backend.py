"""Imports Keras: once, when a step needs it, and without TensorFlow's start-up messages.

The import takes seconds, the largest cost beside training itself, so no module of the project imports Keras or
TensorFlow at its top. Called by the modules of `tasks.learning`, and by `flows.cli.preload` before a training.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOCK = threading.Lock()


def keras() -> Any:
    """The Keras module, with the backend that `KERAS_BACKEND` names. Safe to call from several threads."""
    with _LOCK:
        if "keras" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each further model in a process
            with without_garbage_collection(), _silenced_standard_error():
                importlib.import_module("keras")
    return sys.modules["keras"]


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn the garbage collector off during a large import.

    Otherwise it scans the growing set of imported objects again and again, frees nothing, and takes a third of the
    time. `gc.freeze` then excludes these objects from all later collections, also the one at the end of the process.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def _silenced_standard_error() -> Iterator[None]:
    """Drop what TensorFlow's C++ libraries print before they read any setting. What Python prints still shows.

    TensorFlow's logger keeps the stream that is `sys.stderr` during the import. So the descriptor behind it stays open:
    its number would be given to the next file or connection, and log lines would be written into that.
    """
    sys.stderr.flush()
    saved, python_stderr = os.dup(2), sys.stderr
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), 2)
    sys.stderr = open(saved, "w", buffering=1, closefd=False)  # noqa: SIM115 - stays open
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = python_stderr
        os.dup2(saved, 2)
