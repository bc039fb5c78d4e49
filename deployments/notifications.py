"""Automations that tell people how retraining went, through a Prefect notification block (Slack, e-mail, a webhook, …).

The server itself sends each notice, so that a missing worker is told too. Only runs of the deployments in DEPLOYMENTS
are told: not a `retrain run` that somebody types, and not `retrain/ci`. Called by `deployments.setup`.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.automations import remove, upsert
from flows.turn import SKIPPED
from tasks.errors import UsageError

FLOW, DEPLOYMENTS = "retrain", ["scheduled", "on-demand"]

# The states that are told. Events are named after them: a Rejected run is no Failed one. Unchanged is no news, and
# whoever cancels a run knows.
TOLD = ["Published", "Rejected", "Failed", "Crashed"]

# A run that is due has to start within this time. A worker takes it in seconds.
START_TIMEOUT = timedelta(minutes=10)

# The server evaluates an event again when its database is busy, and a client that got no answer reports a state again.
# For this time, a run that starts or ends in the same way again is no news; a *Retry* is.
ONCE = timedelta(hours=1)
KEYS = {"prefect.resource.id", "prefect.run-count", "prefect.state-name"}

PAGE = "{{ flow_run | ui_url }}"


def find_block(client: SyncPrefectClient, name: str) -> UUID | None:
    """The id of the notification block `type/name`; None for an empty name.

    Raises:
        UsageError: The server has no such block, or it is not one that notifies.
    """
    if not name:
        return None
    kind, _, short = name.partition("/")
    try:
        document = client.read_block_document_by_name(short, kind)
    except ObjectNotFound:
        raise UsageError(
            f"cannot notify through {name!r}",
            "the server has no such block",
            "Create it in the interface under Blocks, and name it as type/name, such as slack-webhook/ops.",
        ) from None
    if document.block_schema is None or "notify" not in document.block_schema.capabilities:
        raise UsageError(f"cannot notify through {name!r}", "it is not a notification block", "Name one that is.")
    return document.id


def notifications(block: UUID) -> list[AutomationCore]:
    """The automations that send notices through this block."""
    return [
        _automation(
            "tell how a run ended",
            f"One notice for each scheduled or requested run that ends as {', '.join(TOLD[:-1])} or {TOLD[-1]}.",
            EventTrigger(
                **_runs(),
                for_each=KEYS,
                expect={f"prefect.flow-run.{name}" for name in TOLD},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE,
            ),
            _notice(
                block,
                "{{ flow_run.state.name }}: {{ flow_run.name }}",
                "{{ flow_run.state.message or 'no message' }}\nretrain/{{ deployment.name }}: " + PAGE,
            ),
        ),
        _automation(
            "tell of a run that does not start",
            f"A run that is due and has not started {START_TIMEOUT.seconds // 60} minutes later, whatever the reason.",
            EventTrigger(
                **_runs(),
                for_each={"prefect.resource.id"},
                after={"prefect.flow-run.Late", "prefect.flow-run.Pending"},
                expect={
                    f"prefect.flow-run.{name}" for name in ["Running", "Cancelling", "Cancelled", "Unchanged", *TOLD]
                },
                posture=Posture.Proactive,
                threshold=1,
                within=START_TIMEOUT,
            ),
            _notice(
                block,
                "not started: retrain/{{ deployment.name }}",
                "It was due at {{ flow_run.expected_start_time }} and is {{ flow_run.state.name }}: no worker of the "
                "work pool {{ flow_run.work_pool_name }} has started it. Start one, or resume the pool.\n" + PAGE,
            ),
        ),
        _automation(
            "tell of a run that was skipped",
            "A scheduled run that gives way to the one before, which still runs.",
            EventTrigger(
                **_runs({"prefect.state-message": f"{SKIPPED}*"}),
                for_each=KEYS,
                expect={"prefect.flow-run.Cancelled"},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE,
            ),
            _notice(
                block,
                "skipped: retrain/{{ deployment.name }}",
                "It was due at {{ flow_run.expected_start_time }}, while the run before it had not ended: look whether "
                "that one still works.\n" + PAGE,
            ),
        ),
    ]


def apply_notifications(client: SyncPrefectClient, block: UUID | None) -> None:
    """Create or update the automations; without a block, delete them."""
    for automation in notifications(block or UUID(int=0)):
        if block:
            upsert(client, automation)
        else:
            remove(client, automation.name)


def _runs(labels: dict[str, str] | None = None) -> dict[str, object]:
    """Which events are looked at: those of our deployments' runs."""
    return {
        "match": {"prefect.resource.id": "prefect.flow-run.*", **(labels or {})},
        "match_related": [
            {"prefect.resource.role": "flow", "prefect.resource.name": FLOW},
            {"prefect.resource.role": "deployment", "prefect.resource.name": DEPLOYMENTS},
        ],
    }


def _automation(name: str, description: str, trigger: EventTrigger, action: SendNotification) -> AutomationCore:
    return AutomationCore(name=f"retrain: {name}", description=description, trigger=trigger, actions=[action])


def _notice(block: UUID, subject: str, body: str) -> SendNotification:
    return SendNotification(block_document_id=block, subject=f"retrain {subject}", body=body)
