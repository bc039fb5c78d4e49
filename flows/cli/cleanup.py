"""`retrain gc` and `retrain cache`: list and remove what a store holds and nothing needs any more.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from flows.cli.command import LONGEST, Command, days
from flows.cli.layout import say
from tasks.caching.inventory import cache_items, objects_of, removable
from tasks.errors import UsageError
from tasks.model_page import rebuild
from tasks.registry import Registry
from tasks.registry.garbage import garbage
from tasks.registry.registry import STAYS
from tasks.registry.retention import old_runs, outdated, remove_run
from tasks.report.formatting import count
from tasks.settings import Retention, home
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import Entry


class Removable(NamedTuple):
    """What is removed as one: an object, or a version or a run with all its objects, and the line that shows it.

    `remove` returns False if it is needed by now. `name` tells it from others.
    """

    name: str
    line: str
    objects: list[Entry]
    remove: Callable[[], bool | None]


def gc(options: argparse.Namespace) -> int:
    """`retrain gc`."""
    store = open_store(options.settings.store)
    registry = Registry(store, options.settings.model_name)
    if nothing := registry.nothing():
        print(f"retrain: {nothing}", file=sys.stderr)
    policy = options.settings.card(Retention)

    def find(before: datetime) -> list[Removable]:
        old = [*_versions(registry, policy, before), *_runs(registry, policy)]
        return [*old, *_objects(store, garbage(store, registry, before))]

    _remove(store, find, options)
    if not nothing and not options.dry_run:
        rebuild(store, registry.model)
    return 0


def cache(options: argparse.Namespace) -> int:
    """`retrain cache [clear]`."""
    store, copies = open_store(options.settings.store), LocalStore(home() / "cache")
    if options.action == "clear":
        _remove(copies, lambda before: _objects(copies, [e for e in copies.list("") if e.modified < before]), options)
        return _remove(store, lambda before: _objects(store, removable(store, before)), options)
    items = cache_items(store)
    if not items:
        next_step = "Check the store's address (--store)."
        print(f"retrain: nothing is cached in {store.url}: no run has used it. {next_step}", file=sys.stderr)
    for item in items:
        say(item.what, f"{item.step:<11} {_moment(item.made)}  {item.size:>12,}  ")
    say(f"{_total(objects_of(items))} in {store.url}")
    say(f"{_total(list(copies.list('')))} of copies in {copies.root}")
    return 0


def _objects(store: ObjectStore, entries: Iterable[Entry]) -> list[Removable]:
    return [Removable(each.key, store.address(each.key), [each], partial(store.delete, each.key)) for each in entries]


def _versions(registry: Registry, policy: Retention, before: datetime) -> Iterator[Removable]:
    """The versions that the policy no longer keeps; whether it does is asked again before each one is removed."""

    def find() -> dict[int, str]:
        return outdated(registry, policy, before)

    for version, why in find().items():
        prefix = registry.key(f"versions/{version}/")
        entries = registry.store.list(prefix)
        if objects := [entry for entry in entries if not entry.key.removeprefix(prefix).startswith(STAYS)]:
            line = f"version {version} of {registry.model} {why}"
            yield Removable(prefix, line, objects, partial(registry.retire, version, find))


def _runs(registry: Registry, policy: Retention) -> Iterator[Removable]:
    for run in old_runs(registry, policy, datetime.now(UTC)):
        line = f"run {run.id}: its report is older than {count(policy.keep_runs_days or 0, 'day')}"
        yield Removable(f"runs/{run.id}/", line, run.entries, partial(remove_run, registry, run))


def _remove(store: ObjectStore, find: Callable[[datetime], list[Removable]], options: argparse.Namespace) -> int:
    """Remove what `find` returns for --older-than, after a confirmation."""
    before = datetime.now(UTC) - timedelta(days=options.older_than)
    found = find(before)
    for each in found:
        modified, size = max(entry.modified for entry in each.objects), sum(entry.size for entry in each.objects)
        say(each.line, f"{_moment(modified)}  {size:>12,}  ")
    total = _total_of(found)
    if not found or options.dry_run:
        say(f"{total} could be removed" if found else f"nothing to remove in {store.url}")
        return 0
    if not options.yes and not _confirmed(f"Remove {total}? [y/N] "):
        print("nothing was removed")
        return 0
    confirmed = {each.name for each in found}
    # Listed again: a run may have used some of them since the question.
    removed = [each for each in find(before) if each.name in confirmed and each.remove() is not False]
    print(f"removed {_total_of(removed)}")
    return 0


def _total_of(found: Iterable[Removable]) -> str:
    return _total([entry for each in found for entry in each.objects])


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
        "remove what no manifest names, and what the retention policy no longer keeps",
        _removal_options(7),
        fields=("store", "model", "source", *Retention.model_fields),
        description="Remove what no manifest names: versions that were never completed, stray files. With a retention "
        "policy, remove the former champions and the reports of runs that it no longer keeps.",
    ),
    Command(
        cache,
        "list what is cached: step, when it was computed, bytes; `cache clear` removes old entries",
        {"action": {"nargs": "?", "choices": ["clear"], "help": "remove old entries"}} | _removal_options(30),
        fields=("store",),
    ),
]
