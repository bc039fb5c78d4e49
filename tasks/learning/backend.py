"""Keras, imported once, when a step needs it, and without TensorFlow's start-up messages.

The import takes seconds, the largest cost beside training itself: nothing else in the project imports Keras or
TensorFlow at its top. Called by the train and evaluate steps, and by whoever knows that they will run.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOCK = threading.Lock()


def keras() -> Any:
    """The Keras module, with the backend that `KERAS_BACKEND` names."""
    with _LOCK:
        if "keras" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            with no_collections(), _no_standard_error():
                importlib.import_module("keras")
    return sys.modules["keras"]


@contextmanager
def no_collections() -> Iterator[None]:
    """For a large import: without the garbage collector, which goes through all that is imported, again and again.

    It finds nothing there, and takes a third of the time. What was imported is set aside, so that later collections,
    the last one at the process's end among them, pass over it too.
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
def _no_standard_error() -> Iterator[None]:
    """Without what TensorFlow's libraries write there before they read any setting; Python's own lines still show."""
    sys.stderr.flush()
    kept, python_stderr = os.dup(2), sys.stderr
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = open(kept, "w", buffering=1, closefd=False)  # noqa: SIM115 - a descriptor, closed below
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = python_stderr
        os.dup2(kept, 2)
        os.close(kept)
