"""What a Prefect server needs to run the job: work pools, deployments, automations that find dead runs and tell people.

`apply` is idempotent. Called by `retrain deploy` and `retrain up`; imports Prefect, and no steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.automations import upsert
from deployments.notifications import apply_notifications, find_block
from tasks.errors import ServerError
from tasks.settings import DeviceChoice

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")

POOLS = ("retrain-jobs", "retrain-training")

# The name on the server, by which an update finds it: do not change it.
AUTOMATION = "retrain: a run whose machine is gone"

# Six missed heartbeats; prefect.yaml has their interval. With fewer than three, healthy runs were declared Crashed.
HEARTBEAT_TIMEOUT = timedelta(seconds=180)


def apply(store: str, device: DeviceChoice, notify: str = "") -> None:
    """Create or update pools, deployments and automations on the server that `PREFECT_API_URL` names.

    Args:
        store: The address of the store of all deployments.
        device: What the machines of the work pool retrain-training train on; auto means a GPU.
        notify: The notification block that tells how scheduled and requested runs ended; empty: nobody is told.

    Raises:
        ServerError: `prefect deploy` failed.
        UsageError: The server has no such notification block.
    """
    block = require_block(notify)  # before anything is changed
    create_pools()
    deploy(store, device)
    watch_heartbeats()
    with get_client(sync_client=True) as client:
        apply_notifications(client, block)


def require_block(name: str) -> UUID | None:
    """The id of the notification block; None for an empty name. Raises UsageError if the server has no such block."""
    with get_client(sync_client=True) as client:
        return find_block(client, name)


def create_pools() -> None:
    """Create the work pools, for process workers; leave an existing pool of any type as it is."""
    with get_client(sync_client=True) as client:
        for name in POOLS:
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def deploy(store: str, device: DeviceChoice) -> None:
    """Run `prefect deploy --all` on prefect.yaml. Raises ServerError if it fails."""
    variables = {
        "RETRAIN_STORE": store,
        "RETRAIN_DEVICE": "cpu" if device == "cpu" else "gpu",
    }
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    result = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["it printed nothing"]
        raise ServerError(
            "cannot make the deployments", lines[-1], f"For its whole output: python {' '.join(command[1:])}"
        )


def watch_heartbeats(timeout: timedelta = HEARTBEAT_TIMEOUT) -> None:
    """Create the automation that declares a run Crashed if no event of it arrives within the timeout.

    Without it, Prefect leaves a run Running for ever if its process and machine are gone. Each event of a run restarts
    its timeout.
    """
    automation = AutomationCore(
        name=AUTOMATION,
        description="A run that sends no heartbeat any more is Crashed; a training is then tried again.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": ["retrain", "train"]},
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timeout,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=_message(timeout))],
    )
    with get_client(sync_client=True) as client:
        upsert(client, automation)


def _message(timeout: timedelta) -> str:
    return f"no sign of life for {timeout.total_seconds():.0f} s: its process or its machine is gone"
