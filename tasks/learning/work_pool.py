"""Trains on the work pool `retrain-training`: starts a run of `train/worker`, which a worker of the pool executes.

The waiting run and the training run share only the store: the second stores its result under the cache key by which the
first one reads it, so either may die without loss. What the second logs, the first repeats, in its log and on its page.
Called by the train step and `flows.seeds`; imports Prefect. Its code is not part of the cache key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPoolStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import task_run
from prefect.states import Cancelling

from tasks.caching.steps import Run
from tasks.errors import DispatchError, TrainingCrashed, reason_of
from tasks.learning.plan import TrainingPlan
from tasks.running.liveness import Watch, declare_dead
from tasks.running.prefect_artifacts import LogArtifact, link_to, logged_lines
from tasks.running.server import SERVER_AWAY, wait_at_most
from tasks.settings import Recipe, TrainOn, longest_training
from tasks.storage.artifacts import artifacts_in

LOG = logging.getLogger("retrain.train")

DEPLOYMENT = "train/worker"
POOL = "retrain-training"

# Between two requests for the state of the training run.
POLL_SECONDS = 1.0

# Until a worker starts the training run, one poll in so many also checks that the pool has a worker.
POLLS_PER_POOL_CHECK = 15

# Seconds that a run which ends takes at most to cancel its training.
CANCEL_SECONDS = 10.0

# Between two requests for what the training run logs, and how long its end waits for the last one.
REPEAT_SECONDS = 3.0
REPEAT_AT_MOST = 5.0

# What a state of the training run means for the run that waits.
MEANINGS = {
    StateType.SCHEDULED: f"waits for a worker of the work pool {POOL}",
    StateType.PENDING: "a worker has taken it and starts its process",
    StateType.RUNNING: "its process runs",
    StateType.CANCELLING: "is being cancelled",
}


def train_on_pool(plan: TrainingPlan, train_on: TrainOn, run: Run) -> bool:
    """Train on the pool and wait. True: the result is in the store. False: this run must train itself.

    Raises:
        DispatchError: No worker, no such deployment, or the training failed, was cancelled or took too long.
        TrainingCrashed: Its process or machine died. A retry resumes from the last checkpoint.
        ArtifactError: The training failed and an artifact that it reads is missing or damaged.
    """
    if train_on == "here":
        return False
    parameters = _parameters(plan, run)
    with _server_errors_as_one_line(), get_client(sync_client=True) as client:
        if flow_run_id := run.submitted.pop(plan, None):
            child = client.read_flow_run(flow_run_id)
        else:
            _require_worker(client)
            child = _start(parameters, _run_name(plan.recipe, run))
        page = link_to(child.id, f"The training's own run: {child.name}")
        with LogArtifact(LOG, "train", run.series, page):
            LOG.info("train: handed to the work pool %s as the run %s", POOL, child.id)
            with _repeating(child):
                state = _wait_or_cancel(client, child)
            LOG.info("train: ended as %s%s", state.name, f", {state.message}" if state.message else "")
    if not state.is_completed():
        for artifact in artifacts_in(parameters):  # ArtifactError for a lost one: its step then computes it again
            run.artifacts.verify(artifact)
        raise _failed(child, state)
    return True


@contextmanager
def submit_all(plans: Sequence[TrainingPlan], run: Run) -> Iterator[None]:
    """Start all these trainings on the pool; `train_on_pool`, called for one after the other, then waits for each.

    At the end of the block, also after an error, the trainings that nobody has waited for are cancelled.

    Raises:
        DispatchError: No worker, or no such deployment.
    """
    with _server_errors_as_one_line(), get_client(sync_client=True) as client:
        _require_worker(client)
        try:
            for plan in plans:
                child = _start(_parameters(plan, run), _run_name(plan.recipe, run))
                run.submitted[plan] = child.id  # the id only: Prefect refuses a FlowRun among a task's arguments
            seeds = ", ".join(str(plan.recipe.seed) for plan in plans)
            LOG.info("train: handed to the work pool %s: a training for each of the seeds %s", POOL, seeds)
            yield
        finally:
            for unawaited in run.submitted.values():
                _cancel(client, unawaited)
            run.submitted.clear()


@contextmanager
def _server_errors_as_one_line() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise DispatchError(
            f"cannot train on the work pool {POOL}",
            f"the Prefect server did not answer for {SERVER_AWAY:.0f} s, or refused: {reason_of(error)}",
            "Start it and run again: the training resumes after its last epoch.",
        ) from None


def is_crash(_task: object, _task_run: object, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn` of the train step: retry only after a crash."""
    return isinstance(state.data, TrainingCrashed)


def _parameters(plan: TrainingPlan, run: Run) -> dict[str, Any]:
    return {
        "plan": plan.model_dump(mode="json"),
        "store": run.store.url,
        "refresh": "train" in run.refresh,
        "series": f"{run.series} worker",  # the waiting run shows the training among those of the model
    }


def _run_name(recipe: Recipe, run: Run) -> str:
    return f"{run.series}, {recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'}, seed {recipe.seed}"


