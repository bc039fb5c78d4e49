"""`retrain deploy`: work pools, deployments and automations on a Prefect server that runs already.

Called by `main`; imports Prefect only when it deploys.
"""

from __future__ import annotations

import argparse

from flows.cli.background import running_server
from flows.cli.command import NOTIFY, Command
from flows.cli.server import existing_server, use_server
from tasks.errors import UsageError
from tasks.storage import open_store


def deploy(options: argparse.Namespace) -> int:
    """`retrain deploy`."""
    server = existing_server(running_server())
    if server is None:
        raise UsageError(
            "cannot deploy", "no Prefect server is set up", "Set PREFECT_API_URL, or start one: retrain up"
        )
    use_server(server)

    from deployments.setup import apply

    store = open_store(options.settings.store).url
    apply(store, options.settings.device, options.notify or "")
    print(f"deployed to {server.url}, with the store {store}")
    return 0


COMMANDS = [
    Command(
        deploy,
        "put pools, deployments and automations on the configured Prefect server",
        {"--notify": NOTIFY},
        ("store", "device"),
    ),
]
