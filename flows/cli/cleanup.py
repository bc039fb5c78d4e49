"""`retrain gc` and `retrain cache`: list and remove what a store holds beside its published versions.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.cli.command import LONGEST, Command, days
from flows.cli.layout import say
from tasks.caching.inventory import cache_items, objects_of, removable
from tasks.errors import UsageError
from tasks.model_page import rebuild
from tasks.registry import Registry
from tasks.registry.garbage import garbage
from tasks.report.formatting import count
from tasks.settings import home
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import Entry


def gc(options: argparse.Namespace) -> int:
    """`retrain gc`."""
    store = open_store(options.settings.store)
    registry = Registry(store, options.settings.model_name)
    if nothing := registry.nothing():
        print(f"retrain: {nothing}", file=sys.stderr)
    _remove(store, lambda before: garbage(store, registry, before), options)
    if not nothing and not options.dry_run:
        rebuild(store, registry.model)
    return 0


def cache(options: argparse.Namespace) -> int:
    """`retrain cache [clear]`."""
    store, copies = open_store(options.settings.store), LocalStore(home() / "cache")
    if options.action == "clear":
        _remove(copies, lambda before: [entry for entry in copies.list("") if entry.modified < before], options)
        return _remove(store, lambda before: removable(store, before), options)
    items = cache_items(store)
    if not items:
        next_step = "Check the store's address (--store)."
        print(f"retrain: nothing is cached in {store.url}: no run has used it. {next_step}", file=sys.stderr)
    for item in items:
        say(item.what, f"{item.step:<11} {_moment(item.made)}  {item.size:>12,}  ")
    say(f"{_total(objects_of(items))} in {store.url}")
    say(f"{_total(list(copies.list('')))} of copies in {copies.root}")
    return 0


def _remove(store: ObjectStore, find: Callable[[datetime], list[Entry]], options: argparse.Namespace) -> int:
    """Remove what `find` returns for --older-than, after a confirmation."""
    before = datetime.now(UTC) - timedelta(days=options.older_than)
    entries = find(before)
    for entry in entries:
        say(store.address(entry.key), f"{_moment(entry.modified)}  {entry.size:>12,}  ")
    total = _total(entries)
    if not entries or options.dry_run:
        say(f"{total} could be removed" if entries else f"nothing to remove in {store.url}")
        return 0
    if not options.yes and not _confirmed(f"Remove {total}? [y/N] "):
        print("nothing was removed")
        return 0
    confirmed = {entry.key for entry in entries}
    for entry in find(before):  # listed again: a run may have used some of them since the question
        if entry.key in confirmed:
            store.delete(entry.key)
    print(f"removed {total}")
    return 0


def _total(entries: Collection[Entry]) -> str:
    return f"{count(len(entries), 'object')}, {count(sum(entry.size for entry in entries), 'byte')}"


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("cannot ask before removing", "there is no terminal", "Give --yes.")
    return input(question).strip().lower() in {"y", "yes"}


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _removal_options(default: int) -> dict[str, dict[str, Any]]:
    """The options of a command that removes: the age, and whether to ask."""
    return {
        "--older-than": {
            "type": days,
            "default": float(default),
            "metavar": "DAYS",
            "help": f"at least this old, in days: 0 to {LONGEST:,}. Default: {default}",
        },
        "--dry-run": {"action": "store_true", "help": "only list it"},
        "--yes": {"action": "store_true", "help": "do not ask"},
    }


COMMANDS = [
    Command(
        gc,
        "remove what no manifest names: versions that were never completed, stray files",
        _removal_options(7),
    ),
    Command(
        cache,
        "list what is cached: step, when it was computed, bytes; `cache clear` removes old entries",
        {"action": {"nargs": "?", "choices": ["clear"], "help": "remove old entries"}} | _removal_options(30),
        fields=("store",),
    ),
]
