"""What a Prefect server needs to run the job: work pools, deployments, and the automation that finds dead runs.

`apply` is idempotent. Called by `retrain deploy` and `retrain up`; imports Prefect, and no steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from tasks.errors import ServerError
from tasks.running.liveness import HEARTBEAT
from tasks.settings import DeviceChoice

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")

POOLS = ("retrain-jobs", "retrain-training")

# The name on the server, by which an update finds it: do not change it.
AUTOMATION = "retrain: a run whose machine is gone"

# The server may be away for ten minutes (tasks.running.server) without harm to a run: this has to be longer, by the
# interval of the heartbeats and the time in which a run that lives connects again. A training run is found dead much
# sooner by the run that waits for it.
HEARTBEAT_TIMEOUT = timedelta(seconds=900)


def apply(store: str, device: DeviceChoice, notify: str = "") -> None:
    """Create or update pools, deployments and automations on the server that `PREFECT_API_URL` names.

    Args:
        store: The address of the store of all deployments.
        device: What the machines of the work pool retrain-training train on; auto means a GPU.
        notify: The notification block that reports runs that published nothing; empty: only the log.

    Raises:
        ServerError: `prefect deploy` failed.
    """
    create_pools()
    deploy(store, device, notify)
    watch_heartbeats()


def create_pools() -> None:
    """Create the work pools, for process workers; leave an existing pool of any type as it is."""
    with get_client(sync_client=True) as client:
        for name in POOLS:
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def deploy(store: str, device: DeviceChoice, notify: str = "") -> None:
    """Run `prefect deploy --all` on prefect.yaml. Raises ServerError if it fails."""
    variables = {
        "RETRAIN_STORE": store,
        "RETRAIN_DEVICE": "cpu" if device == "cpu" else "gpu",
        "RETRAIN_NOTIFY": notify,
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

    Without it, Prefect leaves a run Running for ever if its process and machine are gone, and Pending if they went
    before it began. Each event of a run restarts its timeout. Only our own heartbeats start it, so no run is judged
    that sends none: Prefect's may be slower than the timeout.
    """
    automation = AutomationCore(
        name=AUTOMATION,
        description="A run that sends no heartbeat any more is Crashed; a training is then tried again.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": ["retrain", "train"]},
            for_each={"prefect.resource.id"},
            after={HEARTBEAT, "prefect.flow-run.Pending"},
            expect={HEARTBEAT, "prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timeout,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=_message(timeout))],
    )
    with get_client(sync_client=True) as client:
        _upsert(client, automation)


def _message(timeout: timedelta) -> str:
    return f"no sign of life for {timeout.total_seconds():.0f} s: its process or its machine is gone"


def _upsert(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create or update the automation of this name, and delete duplicates: the server allows equal names."""
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
        return
    first, *duplicates = existing
    # An update makes the server forget the last event of each run, so skip one that changes nothing.
    if AutomationCore.model_validate(first.model_dump()) != automation:
        client.update_automation(first.id, automation)
    for duplicate in duplicates:
        client.delete_automation(duplicate.id)
