"""The check before any work: can this store be written, read and cleaned? Called by the flow, first."""

from __future__ import annotations

import uuid

from tasks.errors import StoreError
from tasks.storage.objects import ObjectStore


def check(store: ObjectStore) -> None:
    """Write, read back and delete one small object of its own. Raises StoreError with what to do next."""
    key, data = f"probe/{uuid.uuid4().hex}", uuid.uuid4().bytes
    store.put(key, data)
    found = store.get(key).data
    store.delete(key)
    if found != data:
        raise StoreError(f"cannot trust {store.url}", "it returned other bytes than were written", "Use another store.")
