"""Automations that tell people how retraining went, through a Prefect notification block (Slack, e-mail, a webhook, …).

The server itself sends each notice, so that a missing worker is told too. Only runs of the deployments in DEPLOYMENTS
are told: not a `retrain run` that somebody types, and not `retrain/ci`. Each model has automations of its own, which
look at its deployments alone: it is told once, through its own block. Called by `deployments.setup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.automations import remove, upsert
from flows.turn import SKIPPED
from tasks.errors import UsageError

FLOWS, DEPLOYMENTS = ["retrain", "approve"], ["scheduled", "on-demand", "approve"]

# The states that are told. Events are named after them: a Rejected run is no Failed one. Unchanged is no news, and
# whoever cancels a run knows.
TOLD = ["Published", "AwaitingApproval", "Declined", "Rejected", "Failed", "Crashed"]

# A run that is due has to start within this time. A worker takes it in seconds.
START_TIMEOUT = timedelta(minutes=10)

# The server evaluates an event again when its database is busy, and a client that got no answer reports a state again.
# For this time, a run that starts or ends in the same way again is no news; a *Retry* is.
ONCE = timedelta(hours=1)
KEYS = {"prefect.resource.id", "prefect.run-count", "prefect.state-name"}

# A source that cannot be listed fails each look anew.
WATCH_ONCE = timedelta(days=1)

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
            name,
        ) from None
    if document.block_schema is None or "notify" not in document.block_schema.capabilities:
        raise UsageError(f"cannot notify through {name!r}", "it is not a notification block", "Name one that is.", name)
    return document.id


def notifications(block: UUID, prefix: str) -> list[AutomationCore]:
    """The automations that send notices through this block of the deployments whose names have this prefix."""
    of_model = f", {prefix[:-1]}" if prefix else ""
    return [
        _automation(
            f"tell how a run ended{of_model}",
            f"One notice for each scheduled or requested run that ends as {', '.join(TOLD[:-1])} or {TOLD[-1]}.",
            EventTrigger(
                **_runs(prefix),
                for_each=KEYS,
                expect={f"prefect.flow-run.{name}" for name in TOLD},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE,
            ),
            _notice(
                block,
                "{{ flow_run.state.name }}: {{ flow_run.name.partition(': ')[0] }}",  # the name repeats it
                "{{ flow_run.state.message or 'no message' }}\n{{ flow.name }}/{{ deployment.name }}: " + PAGE,
            ),
        ),
        _automation(
            f"tell of a run that does not start{of_model}",
            f"A run that is due and has not started {START_TIMEOUT.seconds // 60} minutes later, whatever the reason.",
            EventTrigger(
                **_runs(prefix),
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
                "not started: {{ flow.name }}/{{ deployment.name }}",
                "It was due at {{ flow_run.expected_start_time }} and is {{ flow_run.state.name }}: no worker of the "
                "work pool {{ flow_run.work_pool_name }} has started it. Start one, or resume the pool.\n" + PAGE,
            ),
        ),
        _automation(
            f"tell of a run that was skipped{of_model}",
            "A scheduled run that gives way to the one before, which still runs.",
            EventTrigger(
                **_runs(prefix, {"prefect.state-message": f"{SKIPPED}*"}),
                for_each=KEYS,
                expect={"prefect.flow-run.Cancelled"},
                posture=Posture.Reactive,
                threshold=1,
                within=ONCE,
            ),
            _notice(
                block,
                "skipped: {{ flow.name }}/{{ deployment.name }}",
                "It was due at {{ flow_run.expected_start_time }}, while the run before it had not ended: look whether "
                "that one still works.\n" + PAGE,
            ),
        ),
        _automation(
            f"tell of a watch that fails{of_model}",
            "New batches may wait: their source cannot be listed, or the watch crashes. One notice a day.",
            EventTrigger(
                **_runs(prefix, flows=["watch"], deployments=["watch"]),
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                threshold=1,
                within=WATCH_ONCE,
            ),
            _notice(
                block,
                "{{ flow_run.state.name }}: watch/{{ deployment.name }}",
                "{{ flow_run.state.message or 'no message' }}\n" + PAGE,
            ),
        ),
    ]


def block_of(client: SyncPrefectClient, prefix: str) -> UUID | None:
    """The block through which the runs of these deployments tell how they ended; None where nobody is told."""
    first, *_ = notifications(UUID(int=0), prefix)
    for known in client.read_automations_by_name(first.name):
        for action in known.actions:
            if isinstance(action, SendNotification):
                return action.block_document_id
    return None


def apply_notifications(client: SyncPrefectClient, block: UUID | None, prefix: str) -> None:
    """Create or update the automations of these deployments; without a block, delete them."""
    for automation in notifications(block or UUID(int=0), prefix):
        if block:
            upsert(client, automation)
        else:
            remove(client, automation.name)


def _runs(
    prefix: str,
    labels: Mapping[str, str] | None = None,
    flows: Sequence[str] = FLOWS,
    deployments: Sequence[str] = DEPLOYMENTS,
) -> dict[str, Any]:
    """Which events are looked at: those of one model's deployments' runs."""
    return {
        "match": {"prefect.resource.id": "prefect.flow-run.*", **(labels or {})},
        "match_related": [
            {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
            {
                "prefect.resource.role": "deployment",
                "prefect.resource.name": [f"{prefix}{name}" for name in deployments],
            },
        ],
    }


def _automation(name: str, description: str, trigger: EventTrigger, action: SendNotification) -> AutomationCore:
    return AutomationCore(name=f"retrain: {name}", description=description, trigger=trigger, actions=[action])


def _notice(block: UUID, subject: str, body: str) -> SendNotification:
    return SendNotification(block_document_id=block, subject=f"retrain {subject}", body=body)