def _require_worker(client: SyncPrefectClient) -> None:
    if not _has_worker(client):
        raise _no_worker("no worker of it is online")


def _no_worker(why: str) -> DispatchError:
    # After a crash the machine may be restarting, so this counts as a crash too and is retried after a longer wait.
    kind = TrainingCrashed if _attempt() > 1 else DispatchError
    return kind(
        f"cannot train on the work pool {POOL}", why, f"Start one: prefect worker start --pool {POOL} --limit 1"
    )


def _attempt() -> int:
    return int(task_run.run_count or 1)


def _has_worker(client: SyncPrefectClient) -> bool:
    try:
        return client.read_work_pool(POOL).status == WorkPoolStatus.READY
    except ObjectNotFound:
        raise _not_deployed(f"the Prefect server has no work pool {POOL}") from None


def _start(parameters: dict[str, Any], name: str) -> FlowRun:
    try:
        # The key keeps the server from starting a second one if its answer is lost and the request repeated.
        key = uuid4().hex
        started = run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0, idempotency_key=key)
        return cast(FlowRun, started)
    except ObjectNotFound:
        raise _not_deployed(f"the Prefect server has no deployment {DEPLOYMENT}") from None


def _not_deployed(why: str) -> DispatchError:
    return DispatchError(
        f"cannot train on the work pool {POOL}", why, "Run `retrain deploy`, or train with --train-on here."
    )


def _wait_or_cancel(client: SyncPrefectClient, child: FlowRun) -> State[Any]:
    """The final state of the training run. If the wait ends early, for any reason, cancel the run."""
    try:
        return _wait(client, child)
    except BaseException:
        _cancel(client, child.id)
        raise


def _cancel(client: SyncPrefectClient, run: UUID) -> None:
    """Cancel a training run. Never raises: it must not hide why."""
    try:
        with wait_at_most(CANCEL_SECONDS):
            client.set_flow_run_state(run, Cancelling())
    except Exception as error:
        LOG.warning("train: cannot cancel the training run %s: %s", run, error)


def _wait(client: SyncPrefectClient, child: FlowRun) -> State[Any]:
    """Wait for the end of the training run, and declare it dead if its process or machine is gone."""
    start, polls, watch, known = time.monotonic(), 0, Watch(client, child.id), None
    while time.monotonic() - start < longest_training():
        state = _state(client, child.id)
        if state.is_final():
            return state
        if state.type != known:
            LOG.info("train: %s", MEANINGS.get(state.type, state.name))
        known = state.type
        polls += 1
        if not state.is_running() and polls % POLLS_PER_POOL_CHECK == 0 and not _has_worker(client):
            raise _no_worker("its worker went offline before it started")
        if watch.is_dead(state):
            declare_dead(client, child.id, state)
        time.sleep(POLL_SECONDS)
    raise DispatchError(
        f"the training on the work pool {POOL} was ended",
        f"it was not done after {longest_training():.0f} s, waiting for a worker included",
        "Run again: it resumes after its last epoch. RETRAIN_LONGEST_TRAINING allows more seconds.",
    )


@contextmanager
def _repeating(child: FlowRun) -> Iterator[None]:
    """Log what the training run logs while the block runs. In a thread, which neither ends nor delays the wait."""
    ended = threading.Event()
    context = copy_context()
    thread = threading.Thread(target=context.run, args=(_repeat, child.id, ended), name="repeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(REPEAT_AT_MOST)


def _repeat(child: UUID, ended: threading.Event) -> None:
    newest, told, last = "", False, False
    while not last:
        last = ended.wait(REPEAT_SECONDS)
        try:
            with wait_at_most(0), get_client(sync_client=True) as client:
                lines = logged_lines(client, child, "train")
        except Exception as error:
            if not told:
                LOG.warning("train: cannot show what the training run logs: %s", error)
            told = True
            continue
        for line in lines_after(newest, lines):
            LOG.info("train: %s", line)
        newest = lines[-1] if lines else newest


def lines_after(newest: str, lines: Sequence[str]) -> Sequence[str]:
    """The lines after the last that equals `newest`; all of them where none does."""
    return lines[max((number for number, line in enumerate(lines, 1) if line == newest), default=0) :]


def _state(client: SyncPrefectClient, run: UUID) -> State[Any]:
    state = client.read_flow_run(run).state
    assert state is not None, "a run that was started has a state"
    return state


def _failed(child: FlowRun, state: State[Any]) -> DispatchError:
    """The error for a training run that ended without a result."""
    if state.type == StateType.CRASHED:
        return TrainingCrashed(
            f"the training on the work pool {POOL} died",
            state.message or "its process or its machine is gone",
            f"Run again: it resumes after its last epoch. Its log is that of the run {child.id}.",
        )
    what = f"the training on the work pool {POOL} " + ("was cancelled" if state.is_cancelled() else "failed")
    return DispatchError(what, state.message or "no reason is given", f"Its log is that of the run {child.id}.")
