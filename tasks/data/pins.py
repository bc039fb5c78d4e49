"""Pins of known data sets that nobody has verified here: what a store has seen first is what it takes from then on.

So a mirror that serves other images later is an error, in every run of this store, as for a set that is pinned in
`tasks.data.datasets`. Called by the step `download`.
"""

from __future__ import annotations

import hashlib
import json

from tasks.data.content import Split
from tasks.data.sources import Contents
from tasks.errors import DataError, KeyMissing
from tasks.storage.objects import LARGEST_DOCUMENT, ObjectStore
from tasks.storage.verified import write


def require_pinned(store: ObjectStore, name: str, contents: Contents) -> None:
    """Compare a data set with what the store has seen of it; the first time, keep that.

    Raises:
        DataError: It is another one, or the pin is damaged.
        StoreError: The store cannot be read or written.
    """
    key, digests = f"pins/{name}.json", {"train": _digest(contents.train), "test": _digest(contents.test)}
    try:
        pinned = json.loads(store.get(key, LARGEST_DOCUMENT).data)
    except KeyMissing:
        write(store, key, json.dumps(digests, sort_keys=True).encode())
        return
    except (ValueError, RecursionError):
        pinned = None
    if pinned != digests:
        raise DataError(
            f"cannot use the data set {name}",
            f"it is not the one that {store.address(key)} has recorded when it was first used",
            "Use another mirror; if the new images are right, delete that file.",
        )


def _digest(split: Split | None) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in split or ())).hexdigest()
