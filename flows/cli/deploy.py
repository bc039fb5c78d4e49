"""`retrain deploy`: pools, deployments and automations, on a Prefect server that is there already."""

from __future__ import annotations

import argparse
import os

from flows.cli.background import running
from flows.cli.command import NOTIFY, Command
from flows.cli.server import answers, configured
from tasks.errors import ServerError, UsageError
from tasks.storage import open_store


def deploy(options: argparse.Namespace) -> int:
    """`retrain deploy`."""
    url = configured() or running()
    if url is None:
        raise UsageError(
            "cannot deploy", "no Prefect server is set up", "Set PREFECT_API_URL, or start one: retrain up"
        )
    if not answers(url):
        raise ServerError(f"cannot reach the Prefect server {url}", "it does not answer", "Start it, then deploy.")
    os.environ["PREFECT_API_URL"] = url

    from deployments.setup import apply

    store = open_store(options.settings.store).url
    apply(store, options.settings.device, options.notify)
    print(f"deployed to {url}, with the store {store}")
    return 0


COMMANDS = [
    Command(
        deploy,
        "put pools, deployments and automations on the configured Prefect server",
        {"--notify": NOTIFY},
        ("store", "device"),
    ),
]
