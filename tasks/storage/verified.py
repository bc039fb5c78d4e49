"""Reads and writes that notice bytes altered on the way: a network, a disk or a server may return others, silently.

Called by artifacts and registry, over either store. What to do about bytes that stay wrong is the caller's decision.
"""

from __future__ import annotations

import hashlib

from tasks.errors import StoreError
from tasks.storage.objects import ObjectStore

# Bytes that a network altered are right when asked for again; those that the store lost are not.
READS = 2


def fetch(store: ObjectStore, key: str, sha256: str) -> bytes:
    """An object's bytes, asked for again where their SHA-256 is another; the last answer, right or wrong.

    Raises KeyMissing and StoreError as `ObjectStore.get` does.
    """
    for _ in range(READS - 1):
        data = store.get(key).data
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return store.get(key).data


def write(store: ObjectStore, key: str, data: bytes) -> None:
    """Put an object and read it back. Raises StoreError where the store refuses it or returns other bytes."""
    store.put(key, data)
    require(store, key, data)


def require(store: ObjectStore, key: str, data: bytes) -> None:
    """Raise StoreError unless the store returns exactly these bytes."""
    if fetch(store, key, hashlib.sha256(data).hexdigest()) != data:
        raise StoreError(
            f"cannot trust {store.address(key)}",
            "it came back altered",
            "Check the network and the disks of the store, then run again.",
        )
