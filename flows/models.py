"""The commands over a store: published models (whole? fetch, go back, clean up), the cache, and `retrain doctor`.

Each takes the parsed options and returns the exit code. No Prefect, no TensorFlow. Called by `flows.cli`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.commands import Command
from tasks.caching.inventory import kept, objects_of, removable
from tasks.errors import RegistryError, UsageError
from tasks.settings import home
from tasks.storage import ObjectStore, Registry, open_store
from tasks.storage.documents import Manifest, Pointer
from tasks.storage.garbage import garbage
from tasks.storage.install import install
from tasks.storage.local import LocalStore
from tasks.storage.objects import Entry
from tasks.storage.probe import Capabilities, check, race

# What `doctor` says of the ways in which a champion is decided.
DECIDES = {
    "pointer": "the pointer decides who is the champion; it is moved by compare-and-swap, and the history records it",
    "history": "the newest entry of the history decides who is the champion; the pointer is repaired to it",
}


def versions(options: argparse.Namespace) -> int:
    """`retrain versions`."""
    registry = _registry(options)
    pointer, pin, numbers = registry.champion(), registry.pinned(), registry.versions()
    if not numbers:
        print(f"no version of {registry.model} was published to {options.settings.store} yet", file=sys.stderr)
    bad = 0
    for version in numbers:
        try:
            line = _line(registry.manifest(version))
        except RegistryError as error:
            bad, line = 1, f"{version:>4}  {error.what}: {error.why}"
        named = [("champion", pointer), ("reference", pin)]
        print(line, ", ".join(name for name, found in named if found and found.version == version), sep="  ")
    return bad


def champion(options: argparse.Namespace) -> int:
    """`retrain champion`."""
    registry = _registry(options)
    pointer = _champion(registry)
    print(_line(registry.manifest(pointer)))
    print(f"since {_moment(pointer.moved)} UTC, generation {pointer.generation}, {pointer.reason}")
    print(registry.address(pointer.version, "model.keras"))
    if pin := registry.pinned():
        print(f"reference: version {pin.version}, pinned {_moment(pin.moved)} UTC, {pin.reason}")
    return 0


def show(options: argparse.Namespace) -> int:
    """`retrain show VERSION`."""
    registry = _registry(options)
    manifest = registry.manifest(options.version)
    print(registry.read(options.version, "report.md").decode())
    for file in manifest.files:
        print(f"{file.sha256}  {file.size:>10,}  {registry.address(options.version, file.path)}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """`retrain verify [VERSION]`: 1 where anything is not as it was published."""
    registry = _registry(options)
    bad = []
    for version in registry.versions() if options.version is None else [options.version]:
        bad += _reported(f"version {version}", registry.verify(version))
    if options.version is None:
        bad += _reported("champion, history and reference", registry.verify_succession())
    return 1 if bad else 0


def fetch(options: argparse.Namespace) -> int:
    """`retrain fetch DIR`."""
    registry = _registry(options)
    manifest = install(registry, options.version or _champion(registry), options.folder)
    print(f"{registry.model} version {manifest.version}, {len(manifest.files)} files verified, in {options.folder}")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """`retrain rollback`."""
    registry = _registry(options)
    pointer = registry.rollback(options.to, options.reason)
    print(f"the champion of {registry.model} is version {pointer.version}, generation {pointer.generation}")
    return 0


def pin(options: argparse.Namespace) -> int:
    """`retrain pin VERSION`."""
    registry = _registry(options)
    found = registry.pin(options.version, options.reason)
    print(f"every candidate of {registry.model} is compared with version {found.version} too")
    return 0


def unpin(options: argparse.Namespace) -> int:
    """`retrain unpin`."""
    registry = _registry(options)
    registry.unpin()
    print(f"every candidate of {registry.model} is compared with the champion alone")
    return 0


def history(options: argparse.Namespace) -> int:
    """`retrain history`."""
    registry = _registry(options)
    for pointer in registry.history():
        print(f"{pointer.generation:>4}  {_moment(pointer.moved)}  version {pointer.version}  {pointer.reason}")
    return 0


def gc(options: argparse.Namespace) -> int:
    """`retrain gc`."""
    registry, store = _registry(options), open_store(options.settings.store)
    return _remove(store, lambda before: garbage(store, registry, before), options)


def cache(options: argparse.Namespace) -> int:
    """`retrain cache [clear]`."""
    store, copies = open_store(options.settings.store), LocalStore(home() / "cache")
    if options.action == "clear":
        _remove(copies, lambda before: [entry for entry in copies.list("") if entry.modified < before], options)
        return _remove(store, lambda before: removable(store, before), options)
    found = kept(store)
    for each in found:
        print(f"{each.step:<11} {_moment(each.made)}  {each.size:>12,}  {each.what}")
    print(f"{_total(objects_of(found))} in {store.url}")
    print(f"{_total(list(copies.list('')))} of copies in {copies.root}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """`retrain doctor`."""
    url = options.settings.store
    store = open_store(url)
    print(f"{store.url}\n")
    capabilities = check(store)
    for text in ("write and read back", "list what was just written", "delete", "tell what is missing from forbidden"):
        print(f"  {text:<38} yes")
    print(f"  {'create if absent (If-None-Match)':<38} {capabilities.create}")
    print(f"  {'compare and swap (If-Match)':<38} {capabilities.swap}")
    atomic = options.race is None or _raced(url, options.race, capabilities)
    print(f"\nTherefore {DECIDES[capabilities.decides]}.")
    if not atomic and capabilities.decides == "pointer":
        print("But its conditional writes are not atomic: set RETRAIN_HISTORY_DECIDES=1 wherever the job runs.")
        return 1
    return 0


def _raced(url: str, writers: int, capabilities: Capabilities) -> bool:
    creators, swappers = race([open_store(url) for _ in range(writers)], capabilities)
    for text, winners in (("create", creators), ("swap", swappers)):
        print(f"  {f'{writers} writers race to {text}':<38} {winners} won")
    return creators <= 1 and swappers <= 1


def _remove(store: ObjectStore, find: Callable[[datetime], list[Entry]], options: argparse.Namespace) -> int:
    """Remove what is old, after a question."""
    before = datetime.now(UTC) - timedelta(days=options.older_than)
    found = find(before)
    for entry in found:
        print(f"{_moment(entry.modified)}  {entry.size:>12,}  {store.address(entry.key)}")
    total = _total(found)
    if not found or options.dry_run:
        print(f"{total} could be removed" if found else f"nothing to remove in {store.url}")
        return 0
    if not options.yes and not _agreed(f"Remove {total}? [y/N] "):
        print("nothing was removed")
        return 0
    asked = {entry.key for entry in found}
    for entry in find(before):  # looked at again: a run may have come while the question stood
        if entry.key in asked:
            store.delete(entry.key)
    print(f"removed {total}")
    return 0


def _total(entries: Collection[Entry]) -> str:
    return f"{len(entries)} objects, {sum(entry.size for entry in entries):,} bytes"


def _reported(what: str, bad: list[RegistryError]) -> list[RegistryError]:
    print(f"{what}: {f'{len(bad)} bad' if bad else 'intact'}", flush=True)
    for problem in bad:
        print(f"retrain: {problem}", file=sys.stderr, flush=True)
    return bad


def _registry(options: argparse.Namespace) -> Registry:
    return Registry(open_store(options.settings.store), options.settings.dataset)


def _champion(registry: Registry) -> Pointer:
    pointer = registry.champion()
    if pointer is None:
        raise UsageError(f"there is no champion of {registry.model}", "nothing was published yet", "See `retrain run`.")
    return pointer


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("cannot ask before removing", "there is no terminal", "Give --yes.")
    return input(question).strip().lower() in {"y", "yes"}


def _line(manifest: Manifest) -> str:
    accuracy = manifest.facts["metrics"]["accuracy"]
    return f"{manifest.version:>4}  {_moment(manifest.created)}  accuracy {accuracy:.4f}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


VERSION: dict[str, Any] = {"type": int, "metavar": "VERSION", "help": "the version's number"}


def _removing(days: int) -> dict[str, dict[str, Any]]:
    """The options of what removes: how old, and whether to ask."""
    return {
        "--older-than": {"type": float, "default": float(days), "metavar": "DAYS", "help": f"default: {days}"},
        "--dry-run": {"action": "store_true", "help": "only list it"},
        "--yes": {"action": "store_true", "help": "do not ask"},
    }


# What each command does, and its own arguments.
COMMANDS = [
    Command(versions, "list the published versions"),
    Command(champion, "tell which version is the champion"),
    Command(show, "show a version's report and files", {"version": VERSION}),
    Command(
        verify,
        "read everything that is published again, and name each file that is not what it was",
        {"version": VERSION | {"nargs": "?", "help": "only this one"}},
    ),
    Command(
        fetch,
        "bring the champion into a folder, verified, or nothing",
        {
            "folder": {"type": Path, "metavar": "DIR", "help": "a new or empty folder"},
            "--version": VERSION | {"metavar": "V", "help": "this version instead of the champion"},
        },
    ),
    Command(
        rollback,
        "make an earlier version the champion again",
        {
            "--to": VERSION | {"metavar": "V", "help": "this one. Default: the champion before this one"},
            "--reason": {"default": "rolled back", "metavar": "TEXT", "help": "why, for the history"},
        },
    ),
    Command(
        pin,
        "compare every candidate with this version too, so that quality cannot creep down in small steps",
        {
            "version": VERSION,
            "--reason": {"default": "pinned", "metavar": "TEXT", "help": "why, for `retrain champion`"},
        },
    ),
    Command(unpin, "compare candidates with the champion alone again"),
    Command(history, "list who was champion when, and why"),
    Command(
        gc,
        "remove what no manifest names: versions that were never completed, stray files",
        _removing(days=7),
    ),
    Command(
        cache,
        "show what is cached: step, when it was computed, bytes; `cache clear` removes what is old",
        {"action": {"nargs": "?", "choices": ["clear"], "help": "remove what is old"}} | _removing(days=30),
        fields=("store",),
    ),
    Command(
        doctor,
        "try what the store can do, and tell what a publish will therefore rely on",
        {"--race": {"type": int, "metavar": "N", "help": "let N writers race, to expose writes that are not atomic"}},
        fields=("store",),
    ),
]
