"""A real server that is killed and comes back, and workers and engines that are killed in every state of their run.

What was healthy ends as what it was; what is dead is noticed, and nothing waits for it for ever. Each test leaves
server and workers running, and no run in progress.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.laptop import Laptop, eventually, kill_all
from tests.workers.test_dispatch import digits, trainings

pytestmark = pytest.mark.timeout(400)

# Seconds. `tasks.running.liveness.SILENCE`, the interval of the requests, and some for a busy machine.
NOTICED = 150 + 10 + 20

# Long enough to be still at work when the server is back.
LONG = 300


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path_factory.mktemp("laptop"))
    started = laptop.up()
    assert started.returncode == 0, started.stderr
    yield laptop
    assert laptop.retrain("down").returncode == 0


def begin(laptop: Laptop, seed: int, until: str, deployment: str = "retrain/scheduled") -> str:
    """Start a run and wait for a phase of it."""
    before = len(trainings(laptop))
    run = laptop.start(deployment, **digits(seed, epochs=LONG))
    if until == "downloaded":
        eventually(lambda: "download: " in laptop.log(run), 120)
    else:
        eventually(lambda: len(trainings(laptop)) > before and trainings(laptop)[-1]["state"]["type"] == until, 240)
    if until == "RUNNING":
        eventually(laptop.checkpoints, 120)
    return run


@pytest.mark.parametrize(
    ("seed", "phase"),
    [
        pytest.param(1, "downloaded", marks=pytest.mark.nightly),
        (2, "RUNNING"),
        pytest.param(3, "COMPLETED", marks=pytest.mark.nightly),
    ],
)
def test_a_run_ends_as_what_it_was_though_the_server_was_killed(seed: int, phase: str, laptop: Laptop) -> None:
    """In each phase: before the training, while it trains on the pool, while the waiting run finishes."""
    before = len(trainings(laptop))
    run = begin(laptop, seed, phase)
    laptop.take_server_away()
    time.sleep(10)
    laptop.bring_server_back()
    start = time.monotonic()
    ended = laptop.ended(run)
    print(f"ended {time.monotonic() - start:.0f} s after the server's return")
    assert ended["state"]["name"] == "Published", ended["state"]
    assert [each["state"]["type"] for each in trainings(laptop)[before:]] == ["COMPLETED"], "none was started twice"
    assert "Traceback" not in laptop.log(run)


def test_a_run_of_the_command_line_goes_on_while_the_server_is_away(laptop: Laptop, tmp_path: Path) -> None:
    arguments = ["--dataset", "digits", "--epochs", "300", "--batch-size", "32", "--device", "cpu", "--seed", "4"]
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "run", *arguments, "--store", str(tmp_path / "store")],
        cwd=tmp_path,
        env={**laptop.environment, **laptop.settings, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: list((tmp_path / "store").glob("checkpoints/**/*")), 120)
    laptop.take_server_away()
    time.sleep(10)
    laptop.bring_server_back()
    output, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    assert "PUBLISHED digits version 1" in output
    assert "Traceback" not in errors
    assert "EventsWorker" not in errors


@pytest.mark.nightly
def test_a_killed_training_machine_is_noticed_though_the_server_was_away(laptop: Laptop) -> None:
    run = begin(laptop, 5, "RUNNING")
    training = trainings(laptop)[-1]["id"]
    kill_all(laptop.process("worker training"), laptop.run_process("training"))
    laptop.take_server_away()
    laptop.bring_server_back()
    start = time.monotonic()
    assert laptop.up().returncode == 0  # another machine
    crashed = laptop.ended(training, NOTICED)
    print(f"noticed after {time.monotonic() - start:.0f} s")
    assert (crashed["state"]["type"], crashed["state"]["message"]) == (
        "CRASHED",
        "no sign of life for 150 s: its process or its machine is gone",
    )
    assert laptop.ended(run)["state"]["name"] == "Published"
    assert "train: resumes after epoch" in laptop.log(trainings(laptop)[-1]["id"])


@pytest.mark.nightly
def test_a_scheduled_run_whose_worker_and_server_died_blocks_no_later_one(laptop: Laptop) -> None:
    """Once while Pending, once while Running; Prefect's own limit would be taken for ever."""
    pending = laptop.start("retrain/scheduled", **digits(6, epochs=1))
    eventually(lambda: laptop.run(pending)["state"]["type"] == "PENDING")
    worker = laptop.process("worker jobs")
    kill_all(worker, *worker.children(recursive=True))
    laptop.take_server_away()
    laptop.bring_server_back()
    assert laptop.run(pending)["state"]["type"] == "PENDING"
    assert laptop.up().returncode == 0
    running = begin(laptop, 7, "RUNNING")  # is not cancelled
    waiting = laptop.run_process("jobs")
    kill_all(laptop.process("worker jobs"), waiting)
    assert laptop.up().returncode == 0
    start = time.monotonic()
    last = laptop.start("retrain/scheduled", **digits(8, epochs=1))
    assert laptop.ended(last, NOTICED + 90)["state"]["name"] in {"Published", "Unchanged"}
    print(f"a dead run was overtaken after {time.monotonic() - start:.0f} s")
    assert laptop.run(running)["state"]["type"] == "CRASHED"
    assert "no sign of life for 150 s" in laptop.run(running)["state"]["message"]
    laptop.ended(trainings(laptop)[-1]["id"])


@pytest.mark.nightly
def test_a_training_that_is_being_cancelled_when_its_worker_dies_is_cancelled(laptop: Laptop) -> None:
    run = begin(laptop, 9, "RUNNING", "retrain/on-demand")
    training, process = trainings(laptop)[-1]["id"], laptop.run_process("training")
    worker = laptop.process("worker training")
    for each in (worker, process):
        each.send_signal(signal.SIGSTOP)
    laptop.api(
        "POST",
        f"flow_runs/{training}/set_state",
        {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True},
    )
    kill_all(worker, process)
    start = time.monotonic()
    assert laptop.up().returncode == 0
    assert laptop.ended(training, NOTICED)["state"]["type"] == "CANCELLED"
    print(f"cancelled after {time.monotonic() - start:.0f} s")
    assert "was cancelled: no sign of life for 150 s" in laptop.ended(run)["state"]["message"]


def test_the_log_of_a_rejected_run_holds_no_error(laptop: Laptop) -> None:
    run = laptop.start("retrain/ci", **digits(10, epochs=1) | {"gate": {"min_accuracy": 0.999}})
    assert laptop.ended(run)["state"]["name"] == "Rejected"
    query = {"logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": 40}}}
    assert [line["message"] for line in laptop.api("POST", "logs/filter", query)] == []
