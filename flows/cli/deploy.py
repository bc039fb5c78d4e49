"""`retrain deploy`: work pools, deployments and automations on a Prefect server that runs already.

Called by `main`; imports Prefect only when it deploys.
"""

from __future__ import annotations

import argparse
import sys

from flows.cli.background import running_server
from flows.cli.command import DEPLOYED, OVERWRITE, Command
from flows.cli.server import existing_server, use_server
from tasks.errors import UsageError
from tasks.storage import open_store


def deploy(options: argparse.Namespace) -> int:
    """`retrain deploy`."""
    own = running_server()
    server = existing_server(own)
    if server is None:
        raise UsageError(
            "cannot deploy", "no Prefect server is set up", "Set PREFECT_API_URL, or start one: retrain up"
        )
    use_server(server)

    from deployments.setup import apply

    settings = options.settings
    named = open_store(settings.store).url if "store" in settings.model_fields_set else None
    store = apply(settings, settings.device, named, overwrite=options.overwrite, dry_run=options.dry_run)
    if store.startswith("file:") and server is not own:
        print(f"retrain: every worker has to see the folder of {store} at this path", file=sys.stderr)
    print(f"{'would deploy' if options.dry_run else 'deployed'} to {server.url}, with the store {store}")
    return 0


COMMANDS = [
    Command(
        deploy,
        "put pools, deployments and automations on the configured Prefect server",
        {
            "--overwrite": OVERWRITE,
            "--dry-run": {"action": "store_true", "help": "only show what would change"},
        },
        DEPLOYED,
    ),
]
