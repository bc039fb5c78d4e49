"""What the cache holds, and what of it is old: results, the artifacts they name, checkpoints. No Prefect.

    cache/results/<step>/<key>.json    a result: when, where and why it was computed, and its value
    cache/objects/<sha256>             an artifact that results name
    checkpoints/<step>/<key>/…         a training that is not finished

Called by `retrain cache`, and by `tasks.caching.results`, which writes the results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from tasks.errors import ArtifactError, KeyMissing
from tasks.storage import ObjectStore
from tasks.storage.artifacts import OBJECTS, named
from tasks.storage.objects import Entry
from tasks.storage.verified import fetch_sealed

RESULTS = "cache/results/"
CHECKPOINTS = "checkpoints/"


class CacheItem(NamedTuple):
    """One result, or one checkpoint, with the objects that it consists of."""

    step: str
    what: str
    made: datetime
    objects: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes; an artifact that two results name counts for each."""
        return sum(entry.size for entry in self.objects)


def cache_items(store: ObjectStore) -> list[CacheItem]:
    """All results and checkpoints, the newest first."""
    objects = {entry.key: entry for entry in store.list(OBJECTS)}
    found = [_result(store, entry, objects) for entry in store.list(RESULTS)]
    found += [
        CacheItem(entry.key.split("/")[1], "checkpoint", entry.modified, (entry,)) for entry in store.list(CHECKPOINTS)
    ]
    return sorted(found, key=lambda each: each.made, reverse=True)


def removable(store: ObjectStore, before: datetime) -> list[Entry]:
    """What was made before a moment and is named by no younger result, in the order in which to remove it.

    Results go before the artifacts they name, so that a removal that stops halfway leaves no result without them. A
    run that found a result just before it went makes it again: see `tasks.caching.steps`.
    """
    found = cache_items(store)
    old = [each.objects[0] for each in found if each.made < before]
    needed = {entry.key for each in found if each.made >= before for entry in each.objects}
    artifacts = (entry for entry in store.list(OBJECTS) if entry.modified < before and entry.key not in needed)
    return [*old, *artifacts]


def is_cached(store: ObjectStore, key: str) -> bool:
    """Whether the result of a key is there."""
    return any(entry.key == f"{RESULTS}{key}.json" for entry in store.list(f"{RESULTS}{key}"))


def objects_of(found: Iterable[CacheItem]) -> set[Entry]:
    """Every object once."""
    return {entry for each in found for entry in each.objects}


def value_of(content: bytes) -> Any:
    """What a step returned, as plain JSON types, from a result as Prefect writes it: JSON inside JSON."""
    return json.loads(json.loads(content)["result"])


def _result(store: ObjectStore, entry: Entry, objects: dict[str, Entry]) -> CacheItem:
    step = entry.key.removeprefix(RESULTS).partition("/")[0]
    try:
        artifacts = {artifact.sha256 for artifact in named(value_of(fetch_sealed(store, entry.key)))}
    except (ArtifactError, KeyMissing):
        return CacheItem(step, "damaged", entry.modified, (entry,))
    there = [objects[key] for sha256 in sorted(artifacts) if (key := f"{OBJECTS}{sha256}") in objects]
    lost = len(artifacts) - len(there)
    return CacheItem(step, f"{lost} artifacts lost" if lost else "result", entry.modified, (entry, *there))
