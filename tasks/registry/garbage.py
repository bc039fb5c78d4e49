"""What lies in a registry that no manifest names. Called by `retrain gc`, which asks before it removes any."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

from tasks.errors import RegistryError
from tasks.registry.registry import Registry
from tasks.storage.objects import Entry, ObjectStore

LOG = logging.getLogger("retrain.store")


def garbage(store: ObjectStore, registry: Registry, before: datetime) -> list[Entry]:
    """What can be removed: versions that were never completed, files that no manifest names, what a probe left.

    Only what was last written before a moment, and of a version that was never completed all or nothing, since a
    publish may be at work on it. A version whose manifest is damaged keeps everything.
    """
    found = [entry for entry in store.list("probe/") if entry.modified < before]
    base = registry.key("versions/")
    entries = store.list(base)
    for number, group in groupby(entries, lambda entry: entry.key.removeprefix(base).partition("/")[0]):
        if number.isdecimal():
            found += _unnamed(registry, int(number), list(group), before)
    return found


def _unnamed(registry: Registry, number: int, entries: list[Entry], before: datetime) -> Iterator[Entry]:
    base = registry.key(f"versions/{number}/")
    old = [entry for entry in entries if entry.modified < before]
    if f"{base}manifest.json" not in {entry.key for entry in entries}:
        yield from old if len(old) == len(entries) else []
        return
    try:
        manifest = registry.manifest(number)
    except RegistryError as error:
        LOG.warning("version %d keeps everything: %s", number, error)
        return
    named = {"manifest.json", f"content-{manifest.identity}", *(file.path for file in manifest.files)}
    yield from (entry for entry in old if entry.key.removeprefix(base) not in named)
