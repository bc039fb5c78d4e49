"""The check before any work: can this store be written, read, listed and cleaned? Called by the flow, first."""

from __future__ import annotations

import uuid

from tasks.errors import KeyMissing, StoreError
from tasks.storage.objects import ObjectStore
from tasks.storage.verified import write


def check(store: ObjectStore) -> None:
    """Write, read back, list, delete and miss one small object of its own; a local store makes its directory.

    The last two matter on S3: without the permission to list, a missing object cannot be told from a forbidden one.
    Costs five requests. Raises StoreError with what to do next.
    """
    key = f"probe/{uuid.uuid4().hex}"
    write(store, key, uuid.uuid4().bytes)
    listed = [entry.key for entry in store.list(key)]
    store.delete(key)
    if listed != [key] or not _is_missing(store, key):
        raise StoreError(
            f"cannot trust {store.url}",
            "its listing or its reads lag behind its writes",
            "Use a store with read-after-write consistency.",
        )


def _is_missing(store: ObjectStore, key: str) -> bool:
    try:
        store.get(key)
    except KeyMissing:
        return True
    return False
