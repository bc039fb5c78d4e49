"""`retrain deploy`: work pools, deployments and automations on a Prefect server that runs already.

Called by `main`; imports Prefect only when it deploys.
"""

from __future__ import annotations

import argparse
import sys

from flows.cli.background import notices, running_server
from flows.cli.command import DEPLOYED, OVERWRITE, Command
from flows.cli.config import require_deployable
from flows.cli.layout import say
from flows.cli.server import existing_server, use_server
from tasks.errors import UsageError
from tasks.storage import open_store


def deploy(options: argparse.Namespace) -> int:
    """`retrain deploy`."""
    require_deployable(options.models)
    settings = [model.settings for model in options.models]
    named = [open_store(each.store).url if "store" in each.model_fields_set else None for each in settings]
    own = running_server()
    server = existing_server(own)
    if server is None:
        raise UsageError(
            "cannot deploy", "no Prefect server is set up", "Set PREFECT_API_URL, or start one: retrain up"
        )
    use_server(server)

    from deployments.deploy import Target
    from deployments.setup import apply

    targets = [Target(each, each.device, store) for each, store in zip(settings, named, strict=True)]
    log = notices() if server is own else None
    stores = apply(targets, overwrite=options.overwrite, dry_run=options.dry_run, show=say, log=log)
    for store in dict.fromkeys(stores):
        if store.startswith("file:") and server is not own:
            print(f"retrain: every worker has to see the folder of {store} at this path", file=sys.stderr)
    for network in filter(None, dict.fromkeys(each.network for each in settings)):
        print(f"retrain: every worker has to find the module of the network {network}", file=sys.stderr)
    for each, store in zip(settings, stores, strict=True):
        what = f"{'would deploy' if options.dry_run else 'deployed'} {each.model_name}"
        say(f"{what} to {server.url}, with the store {store}")
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
        several=True,
    ),
]
