"""What a Prefect server needs to run the job: work pools, deployments, and who notices that a machine is gone.

`apply` can be called as often as one likes: it changes what is there and adds nothing twice. Called by `retrain deploy`
and `retrain up`; imports Prefect.
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
from tasks.settings import DeviceChoice

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")

POOLS = ("cpu", "gpu")

AUTOMATION = "retrain: a run whose machine is gone"

# Six heartbeats in a row: see prefect.yaml for their frequency. With fewer than three, healthy runs were declared dead.
SILENCE = timedelta(seconds=180)


def apply(store: str, device: DeviceChoice, notify: str = "") -> None:
    """Bring the server that `PREFECT_API_URL` names to what the job needs.

    Args:
        store: Where the deployments keep everything.
        device: What the machines of the work pool gpu train on; auto is a GPU.
        notify: The notification block that is told of runs that published nothing.

    Raises:
        ServerError: The deployments cannot be made.
    """
    create_pools()
    deploy(store, device, notify)
    watch_heartbeats()


def create_pools() -> None:
    """The work pools, for process workers; one that is there already, of whatever type, is left as it is."""
    with get_client(sync_client=True) as client:
        for name in POOLS:
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def deploy(store: str, device: DeviceChoice, notify: str = "") -> None:
    """What `prefect deploy --all` makes of prefect.yaml."""
    read = {
        "RETRAIN_STORE": store,
        "RETRAIN_DEVICE": "cpu" if device == "cpu" else "gpu",
        "RETRAIN_NOTIFY": notify,
    }
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    done = subprocess.run(command, env={**os.environ, **read}, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
        raise ServerError("cannot make the deployments", lines[-1], f"For all it says: {' '.join(command[1:])}")


def watch_heartbeats(silence: timedelta = SILENCE) -> None:
    """Declare a run Crashed that has been silent for so long: its process and its machine can no longer say so.

    Prefect leaves it Running for ever. Any event of the run counts as a sign of life, and its last one as its end.
    """
    wanted = AutomationCore(
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
            within=silence,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=_message(silence))],
    )
    with get_client(sync_client=True) as client:
        _upsert(client, wanted)


def _message(silence: timedelta) -> str:
    return f"no sign of life for {silence.total_seconds():.0f} s: its process or its machine is gone"


def _upsert(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """`prefect automation create` would add another one each time."""
    first, *more = [*client.read_automations_by_name(wanted.name), None]
    if first is None:
        client.create_automation(wanted)
        return
    # An update forgets which runs were heard last, so one that changes nothing is left out.
    if AutomationCore.model_validate(first.model_dump()) != wanted:
        client.update_automation(first.id, wanted)
    for extra in more:
        if extra:
            client.delete_automation(extra.id)
