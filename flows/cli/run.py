"""`retrain run`: the whole job, on the configured Prefect server, the one of `retrain up`, or a temporary one."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import cast

from flows.cli.background import running
from flows.cli.ci_job import write_reports
from flows.cli.command import Command
from flows.cli.preload import preload
from flows.cli.progress import show_progress
from flows.cli.summary import as_json, as_text
from tasks.errors import GateRejected, MirrorsUnreachable
from tasks.settings import Settings
from tasks.values import Outcome

LOG = logging.getLogger("retrain")


def run(options: argparse.Namespace) -> int:
    """`retrain run`."""
    show_progress()
    try:
        outcome = _run(options.settings, options.or_digits, options.force_publish or "")
    except GateRejected as rejection:
        if not isinstance(rejection.outcome, Outcome):
            raise
        outcome = rejection.outcome
    write_reports(outcome, options.report_dir)
    print(as_json(outcome) if options.json else as_text(outcome))
    return GateRejected.exit_code if outcome.verdict == "rejected" else 0


def _run(settings: Settings, or_digits: bool, force_publish: str) -> Outcome:
    from flows.cli.server import client_settings, server

    prefect = server(otherwise=running())
    client_settings(prefect)
    LOG.info("starting a temporary Prefect server" if prefect.temporary else f"Prefect server {prefect.url}")
    # Beside a temporary server's start.
    preload(settings)
    prefect.wait()
    try:
        return _flow(settings, force_publish)
    except MirrorsUnreachable:
        if not or_digits:
            raise
        LOG.warning("no mirror of MNIST can be reached: training on scikit-learn's digits, as the model `digits`")
        return _flow(settings.model_copy(update={"dataset": "digits"}), force_publish)


def _flow(settings: Settings, force_publish: str) -> Outcome:
    from flows.retrain import retrain

    data, recipe, gate = settings.cards()
    places = {name: getattr(settings, name) for name in ("device", "train_on", "seeds", "store", "refresh")}
    state = retrain(data, recipe, gate, **places, force_publish=force_publish, return_state=True)
    return cast(Outcome, state.result())


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("give a reason")
    return text.strip()


COMMANDS = [
    Command(
        run,
        "run the whole job",
        {
            "--report-dir": {
                "type": Path,
                "metavar": "DIR",
                "help": "write report.html, .json and .md there as well, junit.xml, and comment.md for a pull request",
            },
            "--json": {"action": "store_true", "help": "print one JSON object instead of the summary"},
            "--or-digits": {
                "action": "store_true",
                "help": "where no mirror can be reached, train on scikit-learn's digits instead",
            },
            "--force-publish": {
                "type": _reason,
                "metavar": "REASON",
                "help": "publish even if the gate rejects the model; who and why is recorded with it. "
                "Not from the environment",
            },
        },
        fields=list(Settings.model_fields),
        description="Download, preprocess, train, evaluate, judge, publish. What was computed before is reused. "
        "Every option is also an environment variable: --min-accuracy is RETRAIN_MIN_ACCURACY.",
    ),
]
