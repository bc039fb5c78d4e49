"""Handing a training to the work pool, on a real server; the test plays the worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling, Completed, Crashed, Failed, Pending, Running

from deployments import setup
from deployments.deploy import Target
from flows.retrain import retrain
from tasks.caching.steps import Run
from tasks.errors import ArtifactError, DispatchError, TrainingCrashed
from tasks.learning import work_pool
from tasks.learning.plan import TrainingPlan
from tasks.learning.work_pool import submit_all, train_on_pool
from tasks.running import liveness, prefect_artifacts, server
from tasks.settings import Data, Recipe, Settings
from tasks.train import train
from tasks.values import NPY, Artifact, DeviceKind, Examples
from tests.faults.proxy import Fault, Kind, Proxy
from tests.prefect_proxy import behind_proxy

pytestmark = pytest.mark.usefixtures("prefect_server")

CPU = DeviceKind(kind="cpu", arithmetic="any")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value() or "")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    setup.create_pools()
    with get_client(sync_client=True) as connected:
        yield connected


@pytest.fixture
def ready(client: SyncPrefectClient) -> None:
    """The deployments are there, and the server takes a worker of the pool for alive."""
    if not client.read_deployments():
        setup.apply([Target(Settings(), "cpu", "s3://models/prod")])
    client.send_worker_heartbeat("retrain-training", "stand-in")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(id="run", url=str(tmp_path), series="mnist")


def plan(images: Artifact, labels: Artifact, **recipe: int) -> TrainingPlan:
    examples = Examples(images=images, labels=labels)
    return TrainingPlan(
        examples=examples, validation=None, shape=(28, 28), recipe=Recipe(epochs=7, **recipe), device=CPU
    )


def stored(run: Run) -> tuple[Artifact, Artifact]:
    """Images and labels that are in the store."""
    images, labels = (run.artifacts.put(data, "application/x-npy") for data in (b"images", b"labels"))
    return images, labels


def handed_over(run: Run) -> bool:
    return train_on_pool(plan(*stored(run)), "pool", run)


def meanwhile(client: SyncPrefectClient, *states: State[Any], says: Sequence[str] = ()) -> threading.Thread:
    """What a worker would do with the next run, and what that shows before the last state."""

    def play() -> None:
        known = {each.id for each in trainings(client)}
        while not (new := [each for each in trainings(client) if each.id not in known]):
            time.sleep(0.05)
        assert new[0].name == "mnist, 7 epochs, seed 0"
        for number, state in enumerate(states, 1):
            if says and number == len(states):
                text = "\n".join(["```text", *says, "```"])
                shown = ArtifactCreate(key="train-mnist-worker", type="markdown", data=text, flow_run_id=new[0].id)
                client.create_artifact(shown)
            client.set_flow_run_state(new[0].id, state, force=True)
            time.sleep(0.3 if says else 0)

    thread = threading.Thread(target=play, daemon=True)  # a failed test starts no run
    thread.start()
    time.sleep(0.3)
    return thread


def trainings(client: SyncPrefectClient) -> list[FlowRun]:
    return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["train"])))


def last_run(client: SyncPrefectClient) -> FlowRun:
    return max(trainings(client), key=lambda each: cast(Any, each.created))


def test_the_place_of_a_training_is_no_part_of_its_key(run: Run) -> None:
    training = plan(*stored(run))
    keys = {train.key(training, place, run) for place in ("here", "pool")}
    assert len(keys) == 1
    assert not train_on_pool(training, "here", run)


def test_without_a_pool_or_a_worker_a_run_fails_in_seconds_and_says_what_to_start(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message() -> str:
        state = cast(
            State[Any],
            retrain(Data(dataset="digits"), device="cpu", train_on="pool", store=str(tmp_path), return_state=True),
        )
        return str(state.message)

    client.create_work_pool(WorkPoolCreate(name="cellar", type="process"), overwrite=True)
    monkeypatch.setattr(work_pool, "POOL", "cellar")
    assert (
        "cannot train on the work pool cellar: no worker of it is online. "
        "Start one: prefect worker start --pool cellar --limit 1" in message()
    )
    monkeypatch.setattr(work_pool, "POOL", "attic")
    assert (
        "cannot train on the work pool attic: the Prefect server has no work pool attic. "
        "Run `retrain deploy`, or train with --train-on here." in message()
    )


@pytest.mark.usefixtures("ready")
def test_a_server_without_the_deployment_is_told_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_pool, "DEPLOYMENT", "train/elsewhere")
    with pytest.raises(DispatchError, match="the Prefect server has no deployment train/elsewhere"):
        handed_over(run)


@pytest.mark.usefixtures("ready")
def test_what_a_training_came_to(client: SyncPrefectClient, run: Run) -> None:
    thread = meanwhile(client, Running(), Completed())
    assert handed_over(run)
    thread.join()

    thread = meanwhile(client, Failed(message="cannot train on a GPU: there is none. Buy one."))
    with pytest.raises(
        DispatchError,
        match=r"retrain-training failed: cannot train on a GPU: there is none\. Buy one\. Its log is that of",
    ):
        handed_over(run)
    thread.join()

    thread = meanwhile(client, Running(), Crashed(message="the power is gone"))
    with pytest.raises(
        TrainingCrashed, match=r"the training on the work pool retrain-training died: the power is gone\. Run again"
    ):
        handed_over(run)
    thread.join()


@pytest.mark.usefixtures("ready")
def test_the_waiting_run_says_what_the_training_does(
    client: SyncPrefectClient, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work_pool, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(work_pool, "REPEAT_SECONDS", 60.0)  # what is said just before the end is repeated too
    caplog.set_level(logging.INFO, "retrain")
    says = ["started on attic, the CPU", "resumes after epoch 1 of 2", "100 % epoch 2/2  loss 0.1  accuracy 0.9"]
    done: State[Any] = Completed(message="2 epochs on the CPU")
    thread = meanwhile(client, Pending(), Running(), done, says=says)
    assert handed_over(run)
    thread.join()
    lines = [record.getMessage() for record in caplog.records if record.name == "retrain.train"]
    assert lines == [
        f"train: handed to the work pool retrain-training as the run {last_run(client).id}",
        "train: waits for a worker of the work pool retrain-training",
        "train: a worker has taken it and starts its process",
        "train: its process runs",
        *(f"train: {line}" for line in says),
        "train: ended as Completed, 2 epochs on the CPU",
    ]


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("kind", ["reset", "hang"])
def test_what_the_training_says_neither_ends_nor_delays_the_wait(
    kind: Kind,
    client: SyncPrefectClient,
    run: Run,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(work_pool, "REPEAT_SECONDS", 0.1)
    monkeypatch.setattr(work_pool, "REPEAT_AT_MOST", 0.2)
    monkeypatch.setattr(prefect_artifacts, "LONGEST_WAIT", 0.2)
    proxy.faults.append(Fault(kind, path="artifacts", times=None))
    start = time.monotonic()
    thread = meanwhile(client, Running(), Completed())
    assert handed_over(run)
    assert time.monotonic() - start < 10
    thread.join()
    if kind == "reset":
        assert caplog.text.count("train: cannot show what the training run logs") == 1


def test_lines_are_repeated_once() -> None:
    lines = ["started", "epoch 1", "epoch 2"]
    assert work_pool.lines_after("", lines) == lines
    assert work_pool.lines_after("epoch 1", lines) == ["epoch 2"]
    assert work_pool.lines_after("epoch 2", lines) == []
    assert work_pool.lines_after("cut off", lines) == lines
    assert work_pool.lines_after("epoch 1", []) == []


@pytest.mark.usefixtures("ready")
def test_several_are_started_at_once_and_waited_for_in_turn(client: SyncPrefectClient, run: Run) -> None:
    plans = [plan(*stored(run), seed=seed) for seed in range(3)]
    known = {each.id for each in trainings(client)}

    def started() -> dict[str, FlowRun]:
        new = [each for each in trainings(client) if each.id not in known]
        children = {str(each.name): each for each in new}
        assert set(children) == {"mnist, 7 epochs, seed 0", "mnist, 7 epochs, seed 1", "mnist, 7 epochs, seed 2"}
        assert len(new) == len(children), "none is started twice"
        return children

    with submit_all(plans, run):
        children = started()
        client.set_flow_run_state(children["mnist, 7 epochs, seed 0"].id, Completed(), force=True)
        client.set_flow_run_state(children["mnist, 7 epochs, seed 1"].id, Failed(message="no memory"), force=True)
        assert train_on_pool(plans[0], "pool", run)
        with pytest.raises(DispatchError, match="failed: no memory"):
            train_on_pool(plans[1], "pool", run)
    assert cast(Any, started()["mnist, 7 epochs, seed 2"].state).name == "Cancelled", "nobody waits for it any more"
    assert not run.submitted


@pytest.mark.usefixtures("ready")
def test_a_failure_for_want_of_an_artifact_names_the_artifact(client: SyncPrefectClient, run: Run) -> None:
    lost = Artifact(sha256="0" * 64, size=1, media_type=NPY)
    thread = meanwhile(client, Failed(message="an artifact is missing"))
    with pytest.raises(ArtifactError) as caught:
        train_on_pool(plan(lost, lost), "pool", run)
    assert caught.value.sha256 == lost.sha256
    thread.join()


@pytest.mark.usefixtures("ready")
def test_one_that_takes_too_long_is_cancelled(
    client: SyncPrefectClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_LONGEST_TRAINING", "1")
    with pytest.raises(DispatchError, match="was ended: it was not done after 1 s"):
        handed_over(run)
    assert cast(Any, last_run(client).state).name == "Cancelled"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with behind_proxy() as proxy:
        yield proxy


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(("kind", "status"), [("reset", 0), ("status", 500), ("status", 503)])
def test_a_server_that_is_away_for_a_while_costs_nothing(
    kind: Kind, status: int, client: SyncPrefectClient, run: Run, proxy: Proxy
) -> None:
    for path in ("work_pools", "deployments/name", "create_flow_run", "flow_runs/"):
        proxy.faults.append(Fault(kind, path=path, status=status, times=10))
    thread = meanwhile(client, Running(), Completed())
    assert handed_over(run)
    thread.join()
    assert not any(fault.times for fault in proxy.faults)


@pytest.mark.usefixtures("ready")
def test_a_lost_answer_starts_no_second_training(client: SyncPrefectClient, run: Run, proxy: Proxy) -> None:
    before = len(trainings(client))
    proxy.faults.append(Fault("lost", path="create_flow_run", times=2))
    thread = meanwhile(client, Running(), Completed())
    assert handed_over(run)
    thread.join()
    assert not proxy.faults[0].times
    assert len(trainings(client)) == before + 1


@pytest.mark.usefixtures("ready")
def test_a_server_that_stays_away_is_one_line_and_the_cancelling_does_not_hide_it(
    run: Run, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "SERVER_AWAY", 0.2)
    monkeypatch.setattr(work_pool, "CANCEL_SECONDS", 0.2)
    proxy.faults.append(Fault("reset", path="flow_runs/[^/]*$|set_state", times=None))
    with pytest.raises(DispatchError, match=r"the Prefect server did not answer for 600 s, or refused: .* Start it"):
        handed_over(run)
    assert "train: cannot cancel the training run" in caplog.text


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([Running()], r"died: no sign of life for 1 s: its process or its machine is gone\. Run again"),
        ([Pending()], r"died: no sign of life for 1 s"),
        ([Running(), Cancelling()], r"was cancelled: no sign of life for 1 s"),
    ],
)
def test_a_silent_training_is_declared_dead_by_the_run_that_waits(
    states: list[State[Any]], message: str, client: SyncPrefectClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENCE", 1.0)
    monkeypatch.setattr(liveness, "BEGIN", 1.0)
    monkeypatch.setattr(work_pool, "POLL_SECONDS", 0.1)
    thread = meanwhile(client, *states)
    with pytest.raises(DispatchError, match=message) as caught:
        handed_over(run)
    thread.join()
    assert isinstance(caught.value, TrainingCrashed) == ("died" in message), "a crash is tried again"


def test_only_a_crash_is_worth_another_try() -> None:
    crash: Callable[[BaseException], bool] = lambda error: work_pool.is_crash(None, None, Failed(data=error))  # noqa: E731
    assert crash(TrainingCrashed("what", "why", "next"))
    assert not crash(DispatchError("what", "why", "next"))
    assert not crash(ValueError("a defect"))
