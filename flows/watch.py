"""Notices new batches of a source that grows: `watch/watch`, every five minutes, on the work pool `retrain-jobs`.

A look lists the source and starts the model's deployment, once per listing: the run's idempotency key is the deployment
with a digest of the batches' names and `seen`, and the server makes no second run of a key. So it does no harm if a
look is killed, if two are at work, or if none was for days. Imports neither TensorFlow nor the job.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment as own_deployment
from prefect.states import Completed, Failed

from flows.turn import AT_WORK, SKIPPED
from tasks.data.sources.batches import BatchFiles, batches_of
from tasks.errors import RetrainError, UsageError
from tasks.running.liveness import beats
from tasks.running.server import wait_for_server
from tasks.settings import EACH, has_batches

LOG = logging.getLogger("retrain.watch")

# The runs that one listing may start: a further one only if the one before crashed, or gave way to another.
TRIES = 3

BUSY = [StateType.SCHEDULED, StateType.PENDING, *AT_WORK]

# Looks that did nothing; the next one deletes them, as there are 288 each day.
UNCHANGED, WAITING = "Unchanged", "Waiting"

wait_for_server()


@flow(name="watch", flow_run_name="watch for {deployment}")
@beats
def watch(deployment: str) -> State[Any]:
    """Start a deployment if its source has batches for which it was not started yet.

    Ends as Started, Unchanged, Waiting while a run of the deployment is due or at work, or Failed with the message of
    the error.

    Args:
        deployment: What is started, as flow/deployment, with its own parameters. Its source is what is listed.
    """
    try:
        with get_client(sync_client=True) as client:
            _tidy(client)
            return _look(client, deployment)
    except RetrainError as error:
        LOG.error("watch: %s", error)
        return Failed(message=str(error))


def _look(client: SyncPrefectClient, name: str) -> State[Any]:
    try:
        watched = client.read_deployment_by_name(name)
    except ObjectNotFound:
        why, next_step = "the server has no such deployment", "Deploy the model again, or delete this watch."
        raise UsageError(f"cannot watch for {name}", why, next_step) from None
    source = watched.parameters.get("data", {}).get("source", "")
    if not has_batches(source):
        why = f"its source is {source or 'not set'} and does not grow"
        raise UsageError(f"cannot watch for {name}", why, f"Deploy the model again, or give the folder and {EACH}.")
    batches = batches_of(source)
    found = f"{len(batches):,} batch{'' if len(batches) == 1 else 'es'}"
    keys = _keys(watched.id, batches)
    tried = _runs(client, watched.id, idempotency_key={"any_": keys})
    unused = [key for key in keys if key not in {run.idempotency_key for run in tried}]
    if not unused or not all(map(_in_vain, tried)):
        return Completed(name=UNCHANGED, message=f"{found}, as before")
    # One that is due or at work: the new run would have to give way to it.
    if busy := _runs(
        client, watched.id, state={"type": {"any_": BUSY}}, expected_start_time={"before_": datetime.now(UTC)}
    ):
        return Completed(name=WAITING, message=f"{found}, waits for the run {busy[0].name}")
    run = client.create_flow_run_from_deployment(watched.id, idempotency_key=unused[0])
    LOG.info("watch: %s, started the run %s", found, run.name)
    return Completed(name="Started", message=f"{found}, started the run {run.name}")


def _keys(deployment: UUID, batches: Sequence[BatchFiles]) -> list[str]:
    """The idempotency keys of the runs that this listing may start, in order."""
    listing = json.dumps([(batch.name, batch.seen) for batch in batches])
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return [f"batches {deployment} {digest} {number}" for number in range(1, TRIES + 1)]


def _in_vain(run: FlowRun) -> bool:
    """Whether a run ended without an answer. Who cancels a run does not want another one."""
    assert run.state
    gave_way = run.state.is_cancelled() and (run.state.message or "").startswith(SKIPPED)
    return run.state.is_crashed() or gave_way


def _tidy(client: SyncPrefectClient) -> None:
    """Delete the former looks that did nothing, and those that are late: they pile up where no worker is."""
    if own_deployment.id:
        for run in _runs(client, UUID(own_deployment.id), state={"name": {"any_": [UNCHANGED, WAITING, "Late"]}}):
            with suppress(ObjectNotFound):  # another look was first
                client.delete_flow_run(run.id)


def _runs(client: SyncPrefectClient, deployment: UUID, **query: Any) -> list[FlowRun]:
    chosen = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}} | query)
    return client.read_flow_runs(flow_run_filter=chosen)
