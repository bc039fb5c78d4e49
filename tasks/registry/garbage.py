"""Files in a registry that no manifest names. Called by `retrain gc`, which asks before it removes any.

May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

from tasks.errors import RegistryError
from tasks.registry.champion import CLAIMS
from tasks.registry.documents import NUMBER
from tasks.registry.registry import STAYS, TOMBSTONE, Registry
from tasks.storage.objects import Entry, ObjectStore
from tasks.storage.probe import folders_of_run

LOG = logging.getLogger("retrain.store")

# Where `tasks.registry.answers` keeps what the seeds of a version answer.
ANSWERS = "seeds/"


def garbage(store: ObjectStore, registry: Registry, before: datetime) -> list[Entry]:
    """The files that can be removed: incomplete versions, files that no manifest names, claims, a probe's leftovers.

    Lists only files last written before `before`. Lists an incomplete version only if all its files are that old, as a
    publish may still write it, and never its markers: they keep its number taken. Lists nothing of a version with a
    damaged manifest. Of a version that was retired, lists what a killed removal has left, and what its seeds answer,
    however old it is: nobody writes there.
    """
    probed = ("", *folders_of_run(registry.model, judges_only=False, grows=True))
    leftovers = (*(f"{folder}probe/" for folder in probed), registry.key(CLAIMS))
    removable = [entry for prefix in leftovers for entry in store.list(prefix) if entry.modified < before]
    base = registry.key("versions/")
    entries = list(store.list(base))
    for number, group in groupby(entries, lambda entry: entry.key.removeprefix(base).partition("/")[0]):
        if NUMBER.fullmatch(number):
            removable += _unnamed(registry, int(number), list(group), before)
    gone = {each.identity for each in registry.retired().values()}
    there = {registry.key(f"versions/{number}") for number in registry.versions()}
    gone -= {
        name.removeprefix("content-") for folder, _, name in (e.key.rpartition("/") for e in entries) if folder in there
    }
    answers = store.list(ANSWERS) if gone else ()
    return [*removable, *(entry for entry in answers if entry.key.removeprefix(ANSWERS).partition("-")[0] in gone)]


def _unnamed(registry: Registry, number: int, entries: list[Entry], before: datetime) -> Iterator[Entry]:
    base = registry.key(f"versions/{number}/")
    old = [entry for entry in entries if entry.modified < before]
    if f"{base}manifest.json" not in {entry.key for entry in entries}:
        retired = any(entry.key.startswith(f"{base}{TOMBSTONE}") for entry in entries)
        if retired:
            yield from (entry for entry in entries if not entry.key.removeprefix(base).startswith(STAYS))
        elif len(old) == len(entries):
            yield from (entry for entry in old if not entry.key.startswith(f"{base}content-"))
        return
    try:
        manifest = registry.manifest(number)
    except RegistryError as error:
        LOG.warning("version %d keeps everything, as its manifest cannot be read: %s", number, error)
        return
    named = {"manifest.json", f"content-{manifest.identity}", *(file.path for file in manifest.files)}
    yield from (entry for entry in old if entry.key.removeprefix(base) not in named)
