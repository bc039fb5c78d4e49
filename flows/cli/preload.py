"""Preload: import TensorFlow, which takes seconds, while a temporary server starts.

Only if a training will run, because a cached run must not pay for TensorFlow. Called by `run`.
"""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress

from tasks.errors import DeviceError, StoreError
from tasks.learning import backend, compiled, isolated
from tasks.settings import Settings
from tasks.storage import open_store


def preload(settings: Settings) -> None:
    """Import the flow. For a first run, import Keras too, in a thread and in the process that loads the model back."""
    if _never_trained(settings):
        isolated.preload()
        # Not a daemon thread: a process that exits during this import crashes.
        threading.Thread(target=_import_keras).start()
    with backend.without_garbage_collection():
        importlib.import_module("flows.retrain")


def _import_keras() -> None:
    with suppress(DeviceError):  # of a damaged package: the step that needs it raises it again
        backend.keras(compiled.folder())


def _never_trained(settings: Settings) -> bool:
    """Whether the store holds no result of a training. The flow reports a store that cannot be read."""
    try:
        return not any(True for _ in open_store(settings.store).list("cache/last/train.json"))
    except StoreError:
        return False
