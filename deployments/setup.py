"""What a Prefect server needs to run the job: work pools, deployments, automations that find dead runs and tell people.

`apply` is idempotent, and keeps what people have changed on the server. Called by `retrain deploy` and `retrain up`;
imports Prefect, and the flows only when it deploys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.automations import upsert
from deployments.deploy import Deploy, Target, remove_obsolete
from deployments.notice_log import notice_log
from deployments.notifications import apply_notifications, block_of, find_block
from tasks.running.liveness import HEARTBEAT

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
    targets: Sequence[Target],
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    show: Callable[[str], None] = print,
    log: Path | None = None,
) -> list[str]:
    """Create or update pools, deployments and automations on the server that `PREFECT_API_URL` names.

    Nothing is changed unless all of it can be. What is there of other models stays as it is.

    Args:
        targets: The models, whose deployments have different names; what the machines of the work pool retrain-training
            train on as the device, where auto means a GPU. Whom runs tell stays as it is if `notify` is None.
        overwrite: Replace what was changed on the server since the last deploy too.
        dry_run: Only show what would change.
        show: Called with each line that tells of a change, before it is made.
        log: A file on the server's machine to which runs tell where nobody was ever named. Only a server of
            `retrain up` can write one.

    Returns:
        The address of each model's store.

    Raises:
        UsageError: No store is named, and none was deployed; or no such schedule or notification block is possible.
    """
    with get_client(sync_client=True) as client:
        blocks = [find_block(client, target.settings.notify or "") for target in targets]
        deploys = [Deploy(client, *target) for target in targets]
        # By name: the worker's deployment is the same for all models.
        planned = {change.name: (deploy, change) for deploy in deploys for change in deploy.changes(overwrite)}
        if not dry_run:
            create_pools()
        for deploy, change in planned.values():
            for line in change.lines():
                show(line)
            if not dry_run:
                deploy.put(change)
        remove_obsolete(client, dry_run, show)
        if not dry_run:
            watch_heartbeats()
            own = notice_log(log) if log else None
            for target, block in zip(targets, blocks, strict=True):
                prefix = target.settings.deployment_prefix
                if target.settings.notify is not None:
                    apply_notifications(client, block, prefix)
                elif own and block_of(client, prefix) in {None, own}:
                    apply_notifications(client, own, prefix)
    return [str(deploy.parameters["store"]) for deploy in deploys]


def require_block(name: str) -> None:
    """Raise UsageError if the server has no such notification block; an empty name needs none."""
    with get_client(sync_client=True) as client:
        find_block(client, name)


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
            match_related={
                "prefect.resource.role": "flow",
                "prefect.resource.name": ["retrain", "train", "watch", "approve"],
            },
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
