"""Lists the cache and its old entries: results, the artifacts in them, checkpoints. No Prefect.

    cache/results/<step>/<key>.json    a result: when, where and why it was computed, and its value
    cache/objects/<sha256>             an artifact that results contain
    checkpoints/<step>/<key>/…         a checkpoint of an unfinished training

Called by `retrain cache`, and by `tasks.caching.results`, which writes the results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import AwareDatetime, Field

from tasks.errors import ArtifactError, KeyMissing
from tasks.storage import ObjectStore
from tasks.storage.artifacts import OBJECTS, artifacts_in
from tasks.storage.objects import Entry
from tasks.storage.verified import fetch_sealed
from tasks.values import Value

RESULTS = "cache/results/"
CHECKPOINTS = "checkpoints/"


class CacheItem(NamedTuple):
    """One result with its artifacts, or one checkpoint. `objects[0]` is its own object."""

    step: str
    what: str
    made: datetime
    objects: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes; an artifact of two results counts for each."""
        return sum(entry.size for entry in self.objects)


class StepRecord(Value):
    """What is cached of a step: its value as plain JSON types; the seconds, when, where and why it was computed."""

    value: dict[str, Any]
    seconds: float = Field(ge=0)
    at: AwareDatetime
    worker: str
    why: str


def cache_items(store: ObjectStore) -> list[CacheItem]:
    """All results and checkpoints, the newest first."""
    objects = {entry.key: entry for entry in store.list(OBJECTS)}
    items = [_result(store, entry, objects) for entry in store.list(RESULTS)]
    items += [
        CacheItem(entry.key.split("/")[1], "checkpoint", entry.modified, (entry,)) for entry in store.list(CHECKPOINTS)
    ]
    return sorted(items, key=lambda item: item.made, reverse=True)


def removable(store: ObjectStore, before: datetime) -> list[Entry]:
    """Objects older than `before` that no newer result uses, in the order in which to remove them.

    Results precede their artifacts, so that an interrupted removal leaves no result without its artifacts. A run that
    has just read a removed result computes it again: see `tasks.caching.steps`.
    """
    items = cache_items(store)
    old = [item.objects[0] for item in items if item.made < before]
    needed = {entry.key for item in items if item.made >= before for entry in item.objects}
    artifacts = (entry for entry in store.list(OBJECTS) if entry.modified < before and entry.key not in needed)
    return [*old, *artifacts]


def is_cached(store: ObjectStore, key: str) -> bool:
    """Whether the store has a result under this key ("train/<sha256>"); its bytes are not checked."""
    return any(entry.key == f"{RESULTS}{key}.json" for entry in store.list(f"{RESULTS}{key}"))


def objects_of(items: Iterable[CacheItem]) -> set[Entry]:
    """All objects of the items, without duplicates."""
    return {entry for item in items for entry in item.objects}


def record_of(content: bytes, address: str) -> dict[str, Any]:
    """The fields of the `StepRecord` in a result as Prefect writes it: JSON inside JSON.

    Raises:
        ArtifactError: There is none. `address` names the result in the error.
    """
    try:
        record = StepRecord.model_validate(json.loads(json.loads(content)["result"])).model_dump(mode="json")
        list(artifacts_in(record["value"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise no_result(address, type(error).__name__) from error
    return record


def no_result(address: str, why: str) -> ArtifactError:
    """The error for an intact object that is no result."""
    return ArtifactError(
        f"cannot use {address}", f"it is no result of this step ({why})", "Run again: it is then computed again."
    )


def _result(store: ObjectStore, entry: Entry, objects: dict[str, Entry]) -> CacheItem:
    step = entry.key.removeprefix(RESULTS).partition("/")[0]
    try:
        record = record_of(fetch_sealed(store, entry.key), store.address(entry.key))
    except (ArtifactError, KeyMissing):
        return CacheItem(step, "damaged", entry.modified, (entry,))
    artifacts = {artifact.sha256 for artifact in artifacts_in(record["value"])}
    present = [objects[key] for sha256 in sorted(artifacts) if (key := f"{OBJECTS}{sha256}") in objects]
    lost = len(artifacts) - len(present)
    return CacheItem(step, f"{lost} artifacts lost" if lost else "result", entry.modified, (entry, *present))
