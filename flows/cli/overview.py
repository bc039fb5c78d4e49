"""`retrain models`: every model of a store, its champion, and its last run.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple

from flows.cli.command import Command
from flows.cli.layout import say
from flows.cli.models import moment
from tasks.errors import KeyMissing, ObjectTooLarge, RegistryError
from tasks.registry import Registry, model_names
from tasks.settings import MODEL_NAME
from tasks.storage import ObjectStore, open_store
from tasks.storage.objects import LARGEST_DOCUMENT, Entry

# A store of years has thousands of runs. So many of the newest ones are read: of a model whose last run is older, the
# last run is not shown, and one that was never published is not listed.
RUNS = 200
READERS = 8

# The width of what is said of a champion.
COLUMNS = 53

VERDICTS = {"publish": "passed", "reject": "rejected", "no change": "unchanged"}


class LastRun(NamedTuple):
    """What a run has judged: the model's name, the verdict of its gate, and when that was written."""

    model: str
    verdict: str
    when: datetime


def models(options: argparse.Namespace) -> int:
    """`retrain models`: 1 if there is none, or one cannot be read."""
    store = open_store(options.settings.store)
    runs = _last_runs(store)
    names = sorted({*model_names(store), *runs})
    if not names:
        raise RegistryError(
            f"there is no model in {store.url}",
            "nothing was published there, and no run has judged one",
            "Check the store's address (--store).",
        )
    code, width = 0, max(map(len, names))
    for name in names:
        try:
            champion = _champion(store, name)
        except RegistryError as error:
            code, champion = 1, f"{error.what}: {error.why}"
        run = runs.get(name)
        last = f"{moment(run.when)} {run.verdict}" if run else "–"
        say(f"{champion:<{COLUMNS}}  last run {last}", f"{name:<{width}}  ")
    return code


def _champion(store: ObjectStore, model: str) -> str:
    """The champion in a row, as `retrain champion` finds it. Raises RegistryError for one that is damaged."""
    registry = Registry(store, model)
    pointer = registry.checked_champion()
    if pointer is None:
        return "no champion"
    accuracy = registry.manifest(pointer).accuracy
    shown = "unknown" if accuracy is None else f"{accuracy:.4f}"
    return f"version {pointer.version:>3}  accuracy {shown:<7}  since {moment(pointer.moved)}"


def _last_runs(store: ObjectStore) -> dict[str, LastRun]:
    """The last run of each model, by its name, among the newest RUNS that were judged."""
    reports = [entry for entry in store.list("runs/") if re.fullmatch("runs/[^/]+/report.json", entry.key)]
    newest = sorted(reports, key=lambda entry: (entry.modified, entry.key), reverse=True)[:RUNS]
    with ThreadPoolExecutor(READERS) as threads:  # over a network one after the other would take a minute
        found = list(threads.map(lambda entry: _run(store, entry), newest))
    return {run.model: run for run in reversed(found) if run}


def _run(store: ObjectStore, entry: Entry) -> LastRun | None:
    """What a report says; None for a file that is no report, or was deleted meanwhile.

    Not read as a whole: that of another version of this project has these names too.
    """
    try:
        report = json.loads(store.get(entry.key, LARGEST_DOCUMENT).data)
    except (KeyMissing, ObjectTooLarge, ValueError, RecursionError):
        return None
    model = _text(report, "model") or _text(report, "prepared", "dataset")
    verdict = VERDICTS.get(_text(report, "decision", "verdict") or _text(report, "verdict"), "")
    if _text(report, "decision", "override", "reason"):
        verdict = "published by override"
    if not verdict or not re.fullmatch(MODEL_NAME, model):
        return None
    return LastRun(model, verdict, entry.modified)


def _text(report: object, *path: str) -> str:
    for name in path:
        report = report.get(name) if isinstance(report, Mapping) else None
    return report if isinstance(report, str) else ""


COMMANDS = [
    Command(
        models,
        "list every model of the store: champion, its accuracy and since when, and the verdict of the last run",
        fields=("store",),
    )
]
