"""One run at a time of a deployment with the tag `one-at-a-time`: a later one gives way to one that is at work.

Prefect's own limit for a deployment is held by a lease of five minutes that a restart of the server forgets: the run
that held it ends, or its slot is never free again. So each run asks for itself. Called by the flow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.runtime import flow_run
from prefect.states import Cancelled

from tasks.running.liveness import Watch, as_signed, declare_dead

P = ParamSpec("P")
T = TypeVar("T")

TAG = "one-at-a-time"

# The message of a run that gives way begins with it; `deployments.notifications` tells people of such a run.
SKIPPED = "another run of this deployment is at work"

AT_WORK = [StateType.RUNNING, StateType.CANCELLING]
POLL_SECONDS = 1.0


def gives_way(function: Callable[P, State[T]]) -> Callable[P, State[T]]:
    """The function of a flow, which returns Cancelled at once if another run is at work."""

    @wraps(function)
    def waiting_function(*args: P.args, **kwargs: P.kwargs) -> State[T]:
        if earlier := run_before():
            return Cancelled(message=f"{SKIPPED}: {earlier}")
        return function(*args, **kwargs)

    return as_signed(waiting_function)


def run_before() -> str:
    """The name of the run to give way to; "" where there is none.

    Every run that began earlier is watched until one gives a sign of life, within 30 s; those that give none are
    Crashed. All are watched at once: of several that died together, each would else take the whole silence.
    """
    if TAG not in flow_run.tags:
        return ""
    watches: dict[UUID, Watch] = {}
    with get_client(sync_client=True) as client:
        while earlier := _earlier(client):
            for run in earlier:
                watch = watches.setdefault(run.id, Watch(client, run.id))
                if run.state and watch.is_dead(run.state):
                    declare_dead(client, run.id, run.state)
                elif watch.signs > 1:
                    return str(run.name)
            time.sleep(POLL_SECONDS)
    return ""


def _earlier(client: SyncPrefectClient) -> list[FlowRun]:
    me = client.read_flow_run(flow_run.id)
    query: dict[str, Any] = {"deployment_id": {"any_": [me.deployment_id]}, "state": {"type": {"any_": AT_WORK}}}
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(query))
    return sorted((run for run in runs if _order(run) < _order(me)), key=_order)


def _order(run: FlowRun) -> tuple[Any, str]:
    return run.start_time, str(run.id)
