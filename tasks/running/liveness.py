"""Signs of life: what a run sends while it works, and how others tell from them that a run is dead.

A flow with `beats` sends an event every 30 s from inside, so each way to start a run has it, whatever Prefect's own
settings say. Who waits for a run watches it with `Watch`, which counts silence only while the server answers. For runs
that nobody waits for there is an automation on the server, see `deployments.setup`; its timeout has to exceed the
longest absence of the server that harms no run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.states import Cancelled, Crashed

P = ParamSpec("P")
T = TypeVar("T")

# The event that a living run sends; the automation listens to it.
HEARTBEAT = "retrain.heartbeat"

# Seconds between two of them.
BEAT_SECONDS = 30.0

# Seconds of silence after which a run is dead: five missed heartbeats. With fewer than three, a busy machine was, too.
SILENCE = 150.0

# The same for a run that a worker has taken and that has not begun. An image has to be pulled first.
BEGIN = 900.0

# Seconds between two requests for the newest event, and those without an answer after which the silence counts anew.
ASK_SECONDS = 10.0
ABSENCE = 20.0


@contextmanager
def beating() -> Iterator[None]:
    """Send heartbeats for the flow run of this context while the block runs."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    run, ended = context.flow_run, threading.Event()
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
    flow = {
        "prefect.resource.id": f"prefect.flow.{run.flow_id}",
        "prefect.resource.role": "flow",
        "prefect.resource.name": context.flow.name if context.flow else "",
    }

    def beat() -> None:
        while True:
            emit_event(HEARTBEAT, resource=resource, related=[flow])
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=copy_context().run, args=(beat,), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=2)


def beats(function: Callable[P, T]) -> Callable[P, T]:
    """The function of a flow, with heartbeats while it runs."""

    @wraps(function)
    def beating_function(*args: P.args, **kwargs: P.kwargs) -> T:
        with beating():
            return function(*args, **kwargs)

    return as_signed(beating_function)


def as_signed(wrapper: Callable[P, T]) -> Callable[P, T]:
    """A wrapper that Prefect can validate parameters with: it would look for the annotations' names in our module."""
    wrapper.__signature__ = signature(wrapper, eval_str=True)  # type: ignore[attr-defined]
    return wrapper


class Watch:
    """Tells whether another run is dead. Call `is_dead` each second or so, with the run's state."""

    def __init__(self, client: SyncPrefectClient, run: UUID) -> None:
        self._client, self._run = client, run
        self._since = self._called = time.monotonic()
        self._asked = self._since - ASK_SECONDS
        self._sign: object = None
        self.signs = 0

    def is_dead(self, state: State) -> bool:
        """Whether the run has been silent for too long. `signs` counts the changes of its state and newest event."""
        now = time.monotonic()
        if now - self._called > ABSENCE:  # nobody could hear the run
            self._since = now
        self._called = now
        if now - self._asked < min(ASK_SECONDS, SILENCE / 5):
            return False
        self._asked = now
        sign = (state.id, self._newest_event())
        if sign != self._sign:
            self._sign, self._since = sign, now
            self.signs += 1
        return now - self._since > _longest_silence(state)

    def _newest_event(self) -> str | None:
        query = {"filter": {"resource": {"id": [f"prefect.flow-run.{self._run}"]}}, "limit": 1}
        events = self._client.request("POST", "/events/filter", json=query).json()["events"]
        return str(events[0]["id"]) if events else None


def _longest_silence(state: State) -> float:
    if state.is_running() or state.is_cancelling():
        return SILENCE
    return BEGIN if state.is_pending() else float("inf")  # one that is scheduled waits for a worker


def declare_dead(client: SyncPrefectClient, run: UUID, state: State) -> None:
    """Set a run that was in this state to Crashed, or to Cancelled if it was being cancelled."""
    message = f"no sign of life for {_longest_silence(state):.0f} s: its process or its machine is gone"
    client.set_flow_run_state(run, (Cancelled if state.is_cancelling() else Crashed)(message=message))
