"""The capabilities of a store, tested with real requests: before any work, by every publish, and by `retrain doctor`.

A server may enforce the condition of a write, refuse it, or accept and ignore it, which silently loses updates; some
compare ETags only without their quotes. So the probe tries each on one object of its own, and deletes that afterwards.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Barrier
from typing import Literal

from tasks.errors import KeyConflict, KeyMissing, NotOffered, StoreError
from tasks.settings import history_decides
from tasks.storage.objects import LARGEST_DOCUMENT, ObjectStore
from tasks.storage.verified import require, write
from tasks.values import Value

Condition = Literal["enforced", "enforced without quotes", "ignored", "refused"]
Decider = Literal["pointer", "history"]
Answer = Literal["landed", "conflict", "refused"]

# The answer to a write whose condition does not hold, and what it shows about the server.
FALSE_CONDITION: dict[Answer, Condition] = {"landed": "ignored", "conflict": "enforced", "refused": "refused"}

# An ETag that no object of the probe has.
NO_TAG = '"00000000000000000000000000000000"'

# What every run writes below.
RUN_FOLDERS = ("cache/objects/", "checkpoints/", "looks/", "runs/", "seeds/")

# The rounds of `race`; each is for a new object.
ROUNDS = 10


class Capabilities(Value):
    """What a store does with conditional writes, and so what a publish relies on.

    `create` is a write on the condition that no object exists, `swap` one that names the ETag it replaces.
    `decides` says what makes a version the champion: the pointer where both are enforced, else the newest entry of the
    history, which needs no condition.
    """

    create: Condition
    swap: Condition
    decides: Decider

    def tag(self, etag: str) -> str:
        """An ETag in the form that this store's conditions need."""
        return etag.strip('"') if self.swap == "enforced without quotes" else etag


def folders_of_run(model: str, judges_only: bool, grows: bool = False) -> tuple[str, ...]:
    """What a run writes below: with a model that it may publish, its versions; of a source that grows, its batches."""
    published = () if judges_only else (f"models/{model}/",)
    return (*RUN_FOLDERS, *published, *((f"batches/{model}/",) if grows else ()))


def check(store: ObjectStore, folders: Sequence[str] = ()) -> Capabilities:
    """Write, read back, overwrite with conditions, list and delete one object, and check that it is then missing.

    Without the permission to list, a missing object looks like a forbidden one, and claiming a version number relies on
    the listing. Costs about eleven requests, and three for each of the folders, at the same time. A local store creates
    its directory.

    Args:
        store: The store.
        folders: The prefixes that the caller will write, each with its slash: what may be written under `probe/` may be
            forbidden there.

    Raises:
        StoreError: No bucket, no credentials, a missing permission, or listings or reads that lag behind writes.
    """
    with _own_key(store) as key:
        create, swap = _create(store, key), _swap(store, key)
        listed = [entry.key for entry in store.list(key)]
    if listed != [key] or not _is_missing(store, key):
        raise StoreError(
            f"cannot trust {store.url}",
            "its listing or its reads lag behind its writes",
            "Use a store with read-after-write consistency.",
        )
    if folders:
        with ThreadPoolExecutor(len(folders)) as threads:
            list(threads.map(lambda folder: _try(store, folder), folders))
    reliable = create == "enforced" and swap.startswith("enforced") and not history_decides()
    return Capabilities(create=create, swap=swap, decides="pointer" if reliable else "history")


def race(stores: Sequence[ObjectStore], capabilities: Capabilities) -> tuple[int, int]:
    """The most winners of any round of creating, and of swapping, an object: (1, 1) if both are atomic.

    Args:
        stores: One for each writer, all with the same address.
        capabilities: The result of `check`.
    """
    rounds = [_round(stores, capabilities) for _ in range(ROUNDS)]
    return max(creators for creators, _ in rounds), max(swappers for _, swappers in rounds)


def _round(stores: Sequence[ObjectStore], capabilities: Capabilities) -> tuple[int, int]:
    with _own_key(stores[0]) as key:
        creators = _winners(stores, lambda store, data: store.put_once(key, data))
        write(stores[0], key, uuid.uuid4().bytes)
        etag = capabilities.tag(stores[0].etag(key))
        return creators, _winners(stores, lambda store, data: store.compare_and_swap(key, data, etag))


def _winners(stores: Sequence[ObjectStore], attempt: Callable[[ObjectStore, bytes], None]) -> int:
    start = Barrier(len(stores))

    def wins(store: ObjectStore) -> bool:
        data = uuid.uuid4().bytes
        start.wait()
        return _answer(lambda: attempt(store, data)) == "landed"

    with ThreadPoolExecutor(len(stores)) as threads:
        return sum(threads.map(wins, stores))


def _create(store: ObjectStore, key: str) -> Condition:
    """Create the object, read it back, then try to create it again.

    Some places tell that an object exists, and still cannot create one on this condition.
    """
    data = uuid.uuid4().bytes
    if _answer(lambda: store.put_once(key, data)) != "landed":
        write(store, key, data)
        return "refused"
    require(store, key, data)
    return FALSE_CONDITION[_answer(lambda: store.put_once(key, uuid.uuid4().bytes))]


def _swap(store: ObjectStore, key: str) -> Condition:
    """Try to replace the object with a wrong ETag, then with the right one, with and without its quotes."""

    def swap(etag: str) -> Answer:
        return _answer(lambda: store.compare_and_swap(key, uuid.uuid4().bytes, etag))

    if (answer := swap(NO_TAG)) != "conflict":
        return FALSE_CONDITION[answer]
    current = store.etag(key)
    if swap(current) == "landed":
        return "enforced"
    if (answer := swap(NO_TAG.strip('"'))) != "conflict":
        return FALSE_CONDITION[answer]
    return "enforced without quotes" if swap(current.strip('"')) == "landed" else "refused"


def _answer(conditional: Callable[[], None]) -> Answer:
    """The outcome of a conditional write."""
    try:
        conditional()
    except NotOffered:
        return "refused"
    except KeyConflict:
        return "conflict"
    return "landed"


def _try(store: ObjectStore, folder: str) -> None:
    """Write, read and delete one object in a folder. Raises StoreError."""
    with _own_key(store, folder) as key:
        write(store, key, uuid.uuid4().bytes)


@contextmanager
def _own_key(store: ObjectStore, folder: str = "") -> Iterator[str]:
    """A new key for the probe; its object is deleted afterwards."""
    key = f"{folder}probe/{uuid.uuid4().hex}"
    try:
        yield key
    except BaseException:
        with suppress(StoreError):  # the first error matters more
            store.delete(key)
        raise
    store.delete(key)


def _is_missing(store: ObjectStore, key: str) -> bool:
    try:
        store.get(key, LARGEST_DOCUMENT)
    except KeyMissing:
        return True
    return False
