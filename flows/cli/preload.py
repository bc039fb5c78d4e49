"""Imports ahead of time, beside the start of a temporary server: TensorFlow's takes seconds, and it waits anyway.

Only where training will have to run: a cached run never pays for TensorFlow. Called by the command line.
"""

from __future__ import annotations

import importlib
import threading

from tasks.errors import StoreError
from tasks.learning import backend, isolated
from tasks.settings import Settings
from tasks.storage import open_store


def preload(settings: Settings) -> None:
    """Import the flow now, and in the background, twice, what a first run in this store will need."""
    if _never_trained(settings):
        isolated.preload()
        # Not a daemon: a process that ends in the middle of this import crashes.
        threading.Thread(target=backend.keras).start()
    with backend.no_collections():
        importlib.import_module("flows.retrain")


def _never_trained(settings: Settings) -> bool:
    """Whether the store has no trace of a training. A store that fails is the flow's to report."""
    try:
        return not any(True for _ in open_store(settings.store).list("cache/last/train.json"))
    except StoreError:
        return False
