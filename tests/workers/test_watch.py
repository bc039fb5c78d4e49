"""Looks of the watch on a real server: what they start, once, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Crashed, Failed, Scheduled

from deployments import setup
from deployments.deploy import Target
from flows.turn import SKIPPED
from flows.watch import TRIES, watch
from tasks.settings import Settings
from tests.workers.laptop import FINAL, Laptop, eventually

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
STARTED, WATCH = "retrain/letters-scheduled", "watch/letters-watch"


class Source:
    """A source that grows, and the deployment that learns from it; no worker takes its runs."""

    def __init__(self, folder: Path, client: SyncPrefectClient) -> None:
        self.folder, self.client = folder, client
        folder.mkdir()
        self.put("2026-01")
        self.deploy()

    def deploy(self, **more: str) -> None:
        chosen = {"model": "letters", "source": f"{self.folder}/*", "min_accuracy": 0.9} | more
        setup.apply([Target(Settings.model_validate(chosen), "cpu", "s3://models/prod")], show=lambda _: None)

    def put(self, name: str, content: bytes = b"pixels") -> None:
        (self.folder / f"{name}.npz").write_bytes(content)

    def id(self, deployment: str = STARTED) -> UUID:
        return self.client.read_deployment_by_name(deployment).id

    def runs(self, deployment: str = STARTED) -> list[FlowRun]:
        """All but those that the schedule has made for later."""
        id = DeploymentFilter(id=DeploymentFilterId(any_=[self.id(deployment)]))
        return [run for run in self.client.read_flow_runs(deployment_filter=id) if not run.auto_scheduled]

    def ends(self, state: State[Any]) -> None:
        """Each run that has not ended does now."""
        for run in self.runs():
            if not (run.state and run.state.is_final()):
                self.client.set_flow_run_state(run.id, state, force=True)


@pytest.fixture
def source(prefect_server: None, tmp_path: Path) -> Iterator[Source]:
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        yield Source(tmp_path / "letters", client)


def look() -> str:
    """One look; how it ended."""
    return str(watch(STARTED, return_state=True).name)


def in_a_process(program: str) -> int:
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=False, timeout=120
    ).returncode


def test_each_change_of_the_listing_starts_one_run_and_nothing_else_does(source: Source) -> None:
    assert look() == "Started", "what was there before the deployment counts as new"
    (run,) = source.runs()
    assert run.parameters["data"] == {"source": f"{source.folder}/*"}
    assert run.parameters["store"] == "s3://models/prod"
    source.ends(Completed(name="Unchanged"))
    assert [look(), look()] == ["Unchanged", "Unchanged"]
    for number, name in enumerate(["2026-02", "2026-03"]):
        source.put(name)
        assert (look(), look()) == ("Started", "Unchanged")
        source.ends(Completed())
        assert len(source.runs()) == 2 + number
    source.put("2026-03", b"more pixels")  # an upload that was not complete
    assert look() == "Started"
    source.ends(Failed(name="Rejected"))
    assert look() == "Unchanged", "rejected is an answer"
    (source.folder / "2026-02.npz").unlink()
    assert look() == "Started"


def test_batches_that_came_while_nobody_looked_start_one_run(source: Source) -> None:
    look()
    source.ends(Completed())
    for month in range(2, 8):
        source.put(f"2026-{month:02}")
    assert [look(), look()] == ["Started", "Unchanged"]
    assert len(source.runs()) == 2


def test_looks_at_the_same_moment_start_one_run(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has already decided to start one."""
    together, create = threading.Barrier(4, timeout=60), SyncPrefectClient.create_flow_run_from_deployment

    def at_once(*arguments: Any, **named: Any) -> FlowRun:
        together.wait()
        return create(*arguments, **named)

    monkeypatch.setattr(SyncPrefectClient, "create_flow_run_from_deployment", at_once)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: look(), range(4))) == ["Started"] * 4
    assert len(source.runs()) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_look_that_is_killed_loses_and_repeats_nothing(source: Source, moment: str) -> None:
    """By SIGKILL, just before it starts the run, or just after."""
    killed = in_a_process(f"""
import os, signal
from prefect.client.orchestration import SyncPrefectClient
from flows.watch import watch
create = SyncPrefectClient.create_flow_run_from_deployment
def killed(*arguments, **named):
    if {moment!r} == "after":
        create(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
SyncPrefectClient.create_flow_run_from_deployment = killed
watch({STARTED!r})
""")
    assert killed == -signal.SIGKILL
    assert len(source.runs()) == (moment == "after")
    assert look() == ("Unchanged" if moment == "after" else "Started")
    assert len(source.runs()) == 1


@pytest.mark.parametrize("states", [["SCHEDULED"], ["PENDING"], ["RUNNING"], ["RUNNING", "CANCELLING"]])
def test_a_look_waits_while_a_run_is_due_or_at_work_and_then_starts_one(source: Source, states: list[Any]) -> None:
    other = source.client.create_flow_run_from_deployment(source.id())
    for state in states:
        source.client.set_flow_run_state(other.id, State(type=state), force=True)
    assert [look(), look()] == ["Waiting", "Waiting"]
    source.put("2026-02")
    assert len(source.runs()) == 1
    source.ends(Completed())
    assert [look(), look()] == ["Started", "Unchanged"]
    assert len(source.runs()) == 2


