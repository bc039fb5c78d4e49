"""`retrain run`: the whole job, on the configured Prefect server, that of `retrain up`, or a temporary one.

Called by `main`. Imports Prefect only when it runs, after `use_server` has set the address.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar, cast

from flows.cli.background import running_server
from flows.cli.ci_job import clear_reports, write_reports
from flows.cli.command import Command, reason
from flows.cli.layout import UNWRAPPED, coloured, columns
from flows.cli.preload import preload
from flows.cli.progress import show_progress
from flows.cli.start import ends
from flows.cli.streams import show
from flows.cli.summary import as_json, as_text
from tasks.address import Address
from tasks.errors import GateRejected, MirrorsUnreachable
from tasks.learning.backend import require_backend
from tasks.settings import (
    OF_NO_RUN,
    OF_ONE_RUN,
    BatchLimits,
    Data,
    GateSettings,
    RecipeSettings,
    Settings,
    judges_only,
    require_judgeable,
)
from tasks.storage import open_store
from tasks.values import Outcome, Value

LOG = logging.getLogger("retrain")

T = TypeVar("T")


def run(options: argparse.Namespace) -> int:
    """`retrain run`."""
    settings, force_publish = options.settings, options.force_publish or ""
    judges_only(settings.dry_run, settings.baseline, force_publish)  # this and the next ones before a server starts
    require_judgeable(settings)
    for url in filter(None, (settings.store, settings.baseline)):
        open_store(url)
    require_backend()
    clear_reports(options.report_dir)
    show_progress()
    outcome = outcome_of(lambda: on_server(settings, lambda: _run(settings, options.or_digits, force_publish)))
    write_reports(outcome, options.report_dir)
    return tell(outcome, as_one_line=options.json)


def outcome_of(call: Callable[[], Outcome]) -> Outcome:
    """How a run ends, also one that the gate rejects. Raises what any other run ends with."""
    try:
        return call()
    except GateRejected as rejection:
        if not isinstance(rejection.outcome, Outcome):
            raise
        return rejection.outcome


def tell(outcome: Outcome, *, as_one_line: bool = False) -> int:
    """Print how a run ended, and return the exit code."""
    width = columns(sys.stdout) if sys.stdout.isatty() else UNWRAPPED
    show(as_json(outcome) if as_one_line else coloured(as_text(outcome, width)))
    return GateRejected.exit_code if outcome.verdict == "rejected" else 0


def on_server(settings: Settings, call: Callable[[], T]) -> T:
    """Call a flow on the configured server, that of `retrain up`, or a temporary one."""
    from flows.cli.server import choose_server, use_server, without_prefects_heartbeats

    server = choose_server(running_server())
    use_server(server)
    LOG.info("starting a temporary Prefect server" if server.temporary else f"Prefect server {server.url}")
    with ends(at_once=True):
        preload(settings)  # while a temporary server starts
    server.wait()
    with without_prefects_heartbeats() if server.ours else nullcontext():
        return call()


def _run(settings: Settings, or_digits: bool, force_publish: str) -> Outcome:
    try:
        return call_flow(settings, force_publish)
    except MirrorsUnreachable:
        if not or_digits or settings.mirror:  # data of one's own are not replaced
            raise
        LOG.warning("no mirror of MNIST can be reached: training on scikit-learn's digits, as the model `digits`")
        return call_flow(settings.model_copy(update={"source": Address("digits")}), force_publish)


def call_flow(settings: Settings, force_publish: str = "") -> Outcome:
    """Call the flow with these settings. Raises what the run ends with."""
    from flows.retrain import retrain

    kinds: dict[str, type[Value]] = {
        "data": Data,
        "recipe": RecipeSettings,
        "gate": GateSettings,
        "batches": BatchLimits,
    }
    cards = {name: settings.card(kind) for name, kind in kinds.items()}
    others = {name: getattr(settings, name) for name in ("device", "seeds", "store", "model", "approve", *OF_ONE_RUN)}
    where = settings.train_on or "here"
    state = retrain(**cards, **others, train_on=where, force_publish=force_publish, return_state=True)
    return cast(Outcome, state.result())


COMMANDS = [
    Command(
        run,
        "run the whole job",
        {
            "--report-dir": {
                "type": Path,
                "metavar": "DIR",
                "help": "write report.html, .json and .md there as well, junit.xml, and comment.md for a pull request; "
                "files of these names that an earlier run has left are deleted first",
            },
            "--json": {"action": "store_true", "help": "print one JSON object instead of the summary"},
            "--or-digits": {
                "action": "store_true",
                "help": "if no public mirror can be reached, train on scikit-learn's digits instead",
            },
            "--force-publish": {
                "type": reason,
                "metavar": "REASON",
                "help": "publish even if the gate rejects the model; user and reason are recorded. "
                "No environment variable sets this",
            },
        },
        fields=[name for name in Settings.model_fields if name not in OF_NO_RUN],
        description="Download, preprocess, train, evaluate, judge, publish; with --dry-run all but that. "
        "Cached results are reused. "
        "Every option is also an environment variable: --min-accuracy is RETRAIN_MIN_ACCURACY.",
    ),
]
