"""Training on the `gpu` work pool: as a run of the deployment `train/gpu`, which a worker of the pool picks up.

The run that waits and the run that trains share nothing but the store: the second keeps its result under the key that
the first one looks it up by. So it does not matter which of them dies. Called by the train step; imports Prefect.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPoolStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import task_run
from prefect.states import Cancelling

from tasks.caching.steps import Run
from tasks.errors import DispatchError, TrainingCrashed
from tasks.learning.plan import TrainingPlan
from tasks.settings import Recipe, TrainOn
from tasks.storage.artifacts import named

LOG = logging.getLogger("retrain.train")

DEPLOYMENT = "train/gpu"
POOL = "gpu"

# Seconds between two looks at the run that trains: each is one request.
INTERVAL = 1.0

# Looks between two at the pool, while no worker has begun.
POOL_EVERY = 15

# Seconds for which the server may be away, for an upgrade, say, while the other run trains on.
SERVER_AWAY = 600.0


def train_on_pool(plan: TrainingPlan, train_on: TrainOn, run: Run) -> bool:
    """Have the pool train, and wait: True once the result is kept; False where this run is to train itself.

    Raises:
        DispatchError: No worker, no such deployment, cancelled, or it took too long.
        TrainingCrashed: The process or the machine died; worth another try, which goes on from the last checkpoint.
    """
    if train_on == "here":
        return False
    parameters = _parameters(plan, run)
    with get_client(sync_client=True) as client:
        if begun := run.submitted.pop(plan, None):
            child = client.read_flow_run(begun)
        else:
            _require_worker(client)
            child = _start(parameters, _title(plan.recipe))
        LOG.info("train: handed to the work pool %s as the run %r", POOL, child.name)
        state = _finished(client, child)
    if not state.is_completed():
        for artifact in named(parameters):  # one that was lost is mended by the step that made it
            run.artifacts.verify(artifact)
        raise _failed(child, state)
    return True


@contextmanager
def submit_all(plans: Sequence[TrainingPlan], run: Run) -> Iterator[None]:
    """Start these trainings on the pool now; `train_on_pool`, called for each in turn, then waits for its own.

    No threads: waiting is all there is to do. What nobody waited for is cancelled at the end of the block, however that
    comes. Raises DispatchError as `train_on_pool` does.
    """
    with get_client(sync_client=True) as client:
        _require_worker(client)
        try:
            for plan in plans:
                child = _start(_parameters(plan, run), _title(plan.recipe))
                run.submitted[plan] = child.id  # not the run itself: Prefect refuses it in what a task is given
            LOG.info("train: handed %d trainings to the work pool %s", len(plans), POOL)
            yield
        finally:
            for left in run.submitted.values():
                client.set_flow_run_state(left, Cancelling())
            run.submitted.clear()


def is_crash(_task: object, _task_run: object, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: Prefect's `retry_condition_fn`."""
    return isinstance(state.data, TrainingCrashed)


def _parameters(plan: TrainingPlan, run: Run) -> dict[str, Any]:
    return {"plan": plan.model_dump(mode="json"), "store": run.store.url, "refresh": "train" in run.refresh}


def _title(recipe: Recipe) -> str:
    return f"{recipe.epochs} epochs, seed {recipe.seed}"


def _require_worker(client: SyncPrefectClient) -> None:
    if not _is_ready(client):
        raise _no_worker("no worker of it is online")


def _no_worker(why: str) -> DispatchError:
    # After a crash the machine may be on its way back; each further try waits longer.
    kind = TrainingCrashed if _tries() > 1 else DispatchError
    return kind(
        f"cannot train on the work pool {POOL}", why, f"Start one: prefect worker start --pool {POOL} --limit 1"
    )


def _tries() -> int:
    return int(task_run.run_count or 1)


def _is_ready(client: SyncPrefectClient) -> bool:
    try:
        return client.read_work_pool(POOL).status == WorkPoolStatus.READY
    except ObjectNotFound:
        raise _not_deployed(f"the Prefect server has no work pool {POOL}") from None


def _start(parameters: dict[str, Any], name: str) -> FlowRun:
    try:
        return cast(FlowRun, run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0))
    except ObjectNotFound:
        raise _not_deployed(f"the Prefect server has no deployment {DEPLOYMENT}") from None


def _not_deployed(why: str) -> DispatchError:
    return DispatchError(
        f"cannot train on the work pool {POOL}", why, "Run `retrain deploy`, or train with --train-on here."
    )


def longest_training() -> float:
    """Seconds that a training may take, waiting for a worker included: `RETRAIN_LONGEST_TRAINING`, or a day."""
    return float(os.environ.get("RETRAIN_LONGEST_TRAINING") or 86_400)


def _finished(client: SyncPrefectClient, child: FlowRun) -> State[Any]:
    """The child's final state. Whatever ends the waiting early ends the child too: nobody would want its result."""
    try:
        return _waited(client, child)
    except BaseException:
        client.set_flow_run_state(child.id, Cancelling())
        raise


def _waited(client: SyncPrefectClient, child: FlowRun) -> State[Any]:
    start = heard = time.monotonic()
    looks, away = 0, False
    while time.monotonic() - start < longest_training():
        try:
            state = _state(client, child.id)
            if state.is_final():
                return state
            looks += 1
            if not state.is_running() and looks % POOL_EVERY == 0 and not _is_ready(client):
                raise _no_worker("its worker went away before it began")
            heard, away = time.monotonic(), False
        except httpx.TransportError as error:
            if time.monotonic() - heard > SERVER_AWAY:
                raise
            if not away:
                LOG.warning("train: the Prefect server is away, the training goes on: %s", error)
            away = True
        time.sleep(INTERVAL)
    raise DispatchError(
        f"the training on the work pool {POOL} was ended",
        f"it was not done after {longest_training():.0f} s, waiting for a worker included",
        "Run again: it goes on after its last epoch. RETRAIN_LONGEST_TRAINING allows more seconds.",
    )


def _state(client: SyncPrefectClient, run: UUID) -> State[Any]:
    state = client.read_flow_run(run).state
    assert state is not None, "a run that was started has a state"
    return state


def _failed(child: FlowRun, state: State[Any]) -> DispatchError:
    """What a child that ended without a result means for the run that waits for it."""
    if state.type == StateType.CRASHED:
        return TrainingCrashed(
            f"the training on the work pool {POOL} died",
            state.message or "its process or its machine is gone",
            f"Run again: it goes on after its last epoch. Its log is that of the run {child.id}.",
        )
    what = f"the training on the work pool {POOL} " + ("was cancelled" if state.is_cancelled() else "failed")
    return DispatchError(what, state.message or "no reason is given", f"Its log is that of the run {child.id}.")
