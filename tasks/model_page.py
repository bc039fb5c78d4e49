"""The page of a model, `models/<model>/index.html`: accuracy over runs, who was champion, what was rejected and why.

Called when a run has ended, by `retrain rollback`, `retrain page` and `retrain gc`. Imports neither Prefect nor
TensorFlow.
"""

from __future__ import annotations

import logging
import re

from tasks.errors import RegistryError, StoreError
from tasks.registry.documents import now
from tasks.registry.runs import RunIndex
from tasks.report.facts import Facts
from tasks.report.formatting import failures, verdict_line
from tasks.report.model_page import render
from tasks.storage import ObjectStore
from tasks.values import LONGEST_REASON, BatchVerdict, Decision, RunRow

LOG = logging.getLogger("retrain.store")

PAGE = "index.html"

# In the name of a row that compares with a version: on the page it is one row, whichever version that was.
VERSION = re.compile(r" v\d+$")


def row_of(run: str, facts: Facts, decision: Decision) -> RunRow:
    """The row of a run that was judged, before it is known how it ends."""
    candidate = facts.candidate
    prepared, spread = candidate.prepared, candidate.spread
    lower, upper = decision.interval
    why = ""
    if any(not check.passed for check in decision.checks):
        why = verdict_line(decision) if decision.override else failures(decision)
    return RunRow(
        id=run,
        time=now(),
        verdict="rejected",
        accuracy=round(decision.accuracy, 6),
        lower=round(lower, 4),
        upper=round(upper, 4),
        why=why[:LONGEST_REASON],
        margins={VERSION.sub("", check.name): round(check.margin, 4) for check in decision.checks},
        images=prepared.statistics["train"].images,
        batches=len(prepared.batches),
        seeds=len(spread.scores) if spread else 1,
        seconds=round(sum(facts.provenance.seconds.values()), 1),
        device=candidate.trained.device.name,
    )


def refused_row(run: str, refused: tuple[BatchVerdict, ...]) -> RunRow:
    """The row of a run that ended before its training, as a check refused new batches."""
    why = "; ".join(f"batch {each.batch}: {', '.join(each.failed)}" for each in refused)
    return RunRow(id=run, time=now(), verdict="refused", why=why[:LONGEST_REASON])


def enter(store: ObjectStore, model: str, row: RunRow) -> None:
    """Enter a run that has ended, and write the page. What only shows something ends no run: errors are warnings."""
    index = RunIndex(store, model)
    try:
        _write(index, index.add(row))
    except (StoreError, RegistryError) as error:
        LOG.warning("the page of %s is not up to date: %s", model, error)


def rebuild(store: ObjectStore, model: str) -> None:
    """Write index and page again from the files of the runs. Raises StoreError."""
    index = RunIndex(store, model)
    _write(index, index.rebuild())


def _write(index: RunIndex, lines: str) -> None:
    index.store.put(index.key(PAGE), render(index.model, lines))
