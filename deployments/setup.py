"""What a Prefect server needs to run the job: work pools, deployments, automations that find dead runs and tell people.

`apply` is idempotent, and keeps what people have changed on the server. Called by `retrain deploy` and `retrain up`;
imports Prefect, and the flows only when it deploys.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.automations import upsert
from deployments.deploy import Deploy
from deployments.notifications import apply_notifications, find_block
from tasks.running.liveness import HEARTBEAT
from tasks.settings import DeviceChoice, Settings

POOLS = ("retrain-jobs", "retrain-training")

# The name on the server, by which an update finds it: do not change it.
AUTOMATION = "retrain: a run whose machine is gone"

# The server may be away for ten minutes (tasks.running.server) without harm to a run: this has to be longer, by the
# interval of the heartbeats and the time in which a run that lives connects again. A training run is found dead much
# sooner by the run that waits for it.
HEARTBEAT_TIMEOUT = timedelta(seconds=900)

# What is heard of a run that a worker has taken, until it begins and sends heartbeats.
BEFORE_BEGIN = {f"prefect.flow-run.{name}" for name in ("Pending", "Submitting", "pull-step.executed")}


def apply(
    settings: Settings,
    device: DeviceChoice,
    store: str | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    show: Callable[[str], None] = print,
) -> str:
    """Create or update pools, deployments and automations on the server that `PREFECT_API_URL` names.

    Args:
        settings: What the deployed runs shall do. Whom they tell stays as it is if `notify` is None.
        device: What the machines of the work pool retrain-training train on; auto means a GPU.
        store: The address of the store; None keeps the one that was deployed.
        overwrite: Replace what was changed on the server since the last deploy too.
        dry_run: Only show what would change.
        show: Called with each line that tells of a change, before it is made.

    Returns:
        The address of the store.

    Raises:
        UsageError: No store is named, and none was deployed; or no such schedule or notification block is possible.
    """
    block = require_block(settings.notify or "")  # before anything is changed
    with get_client(sync_client=True) as client:
        deploy = Deploy(client, settings, device, store)
        if not dry_run:
            create_pools()
        deploy.run(overwrite, dry_run, show)
        if not dry_run:
            watch_heartbeats()
        if not dry_run and settings.notify is not None:
            apply_notifications(client, block)
    return str(deploy.parameters["store"])


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
            after={HEARTBEAT, *BEFORE_BEGIN},
            expect={HEARTBEAT, "prefect.flow-run.*"},
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
