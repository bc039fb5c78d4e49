"""`retrain deploy`: work pools, deployments and automations on a Prefect server that runs already.

Called by `main`; imports Prefect only when it deploys.
"""

from __future__ import annotations

import argparse
import os

from flows.cli.background import running_api_url
from flows.cli.command import NOTIFY, Command
from flows.cli.server import configured_api_url, is_reachable
from tasks.errors import ServerError, UsageError
from tasks.storage import open_store


def deploy(options: argparse.Namespace) -> int:
    """`retrain deploy`."""
    url = configured_api_url() or running_api_url()
    if url is None:
        raise UsageError(
            "cannot deploy", "no Prefect server is set up", "Set PREFECT_API_URL, or start one: retrain up"
        )
    if not is_reachable(url):
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
