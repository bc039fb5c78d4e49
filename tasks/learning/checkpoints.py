"""Checkpoints: the state of a training after each epoch, so that a killed training resumes.

    checkpoints/<step>/<key>/<device>/<epoch>-<sha256>

Each is one object, sealed with its SHA-256 and read back after the write. The last two are retained until the result
of the training is stored. A name holds the SHA-256 of the content, so two workers with the same training never
overwrite each other's. Called by `tasks.learning.training`; imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.caching.inventory import CHECKPOINTS
from tasks.data.arrays import arrays_of
from tasks.errors import ArtifactError, KeyMissing, StoreError
from tasks.storage import ObjectStore
from tasks.storage.verified import fetch_sealed, sealed, write
from tasks.values import Epoch

LOG = logging.getLogger("retrain.train")

# The name of a checkpoint; anything else in the folder, such as a `.DS_Store` or a folder's marker, is not looked at.
NAME = re.compile(r"[0-9]+-[0-9a-f]{64}")

# The newest, and the one before it in case the newest is damaged.
RETAINED = 2


class Checkpoint(NamedTuple):
    """The state of a training: its epochs so far; the network's weights, then the optimizer's variables."""

    history: tuple[Epoch, ...]
    variables: Sequence[NDArray[Any]]


class Checkpoints:
    """The checkpoints of one training.

    Args:
        store: Where they are stored.
        training: Identifies the training: the key of its step, then the device, where another changes the bits.
    """

    def __init__(self, store: ObjectStore, training: str) -> None:
        self._store, self._folder = store, f"{CHECKPOINTS}{training}/"

    def newest(self, limit: int) -> Checkpoint | None:
        """The newest intact checkpoint; None if there is none. Skips a damaged or foreign one with a warning.

        Args:
            limit: The most bytes that one of this training has.

        Raises:
            StoreError: The store cannot be read.
        """
        for key in reversed(self._keys()):
            try:
                return _decode(fetch_sealed(self._store, key, limit), self._store.address(key))
            except (ArtifactError, KeyMissing) as error:  # KeyMissing: another worker with this training removed it
                LOG.warning("train: skips the checkpoint after epoch %d: %s", _epoch(key), error)
        return None

    def keep(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint and remove old ones. If the store fails, log a warning and go on without."""
        data, epoch = encode(checkpoint), len(checkpoint.history)
        try:
            write(self._store, f"{self._folder}{epoch:04d}-{hashlib.sha256(data).hexdigest()}", data)
            for key in self._keys():
                if _epoch(key) <= epoch - RETAINED:
                    self._store.delete(key)
        except StoreError as error:
            LOG.warning("train: no checkpoint after epoch %d, the training goes on: %s", epoch, error)

    def _keys(self) -> list[str]:
        entries = self._store.list(self._folder)
        return [entry.key for entry in entries if NAME.fullmatch(entry.key.removeprefix(self._folder))]


def _decode(content: bytes, address: str) -> Checkpoint:
    """As `decode`. Raises ArtifactError for content that is no checkpoint, though its seal is intact."""
    try:
        return decode(content)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"it is no checkpoint ({type(error).__name__})"
        raise ArtifactError(f"cannot use {address}", why, "Delete it.") from error


def encode(checkpoint: Checkpoint) -> bytes:
    """Serialize a checkpoint as .npz bytes, sealed with their SHA-256."""
    history = json.dumps([epoch.model_dump() for epoch in checkpoint.history]).encode()
    buffer = io.BytesIO()
    np.savez(buffer, np.frombuffer(history, np.uint8), *checkpoint.variables)
    return sealed(buffer.getvalue())


def decode(content: bytes) -> Checkpoint:
    """Parse bytes whose seal was checked. Unpickles nothing."""
    arrays = arrays_of(content)
    history, *variables = (arrays[f"arr_{number}"] for number in range(len(arrays)))
    return Checkpoint(tuple(Epoch(**epoch) for epoch in json.loads(history.tobytes())), variables)


def _epoch(key: str) -> int:
    return int(key.rpartition("/")[2].partition("-")[0])
