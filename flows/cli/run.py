"""`retrain run`: the whole job, on the configured Prefect server, that of `retrain up`, or a temporary one.

Called by `main`. Imports Prefect only when it runs, after `use_server` has set the address.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import cast

from flows.cli.background import running_server
from flows.cli.ci_job import clear_reports, write_reports
from flows.cli.command import Command, reason
from flows.cli.preload import preload
from flows.cli.progress import show_progress
from flows.cli.streams import show
from flows.cli.summary import as_json, as_text
from tasks.errors import GateRejected, MirrorsUnreachable
from tasks.settings import OF_ONE_RUN, Data, GateSettings, RecipeSettings, Settings, judges_only
from tasks.values import Outcome

LOG = logging.getLogger("retrain")


def run(options: argparse.Namespace) -> int:
    """`retrain run`."""
    settings, force_publish = options.settings, options.force_publish or ""
    judges_only(settings.dry_run, settings.baseline, force_publish)  # before a server starts
    clear_reports(options.report_dir)
    show_progress()
    try:
        outcome = _run(settings, options.or_digits, force_publish)
    except GateRejected as rejection:
        if not isinstance(rejection.outcome, Outcome):
            raise
        outcome = rejection.outcome
    write_reports(outcome, options.report_dir)
    show(as_json(outcome) if options.json else as_text(outcome))
    return GateRejected.exit_code if outcome.verdict == "rejected" else 0


def _run(settings: Settings, or_digits: bool, force_publish: str) -> Outcome:
    from flows.cli.server import choose_server, use_server

    server = choose_server(running_server())
    use_server(server)
    LOG.info("starting a temporary Prefect server" if server.temporary else f"Prefect server {server.url}")
    preload(settings)  # while a temporary server starts
    server.wait()
    try:
        return _call_flow(settings, force_publish)
    except MirrorsUnreachable:
        if not or_digits or settings.mirror:  # data of one's own are not replaced
            raise
        LOG.warning("no mirror of MNIST can be reached: training on scikit-learn's digits, as the model `digits`")
        return _call_flow(settings.model_copy(update={"dataset": "digits"}), force_publish)


def _call_flow(settings: Settings, force_publish: str) -> Outcome:
    from flows.retrain import retrain

    cards = {"data": settings.card(Data), "recipe": settings.card(RecipeSettings), "gate": settings.card(GateSettings)}
    others = {name: getattr(settings, name) for name in ("device", "seeds", "store", *OF_ONE_RUN)}
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
        fields=[name for name in Settings.model_fields if name not in {"cron", "timezone", "notify"}],
        description="Download, preprocess, train, evaluate, judge, publish; with --dry-run all but that. "
        "Cached results are reused. "
        "Every option is also an environment variable: --min-accuracy is RETRAIN_MIN_ACCURACY.",
    ),
]
