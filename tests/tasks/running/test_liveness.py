"""Heartbeats of a real flow, and who is dead, on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Cancelling, Pending, Running, Scheduled

from tasks.running import liveness
from tasks.running.liveness import HEARTBEAT, Watch, beats, declare_dead

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"SILENCE": 1.0, "BEGIN": 2.0, "BEAT_SECONDS": 0.2, "ABSENCE": 0.7}.items():
        monkeypatch.setattr(liveness, name, seconds)


def started(client: SyncPrefectClient, *states: State) -> FlowRun:
    @flow(name="train")
    def idle() -> None: ...

    run = client.create_flow_run(idle, state=states[0])
    for state in states[1:]:
        client.set_flow_run_state(run.id, state, force=True)
    return run


def state_of(client: SyncPrefectClient, run: FlowRun) -> State:
    state = client.read_flow_run(run.id).state
    assert state
    return state


def seconds_until_dead(client: SyncPrefectClient, run: FlowRun, limit: float) -> float | None:
    watch, start = Watch(client, run.id), time.monotonic()
    while time.monotonic() - start < limit:
        if watch.is_dead(state_of(client, run)):
            return time.monotonic() - start
        time.sleep(0.05)
    return None


def heartbeats(client: SyncPrefectClient, run: str) -> int:
    query = {"filter": {"resource": {"id": [f"prefect.flow-run.{run}"]}, "event": {"name": [HEARTBEAT]}}}
    return int(client.request("POST", "/events/filter", json=query).json()["total"])


def test_a_flow_beats_until_it_ends(client: SyncPrefectClient) -> None:
    @flow
    @beats
    def works(seconds: float) -> str:
        time.sleep(seconds)
        return str(flow_run.id)

    run = works(1.1)
    deadline = time.monotonic() + 30
    while heartbeats(client, run) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    sent = heartbeats(client, run)
    time.sleep(6)  # the server writes events every five seconds
    assert heartbeats(client, run) <= max(sent, 7)
    assert works.fn(0.0) == "None", "without a run there is nothing to tell"


@pytest.mark.parametrize(
    ("states", "longest", "end"),
    [
        ([Running()], 1.0, "CRASHED"),
        ([Running(), Cancelling()], 1.0, "CANCELLED"),
        ([Pending()], 2.0, "CRASHED"),
        ([Scheduled()], None, ""),
    ],
)
def test_a_run_that_is_silent_is_dead(
    states: list[State], longest: float | None, end: str, client: SyncPrefectClient
) -> None:
    run = started(client, *states)
    seconds = seconds_until_dead(client, run, 15 if longest else 4)
    if longest is None:
        assert seconds is None
        return
    # The event of the last change of the state may be seen late, and is a sign of life.
    assert seconds is not None
    assert longest <= seconds < longest + 12
    declare_dead(client, run.id, state_of(client, run))
    state = state_of(client, run)
    assert state.type == end
    assert state.message == f"no sign of life for {longest:.0f} s: its process or its machine is gone"


def test_one_that_ended_meanwhile_stays_what_it_was(client: SyncPrefectClient) -> None:
    run = started(client, Running())
    seen = state_of(client, run)
    client.set_flow_run_state(run.id, State(type="COMPLETED"))
    declare_dead(client, run.id, seen)
    assert state_of(client, run).type == "COMPLETED"


def test_a_sign_of_life_counts_and_so_does_an_absence_of_the_server(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(client, Running())
    watch = Watch(client, run.id)
    newest = iter(range(1000))
    monkeypatch.setattr(Watch, "_newest_event", lambda _: next(newest))
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert not watch.is_dead(state_of(client, run))
        time.sleep(0.1)
    assert watch.signs > 2

    monkeypatch.setattr(Watch, "_newest_event", lambda _: -1)
    watch.is_dead(state_of(client, run))
    time.sleep(1.2)  # longer than SILENCE, and nobody asked: the request waited for the server
    assert not watch.is_dead(state_of(client, run))


def test_the_newest_event_is_that_of_the_run(client: SyncPrefectClient) -> None:
    run = started(client, Running())
    sent = emit_event(HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"})
    assert sent
    deadline = time.monotonic() + 30
    while Watch(client, run.id)._newest_event() != str(sent.id):
        assert time.monotonic() < deadline
        time.sleep(0.2)
