"""Checkpoints: the state of a training after each epoch, so that one that was killed goes on where it was.

    checkpoints/<step>/<key>/<device>/<epoch>-<sha256>

Each is one object, sealed with its SHA-256 and read back; the last two are kept, and none once the training's result
is. A name tells the content, so two workers at the same training never overwrite each other. Written and read by the
train step; imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.caching.inventory import CHECKPOINTS
from tasks.errors import ArtifactError, KeyMissing, StoreError
from tasks.storage import ObjectStore
from tasks.storage.verified import fetch_sealed, sealed, write
from tasks.values import Epoch

LOG = logging.getLogger("retrain.train")

# The newest, and the one before in case it is damaged.
KEPT = 2


class Checkpoint(NamedTuple):
    """What a training is made of after its last epoch: the network's weights, then the optimizer's variables."""

    history: tuple[Epoch, ...]
    variables: Sequence[NDArray[Any]]


class Checkpoints:
    """The checkpoints of one training.

    Args:
        store: Where they are kept.
        training: What names the training: the key of its step, and the device where another would change the bits.
    """

    def __init__(self, store: ObjectStore, training: str) -> None:
        self._store, self._folder = store, f"{CHECKPOINTS}{training}/"

    def newest(self) -> Checkpoint | None:
        """The newest one that is whole; a damaged one is passed over, and said. Raises StoreError."""
        for key in reversed(self._keys()):
            try:
                return decode(fetch_sealed(self._store, key))
            except (ArtifactError, KeyMissing) as error:  # missing: another worker at this training removed it
                LOG.warning("train: the checkpoint after epoch %d is passed over: %s", _epoch(key), error)
        return None

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint and remove the old ones. A store that fails costs the checkpoint, not the training."""
        data, epoch = encode(checkpoint), len(checkpoint.history)
        try:
            write(self._store, f"{self._folder}{epoch:04d}-{hashlib.sha256(data).hexdigest()}", data)
            for key in self._keys():
                if _epoch(key) <= epoch - KEPT:
                    self._store.delete(key)
        except StoreError as error:
            LOG.warning("train: no checkpoint after epoch %d, the training goes on: %s", epoch, error)

    def _keys(self) -> list[str]:
        return [entry.key for entry in self._store.list(self._folder)]


def encode(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as sealed .npz bytes."""
    history = json.dumps([epoch.model_dump() for epoch in checkpoint.history])
    buffer = io.BytesIO()
    np.savez(buffer, np.array(history), *checkpoint.variables)
    return sealed(buffer.getvalue())


def decode(content: bytes) -> Checkpoint:
    """The checkpoint of bytes whose seal was checked. Nothing is unpickled."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        history, *variables = (archive[f"arr_{number}"] for number in range(len(archive.files)))
    return Checkpoint(tuple(Epoch(**epoch) for epoch in json.loads(str(history))), variables)


def _epoch(key: str) -> int:
    return int(key.rpartition("/")[2].partition("-")[0])
