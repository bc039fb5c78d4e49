"""The data of a run: a known set, a source of one's own, or the batches of one that grows.

Called by the flows `retrain`, `calibrate` and `pin`.
"""

from __future__ import annotations

from typing import NamedTuple

from prefect.client.schemas.objects import State

from flows.states import batches_rejected
from tasks.caching.steps import Run
from tasks.check_batches import check_new_batches, record_refused
from tasks.collect import collect, joined
from tasks.data.reading import look
from tasks.download import download
from tasks.errors import UsageError
from tasks.preprocess import preprocess
from tasks.registry import Registry
from tasks.registry.batches import BatchLedger
from tasks.settings import BatchLimits, BatchName, Data, has_batches
from tasks.values import Collected, Download, Outcome, Prepared


class Choice(NamedTuple):
    """What one run says of a source that grows: the last batch, those to leave out, those that may have changed."""

    until: BatchName = ""
    without: tuple[BatchName, ...] = ()
    accept_changed: tuple[BatchName, ...] = ()


def batches_of_run(model: str, data: Data, choice: Choice, run: Run) -> Collected | None:
    """The batches that the run learns from; None for a source without batches.

    Raises:
        DataError: There is none, or one changed after a model had learned from it.
        UsageError: Batches are chosen of a source that has none.
    """
    if has_batches(data.source):
        return collect(data.source, model, data.window, *choice, run)
    if data.window or any(choice):
        raise UsageError(
            f"cannot choose batches of {data.source}",
            "only a source whose address ends in /* has batches",
            "Give the folder of the batches and /*, or no batch.",
        )
    return None


def refused_batches(
    model: str, batches: Collected | None, versions: Registry, limits: BatchLimits, run: Run
) -> State[Outcome] | None:
    """The final state of a run whose new batches a check refuses, with its report; None where the run goes on.

    Raises:
        DataError: A batch cannot be read any more.
        RegistryError: The pointer to the champion is damaged.
    """
    verdicts = check_new_batches(batches, versions, limits, run) if batches else ()
    if batches is None or not any(verdict.failed for verdict in verdicts):
        return None
    return batches_rejected(verdicts, record_refused(model, batches, verdicts, run), run)


def enter(model: str, batches: Collected | None, dry_run: bool, run: Run) -> None:
    """Enter the batches into the model's ledger, as it has learned from them; not in a run that only judges.

    Raises:
        StoreError: The store cannot be written.
    """
    if batches and not dry_run:
        entries = [(each.name, each.digest, each.seen) for each in batches.batches]
        BatchLedger(run.store, model, batches.source).enter(entries, run.id)


def prepare(data: Data, batches: Collected | None, run: Run) -> tuple[Prepared, Download]:
    """The splits that a run trains on and tests with, and where they come from.

    Raises:
        DataError: The data cannot be used.
        DownloadError: No mirror delivered a known set.
    """
    if batches is None:
        source = download(data.source, look(data.source), data.mirror, run)
    else:
        digests = {each.name: each.digest for each in batches.batches}
        source = joined(batches.source, digests, {each.name: each.seen for each in batches.batches}, run)
    return preprocess(source.data, data.validation_fraction, data.split_seed, run), source