@pytest.mark.parametrize(
    ("end", "runs"),
    [
        (Crashed(message="no sign of life"), TRIES),
        (Cancelled(message=f"{SKIPPED}: letters"), TRIES),
        (Cancelled(message="by hand"), 1),
        (Failed(), 1),
        (Completed(name="Published"), 1),
    ],
    ids=["crashed", "gave way", "cancelled by hand", "failed", "published"],
)
def test_only_a_run_without_an_answer_is_repeated_and_not_for_ever(source: Source, end: State[Any], runs: int) -> None:
    looks = []
    for _ in range(TRIES + 2):
        looks.append(look())
        source.ends(end)
    assert looks == ["Started"] * runs + ["Unchanged"] * (TRIES + 2 - runs)
    assert len(source.runs()) == runs


def test_a_deployed_look_leaves_neither_idle_nor_late_ones_behind(source: Source) -> None:
    """Run as a worker runs it. Those that are late would all begin when a worker comes back."""
    late = [source.client.create_flow_run_from_deployment(source.id(WATCH)) for _ in range(5)]
    for run in late:
        source.client.set_flow_run_state(run.id, Scheduled(name="Late"), force=True)
    for _ in range(3):
        run = source.client.create_flow_run_from_deployment(source.id(WATCH))
        environment = {
            **os.environ,
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
            "PREFECT__FLOW_RUN_ID": str(run.id),
        }
        subprocess.run([sys.executable, "-m", "prefect.engine"], cwd=ROOT, env=environment, check=True, timeout=120)
    assert sorted(str(run.state_name) for run in source.runs(WATCH)) == ["Started", "Unchanged"]
    assert len(source.runs()) == 1


def test_a_source_that_cannot_be_listed_fails_with_one_line(source: Source) -> None:
    for path in [*source.folder.iterdir(), source.folder]:
        path.unlink() if path.is_file() else path.rmdir()
    state = watch(STARTED, return_state=True)
    assert (state.type, state.name) == ("FAILED", "Failed")
    assert state.message
    assert state.message.startswith(f"cannot read the source {source.folder}")
    assert "\n" not in state.message
    gone = watch("retrain/digits-scheduled", return_state=True)
    assert str(gone.message).startswith("cannot watch for retrain/digits-scheduled: the server has no such deployment")
    assert source.runs() == []


def test_a_source_that_was_changed_to_one_that_does_not_grow_is_named(source: Source) -> None:
    setup.apply([Target(Settings(source="digits"), "cpu", "s3://models/prod")], show=lambda _: None)
    state = watch("retrain/scheduled", return_state=True)
    assert str(state.message).startswith("cannot watch for retrain/scheduled: its source is digits and does not grow.")


def test_people_are_told_once_of_a_watch_that_fails_again_and_again(
    source: Source, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    address, posted = inbox
    text: Any = {"title": "{{subject}}", "text": "{{body}}"}
    CustomWebhookNotificationBlock(name="x", url=address, json_data=text).save("watchers", overwrite=True)
    source.deploy(notify="custom-webhook/watchers")
    ends: list[State[Any]] = [Failed(message="cannot reach the store"), Failed(), Crashed(), Failed()]
    for end in ends:
        run = source.client.create_flow_run_from_deployment(source.id(WATCH))
        source.client.set_flow_run_state(run.id, end, force=True)
    eventually(lambda: posted, 90)
    time.sleep(5)  # for any more
    assert [each["title"] for each in posted] == ["retrain Failed: watch/letters-watch"]
    assert posted[0]["text"].startswith("cannot reach the store\n")
    source.deploy(notify="")


SETTINGS = """
model = "letters"
device = "cpu"
[data]
source = "./letters/*"
[gate]
min_accuracy = 0.9
"""


def test_a_worker_looks_once_at_a_time_and_runs_what_a_look_has_started(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/2026-01.npz").write_bytes(b"no images")
    (tmp_path / "letters.toml").write_text(SETTINGS)
    file = str(tmp_path / "letters.toml")
    up = laptop.retrain("up", "--config", file, "--port", str(laptop.port), "--store", laptop.store.url)
    assert up.returncode == 0, up.stderr
    try:
        for _ in range(4):
            laptop.start(WATCH)
        most = 0

        def over() -> bool:
            nonlocal most
            states = [run["state"]["type"] for run in laptop.runs(WATCH) if not run["auto_scheduled"]]
            most = max(most, sum(state in {"PENDING", "RUNNING"} for state in states))
            return set(states) <= FINAL

        eventually(over, 150)
        assert most == 1
        (run,) = [run for run in laptop.runs(STARTED) if not run["auto_scheduled"]]
        ended = laptop.ended(run["id"], 120)
        assert ended["state"]["name"] == "Failed", "there was no image"
        laptop.ended(again := laptop.start(WATCH))
        assert laptop.run(again)["state"]["name"] == "Unchanged"
    finally:
        assert laptop.retrain("down").returncode == 0
