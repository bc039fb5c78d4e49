"""`retrain backfill`: rebuilds the history of a source that grows, a run for each batch, in the order of their names.

Called by `main`. Imports Prefect only when it runs.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from flows.cli.command import Command
from flows.cli.progress import show_progress
from flows.cli.run import call_flow, on_server, outcome_of
from flows.cli.streams import show
from flows.cli.summary import verdict
from tasks.errors import UsageError
from tasks.learning.backend import require_backend
from tasks.settings import OF_NO_RUN, Settings, has_batches, judges_only, require_judgeable
from tasks.storage import open_store

LOG = logging.getLogger("retrain")


def backfill(options: argparse.Namespace) -> int:
    """`retrain backfill`."""
    settings: Settings = options.settings
    judges_only(settings.dry_run, settings.baseline, "")
    require_judgeable(settings)
    open_store(settings.store)
    names = _names(settings, options.first, options.last)
    require_backend()
    show_progress()
    on_server(settings, lambda: _run_all(settings, names))
    return 0


def _run_all(settings: Settings, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        _run(settings, name, place == 0)


def _run(settings: Settings, name: str, first: bool) -> None:
    """A run up to one batch, and its line. A batch that a check refuses ends the command: later ones build on it."""
    without = settings.without if first else ()
    outcome = outcome_of(lambda: call_flow(settings.model_copy(update={"until": name, "without": without})))
    show(f"{name}  {verdict(outcome)}")


def _names(settings: Settings, first: str, last: str) -> list[str]:
    """The batches to run up to.

    Raises:
        UsageError: The source has no batches, or not these.
        DataError: It cannot be listed.
    """
    from tasks.data.sources.batches import batches_of

    if not has_batches(settings.source):
        raise UsageError(
            f"cannot rebuild the history of {settings.source}",
            "only a source whose address ends in /* has batches",
            "Give the folder of the batches and /*.",
            settings.source,
        )
    names = [each.name for each in batches_of(settings.source)]
    for name in filter(None, (first, last)):
        if name not in names:
            raise UsageError(f"cannot find the batch {name}", f"{settings.source} has none of this name", "Correct it.")
    chosen = [name for name in names if first <= name and (not last or name <= last) and name not in settings.without]
    if not chosen:
        raise UsageError("cannot rebuild the history", f"no batch is between {first} and {last}", "Correct them.")
    return chosen


COMMANDS = [
    Command(
        backfill,
        "run the job once for each batch of a source that grows, in order",
        {
            "--from": {"dest": "first", "default": "", "metavar": "NAME", "help": "begin at this batch"},
            "--to": {"dest": "last", "default": "", "metavar": "NAME", "help": "end at this batch"},
        },
        fields=[name for name in Settings.model_fields if name not in {*OF_NO_RUN, "until", "refresh"}],
        description="Run the job up to each batch in the order of their names, as a run after each one's arrival would "
        "have. Into an empty store, or with another --model, this rebuilds the history: on the same kind of device "
        "with the same weights, bit for bit. Ends at a batch that a check refuses: leave it out with --without.",
    ),
]
