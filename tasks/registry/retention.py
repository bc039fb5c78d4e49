"""What of a model nothing needs any more under its retention policy: versions, and the reports of runs.

Without a policy that is nothing. Called by `retrain gc`, which shows it, asks, and decides again before each removal;
`Registry.retire` removes a version, `remove_run` a report. May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import NamedTuple

from tasks.errors import KeyMissing, ObjectTooLarge
from tasks.registry import runs
from tasks.registry.documents import Pointer
from tasks.registry.registry import Registry
from tasks.registry.runs import RunIndex
from tasks.settings import Retention
from tasks.storage import ObjectStore
from tasks.storage.objects import LARGEST_DOCUMENT, Entry
from tasks.values import RunRow


def outdated(registry: Registry, policy: Retention, before: datetime) -> dict[int, str]:
    """The versions that nothing needs any more, and why; `unneeded` has the rules.

    Raises:
        RegistryError: Pointer, history or pin is damaged, so nobody knows what is needed.
        StoreError: The store cannot be read.
    """
    if policy.keep_champions is None:
        return {}
    kept = registry.claimed()  # first: who deletes a claim has moved pointer or pin before, see `Registry.retire`
    if champion := registry.checked_champion():
        kept.add(champion.version)
    history = registry.history()
    if pin := registry.pinned():
        kept.add(pin.version)
    outdated = unneeded(history, registry.versions(), kept, policy, before, datetime.now(UTC))
    declined = {number: each.last for number, each in registry.waiting().items() if each.last and each.declined}
    outdated |= {number: f"was {last}" for number, last in declined.items() if last.at < before and number not in kept}
    return outdated


def unneeded(
    history: Sequence[Pointer],
    versions: Collection[int],
    kept: Collection[int],
    policy: Retention,
    before: datetime,
    now: datetime,
) -> dict[int, str]:
    """The former champions that can be removed, with the reason; never a version that was not champion yet.

    What stays: the champion; what it replaced; the last `keep_champions`; those that as many rollbacks lead to; the
    last champion of each month; what was champion at or after `before`; and versions that are newer than the champion:
    they were rolled back from, and a run that trains the same weights again is told so only as long as they are there.

    Args:
        history: The pointer of every champion, oldest first.
        versions: The versions that are there.
        kept: Further ones that stay: the pin, and those that become champion or are pinned at this moment.
        policy: Without `keep_champions` all stay.
        before: When the last day as champion of what can be removed ended at the latest.
        now: The time, by which months are counted.
    """
    if policy.keep_champions is None or not history:
        return {}
    champion = history[-1]
    last = dict.fromkeys(pointer.version for pointer in reversed(history) if pointer.version in versions)
    needed = {champion.version, champion.previous, *kept, *list(last)[: policy.keep_champions]}
    needed |= {*_rolled_back_to(history, versions, policy.keep_champions), *_of_months(history, policy, now)}
    ended = {one.version: following.moved for one, following in pairwise(history)}  # for the last time
    months = {None: ", nor the last of its month", 0: ""}.get(
        policy.keep_months, f", nor the last of one of the last {policy.keep_months} months"
    )
    return {
        version: f"was champion until {end:%Y-%m-%d}: not among the last {policy.keep_champions} champions{months}"
        for version, end in sorted(ended.items())
        if version in versions and version not in needed and version < champion.version and end < before
    }


def _rolled_back_to(history: Sequence[Pointer], versions: Collection[int], steps: int) -> Iterator[int]:
    """The versions that so many rollbacks, one after the other, lead to."""
    previous = {pointer.version: pointer.previous for pointer in reversed(history)}
    version = previous.pop(history[-1].version)
    while steps and version is not None:
        if version in versions:  # others were removed: a rollback passes them by
            steps -= 1
            yield version
        version = previous.pop(version, None)


def _of_months(history: Sequence[Pointer], policy: Retention, now: datetime) -> Iterator[int]:
    """The champions at the end of each month, or of the last ones."""
    for one, following in pairwise(history):
        last = _month(following.moved) - 1
        if last >= _month(one.moved) and (policy.keep_months is None or _month(now) - last < policy.keep_months):
            yield one.version


def _month(moment: datetime) -> int:
    return 12 * moment.astimezone(UTC).year + moment.astimezone(UTC).month


class OldRun(NamedTuple):
    """A run whose report can be removed: its row, None for a run that only judged, and what is removed of it.

    The row stays, as the model's page shows it, unless so many runs followed that the page has no room for it.
    """

    id: str
    row: RunRow | None
    entries: list[Entry]


def old_runs(registry: Registry, policy: Retention, now: datetime) -> list[OldRun]:
    """The runs of a model whose reports are older than the policy says, but those of versions that are there.

    A run that only judged is in no model's index: its report says of which model it is.
    """
    if policy.keep_runs_days is None:
        return []
    store, before = registry.store, now - timedelta(days=policy.keep_runs_days)
    files, versions = RunIndex(store, registry.model).files(), set(registry.versions())
    rows = {row.id: row for _, row in files}
    needed = {row.id for row in rows.values() if row.verdict == "published" and row.version in versions}
    old: dict[str, list[Entry]] = {}
    for run, group in groupby(store.list("runs/"), key=lambda entry: entry.key.split("/")[1]):
        entries = list(group)
        if run not in needed and all(entry.modified < before for entry in entries):
            old[run] = entries
    with ThreadPoolExecutor(runs.AT_ONCE) as threads:
        unknown = [run for run in old if run not in rows]
        models = dict(zip(unknown, threads.map(lambda run: _model(store, run), unknown), strict=True))
    shown = {row.id for row in sorted(rows.values(), key=lambda row: row.time)[-runs.MOST :]}
    for entry, row in files:
        if row.id not in needed | shown and row.time < before:
            old.setdefault(row.id, []).append(entry)
    return [OldRun(run, rows.get(run), old[run]) for run in old if models.get(run, registry.model) == registry.model]


def remove_run(registry: Registry, run: OldRun) -> None:
    """Remove what is left of an old run: first the link to its report, last what says of which model it is."""
    index = RunIndex(registry.store, registry.model)
    if run.row and run.row.report:
        index.put(run.row.model_copy(update={"report": False}))
    last = (f"runs/{run.id}/report.json", index.key(f"runs/{run.id}.json"))
    for entry in sorted(run.entries, key=lambda entry: entry.key in last and 1 + last.index(entry.key)):
        registry.store.delete(entry.key)


def _model(store: ObjectStore, run: str) -> str:
    """The model that a run's report names; "" where there is none that can be read."""
    try:
        report = json.loads(store.get(f"runs/{run}/report.json", LARGEST_DOCUMENT).data)
        return str(report.get("model") or report["prepared"]["dataset"])
    except (KeyMissing, ObjectTooLarge, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
