"""Which run of a deployment gives way to which, on a real server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Pending, Running

from flows import turn
from flows.turn import gives_way
from tasks.running import liveness
from tasks.running.liveness import Watch

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Iterator[UUID]:
    """A new one, without a run."""
    id = client.create_deployment(client.create_flow_from_name("retrain"), name=uuid4().hex)
    yield id
    client.delete_deployment(id)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 1.0)
    monkeypatch.setattr(turn, "POLL_SECONDS", 0.1)


def begun(client: SyncPrefectClient, deployment: UUID, state: State) -> FlowRun:
    run = client.create_flow_run_from_deployment(deployment, state=Pending())
    client.set_flow_run_state(run.id, state)
    return run


def came_to(run: FlowRun, monkeypatch: pytest.MonkeyPatch, tags: tuple[str, ...] = (turn.TAG,)) -> State[str]:
    """What this run returns."""
    monkeypatch.setattr(turn, "flow_run", SimpleNamespace(tags=list(tags), id=run.id))
    return gives_way(lambda: Completed(message="done"))()


def beating(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = itertools.count()
    monkeypatch.setattr(Watch, "_newest_event", lambda _: next(beats))


def test_a_run_that_is_at_work_is_not_overtaken(
    client: SyncPrefectClient, deployment: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating(monkeypatch)
    first, second = (begun(client, deployment, Running()) for _ in range(2))
    state = came_to(second, monkeypatch)
    assert (state.type, state.message) == ("CANCELLED", f"another run of this deployment is at work: {first.name}")
    assert came_to(first, monkeypatch).message == "done"
    assert came_to(second, monkeypatch, tags=()).message == "done"


def test_one_that_has_ended_or_not_begun_is_in_nobodys_way(
    client: SyncPrefectClient, deployment: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(client, deployment, Pending())
    client.set_flow_run_state(begun(client, deployment, Running()).id, Completed())
    assert came_to(begun(client, deployment, Running()), monkeypatch).message == "done"


def test_a_dead_one_is_declared_crashed(
    client: SyncPrefectClient, deployment: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "_newest_event", lambda _: "the same")
    dead = begun(client, deployment, Running())
    assert came_to(begun(client, deployment, Running()), monkeypatch).message == "done"
    state = client.read_flow_run(dead.id).state
    assert state
    assert (state.type, state.message) == ("CRASHED", "no sign of life for 1 s: its process or its machine is gone")


def test_several_dead_ones_take_one_silence_together(
    client: SyncPrefectClient, deployment: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 3.0)
    monkeypatch.setattr(Watch, "_newest_event", lambda _: "the same")
    dead = [begun(client, deployment, Running()) for _ in range(5)]
    started = time.monotonic()
    assert came_to(begun(client, deployment, Running()), monkeypatch).message == "done"
    assert time.monotonic() - started < 4 * 3.0, "one after the other would take five times as long"
    assert {client.read_flow_run(each.id).state_type for each in dead} == {"CRASHED"}


def test_a_dead_one_does_not_keep_a_run_from_giving_way_to_one_that_lives(
    client: SyncPrefectClient, deployment: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 600.0)
    dead, waiting, last = (begun(client, deployment, Running()) for _ in range(3))
    beats = itertools.count()
    monkeypatch.setattr(Watch, "_newest_event", lambda watch: "the same" if watch._run == dead.id else next(beats))
    monkeypatch.setattr(liveness, "ASK_SECONDS", 0.2)
    assert came_to(last, monkeypatch).message == f"another run of this deployment is at work: {waiting.name}"
