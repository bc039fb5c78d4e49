"""Reads and writes that notice bytes altered on the way: a network, a disk or a server may return others, silently.

Called by artifacts, registry, cached results and checkpoints, over either store. What to do about bytes that stay wrong
is the caller's decision.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from tasks.errors import ArtifactError, StoreError
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


def sealed(content: bytes) -> bytes:
    """The content behind a line with its SHA-256."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unsealed(data: bytes, address: str) -> bytes:
    """The content of `sealed`. Raises ArtifactError where a byte of it changed."""
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ArtifactError(f"cannot use {address}", "its bytes were altered", "Run again: it is made anew.")
    return content


def fetch_sealed(store: ObjectStore, key: str) -> bytes:
    """The content of a sealed object, asked for again where it came altered: the network may have done that.

    Raises KeyMissing, StoreError, and ArtifactError where it stays altered.
    """
    for _ in range(READS - 1):
        with suppress(ArtifactError):
            return unsealed(store.get(key).data, store.address(key))
    return unsealed(store.get(key).data, store.address(key))
