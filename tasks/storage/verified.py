"""Reads and writes that detect altered bytes: a network, a disk or a server may alter them silently.

Called by artifacts, registry, cached results and checkpoints, over either store. The caller decides what to do
about bytes that stay wrong.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from tasks.errors import ArtifactError, ObjectTooLarge, StoreError
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT, ObjectStore

# A second read corrects bytes that the network altered, not those that the store itself damaged.
READS = 2


def fetch(store: ObjectStore, key: str, sha256: str, size: int) -> bytes:
    """The bytes of an object of this size, read again if their SHA-256 differs; returns the last read, right or wrong.

    Raises KeyMissing, ObjectTooLarge and StoreError as `ObjectStore.get` does.
    """
    for _ in range(READS - 1):
        data = store.get(key, size).data
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return store.get(key, size).data


def write(store: ObjectStore, key: str, data: bytes) -> None:
    """Put an object and read it back. Raises StoreError if the store refuses it or returns other bytes."""
    store.put(key, data)
    require(store, key, data)


def holds(store: ObjectStore, key: str, data: bytes) -> bool:
    """Whether the store returns exactly these bytes. Raises KeyMissing and StoreError as `ObjectStore.get` does."""
    if isinstance(store, LocalStore):  # large data are not in memory twice
        return store.sha256(key) == hashlib.sha256(data).hexdigest()
    with suppress(ObjectTooLarge):
        return any(store.get(key, len(data)).data == data for _ in range(READS))
    return False


def require(store: ObjectStore, key: str, data: bytes) -> None:
    """Raise StoreError unless the store returns exactly these bytes."""
    if holds(store, key, data):
        return
    raise StoreError(
        f"cannot trust {store.address(key)}",
        "it came back altered",
        "Check the network and the disks of the store, then run again.",
    )


def sealed(content: bytes) -> bytes:
    """The content, preceded by a line with its SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unsealed(data: bytes, address: str) -> bytes:
    """The content of `sealed` bytes. Raises ArtifactError if a byte changed."""
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise _unusable(address, "its bytes were altered")
    return content


def fetch_sealed(store: ObjectStore, key: str, limit: int = LARGEST_DOCUMENT) -> bytes:
    """The content of a sealed object, read again if it is altered: the network may be the cause.

    Raises KeyMissing, StoreError, and ArtifactError if it stays altered, or has more than `limit` bytes.
    """
    for _ in range(READS - 1):
        with suppress(ArtifactError):
            return _fetch_sealed(store, key, limit)
    return _fetch_sealed(store, key, limit)


def _fetch_sealed(store: ObjectStore, key: str, limit: int) -> bytes:
    try:
        return unsealed(store.get(key, limit).data, store.address(key))
    except ObjectTooLarge as error:
        raise _unusable(store.address(key), error.why) from error


def _unusable(address: str, why: str) -> ArtifactError:
    return ArtifactError(f"cannot use {address}", why, "Run again: it is then computed again.")
