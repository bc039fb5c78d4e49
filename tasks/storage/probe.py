"""What a store can do, found out by doing it: called before any work, by every publish, and by `retrain doctor`.

A server may enforce the condition of a write, refuse it, or accept and ignore it, which loses updates in silence; some
compare ETags only without their quotes. So nothing is believed that was not tried, on one object of the probe's own
that is removed afterwards.
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
from tasks.storage.objects import ObjectStore
from tasks.storage.verified import write
from tasks.values import Value

Condition = Literal["enforced", "enforced without quotes", "ignored", "refused"]
Decider = Literal["pointer", "history"]
Answer = Literal["landed", "conflict", "refused"]

# What the answer to a write tells whose condition does not hold.
FALSE_CONDITION: dict[Answer, Condition] = {"landed": "ignored", "conflict": "enforced", "refused": "refused"}

# The ETag of no object: the probe's own never have it.
NO_TAG = '"00000000000000000000000000000000"'

# How many objects the writers of `race` race for.
ROUNDS = 10


class Capabilities(Value):
    """What a store does with conditional writes, and so what a publish relies on.

    `create` is a write on the condition that nothing is there, `swap` one that names the ETag it replaces.
    `decides` says what makes a version the champion: the pointer where both are enforced, else the newest entry of the
    history, which needs no condition.
    """

    create: Condition
    swap: Condition
    decides: Decider

    def tag(self, etag: str) -> str:
        """An ETag as this store wants it in a condition."""
        return etag.strip('"') if self.swap == "enforced without quotes" else etag


def check(store: ObjectStore) -> Capabilities:
    """Write, read back, write on conditions, list, delete and miss one object; a local store makes its directory.

    The last three matter too: without the permission to list, a missing object cannot be told from a forbidden one,
    and the claim of a version number is only as good as the listing. Costs about eleven requests.

    Raises StoreError with what to do next: no bucket, no credentials, a permission that is missing, a store whose
    listing or reads lag behind its writes.
    """
    with _own_key(store) as key:
        write(store, key, uuid.uuid4().bytes)
        create, swap = _create(store, key), _swap(store, key)
        listed = [entry.key for entry in store.list(key)]
    if listed != [key] or not _is_missing(store, key):
        raise StoreError(
            f"cannot trust {store.url}",
            "its listing or its reads lag behind its writes",
            "Use a store with read-after-write consistency.",
        )
    sound = create == "enforced" and swap.startswith("enforced") and not history_decides()
    return Capabilities(create=create, swap=swap, decides="pointer" if sound else "history")


def race(stores: Sequence[ObjectStore], capabilities: Capabilities) -> tuple[int, int]:
    """The most writers that won one round of creating, and one of swapping, an object: 1 and 1 where both are atomic.

    Args:
        stores: One for each writer, all of the same address.
        capabilities: What `check` found.
    """
    rounds = [_round(stores, capabilities) for _ in range(ROUNDS)]
    return max(creators for creators, _ in rounds), max(swappers for _, swappers in rounds)


def _round(stores: Sequence[ObjectStore], capabilities: Capabilities) -> tuple[int, int]:
    with _own_key(stores[0]) as key:
        creators = _winners(stores, lambda store, data: store.put_once(key, data))
        write(stores[0], key, uuid.uuid4().bytes)
        etag = capabilities.tag(stores[0].get(key).etag)
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
    """Try to create what is there already."""
    return FALSE_CONDITION[_answer(lambda: store.put_once(key, uuid.uuid4().bytes))]


def _swap(store: ObjectStore, key: str) -> Condition:
    """Try to replace by a wrong ETag, then by the right one, with and without its quotes."""

    def swap(etag: str) -> Answer:
        return _answer(lambda: store.compare_and_swap(key, uuid.uuid4().bytes, etag))

    if (wrong := swap(NO_TAG)) != "conflict":
        return FALSE_CONDITION[wrong]
    right = store.get(key).etag
    if swap(right) == "landed":
        return "enforced"
    if (wrong := swap(NO_TAG.strip('"'))) != "conflict":
        return FALSE_CONDITION[wrong]
    return "enforced without quotes" if swap(right.strip('"')) == "landed" else "refused"


def _answer(conditional: Callable[[], None]) -> Answer:
    """What became of a conditional write."""
    try:
        conditional()
    except NotOffered:
        return "refused"
    except KeyConflict:
        return "conflict"
    return "landed"


@contextmanager
def _own_key(store: ObjectStore) -> Iterator[str]:
    """A key of the probe's own; what is there afterwards is deleted."""
    key = f"probe/{uuid.uuid4().hex}"
    try:
        yield key
    except BaseException:
        with suppress(StoreError):  # what went wrong first says more
            store.delete(key)
        raise
    store.delete(key)


def _is_missing(store: ObjectStore, key: str) -> bool:
    try:
        store.get(key)
    except KeyMissing:
        return True
    return False
