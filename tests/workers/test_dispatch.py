"""Training on the work pool `retrain-training`, with a real server and workers, and each of its failures.

Each test leaves server and workers running, and no run in progress.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.registry import Registry
from tests.workers.laptop import Laptop, eventually, gone, kill_all

# Long enough to be killed in the middle; each test has its own seed, so no test reuses a training of another.
EPOCHS = 60

LENIENT = {"min_accuracy": 0.9, "min_accuracy_lower_bound": 0.9, "min_class_recall": 0.5, "max_regression": 0.5}

# Seconds: the silence that the waiting run accepts, and some time to act.
NOTICED = 150 + 60


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path_factory.mktemp("laptop"))
    started = laptop.up()
    assert started.returncode == 0, started.stderr
    yield laptop
    assert laptop.retrain("down").returncode == 0


def digits(seed: int, **recipe: object) -> dict[str, Any]:
    """The parameters of a run; its limits are so low that every seed passes."""
    return {
        "data": {"dataset": "digits"},
        "recipe": {"epochs": EPOCHS, "batch_size": 32, "seed": seed, **recipe},
        "gate": LENIENT,
    }


def begin(laptop: Laptop, seed: int, deployment: str = "retrain/on-demand") -> str:
    """Start a run and wait until its training, on the other pool, has kept a checkpoint."""
    run = laptop.start(deployment, **digits(seed))
    eventually(laptop.checkpoints, 300)
    return run


def trainings(laptop: Laptop) -> list[dict[str, Any]]:
    return laptop.runs("train/worker")


def published_weights(laptop: Laptop) -> str:
    registry = Registry(laptop.store, "digits")
    champion = registry.champion()
    assert champion
    return str(registry.manifest(champion).facts["weights_digest"])


@pytest.mark.timeout(600)
def test_a_killed_training_goes_on_from_its_checkpoint_and_ends_with_the_same_weights(laptop: Laptop) -> None:
    run = begin(laptop, 1)
    laptop.run_process("training").kill()
    ended = laptop.ended(run)
    assert ended["state"]["name"] == "Published", ended["state"]
    killed, resumed = trainings(laptop)[-2:]
    assert (killed["state"]["type"], resumed["state"]["type"]) == ("CRASHED", "COMPLETED")
    assert "train: resumes after epoch" in laptop.log(resumed["id"])
    assert not laptop.checkpoints()

    weights = published_weights(laptop)
    whole = Laptop(laptop.folder / "whole")
    whole.folder.mkdir()
    settings = ["--dataset", "digits", "--epochs", str(EPOCHS), "--batch-size", "32", "--seed", "1", "--device", "cpu"]
    done = whole.retrain("run", *settings, **laptop.settings)
    assert done.returncode == 0, done.stderr
    assert published_weights(whole) == weights


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_killed_worker_takes_its_training_along_and_the_next_worker_goes_on(laptop: Laptop) -> None:
    run = begin(laptop, 2)
    training = laptop.run_process("training")
    laptop.kill("worker training")
    gone(training)
    assert laptop.retrain("status").returncode == 1
    assert laptop.up().returncode == 0
    assert laptop.retrain("status").returncode == 0
    assert laptop.ended(run)["state"]["name"] == "Published"
    assert "train: resumes after epoch" in laptop.log(trainings(laptop)[-1]["id"])


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_machine_that_is_gone_is_noticed_and_another_one_goes_on(laptop: Laptop) -> None:
    run = begin(laptop, 3)
    (training,) = [each for each in trainings(laptop) if each["state"]["type"] == "RUNNING"]
    kill_all(laptop.process("worker training"), laptop.run_process("training"))
    start = time.monotonic()
    assert laptop.up().returncode == 0  # another machine
    crashed = laptop.ended(training["id"], NOTICED)
    print(f"noticed after {time.monotonic() - start:.0f} s")
    assert crashed["state"]["type"] == "CRASHED"
    assert "no sign of life for 150 s" in crashed["state"]["message"]
    assert laptop.ended(run)["state"]["name"] == "Published"
    print(f"published after {time.monotonic() - start:.0f} s")
    assert "train: resumes after epoch" in laptop.log(trainings(laptop)[-1]["id"])


@pytest.mark.timeout(600)
def test_a_cancelled_run_cancels_its_training_and_ends_the_process(laptop: Laptop) -> None:
    run = begin(laptop, 4)
    waiting, training = laptop.run_process("jobs"), laptop.run_process("training")
    laptop.api("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    start = time.monotonic()
    gone(waiting)
    gone(training)
    print(f"gone after {time.monotonic() - start:.0f} s")
    assert laptop.ended(run)["state"]["type"] == "CANCELLED"
    assert laptop.ended(trainings(laptop)[-1]["id"])["state"]["type"] == "CANCELLED"
    for entry in laptop.checkpoints():
        laptop.store.delete(entry)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_training_that_ends_after_the_run_that_waited_is_found_by_the_next(laptop: Laptop) -> None:
    run = begin(laptop, 5)
    laptop.run_process("jobs").kill()
    assert laptop.ended(run)["state"]["type"] == "CRASHED"
    assert laptop.ended(trainings(laptop)[-1]["id"])["state"]["type"] == "COMPLETED"
    before = len(trainings(laptop))
    again = laptop.start("retrain/on-demand", **digits(5))
    assert laptop.ended(again)["state"]["name"] == "Published"
    assert "train: reused" in laptop.log(again)
    assert len(trainings(laptop)) == before, "a cached training starts no run on the pool"


@pytest.mark.timeout(600)
def test_two_runs_at_once_train_once_and_one_after_the_other(laptop: Laptop) -> None:
    both = [laptop.start("retrain/on-demand", **digits(6)) for _ in range(2)]
    names = sorted(laptop.ended(run)["state"]["name"] for run in both)
    assert names in (["Published", "Published"], ["Published", "Unchanged"])
    first, second = trainings(laptop)[-2:]
    assert first["end_time"] <= second["start_time"], "one training at a time"
    assert "train: reused" in laptop.log(second["id"])


@pytest.mark.timeout(600)
def test_a_pool_without_a_gpu_says_so_within_seconds(laptop: Laptop) -> None:
    run = laptop.start("retrain/on-demand", **digits(7), device="gpu")
    message = laptop.ended(run)["state"]["message"]
    training = trainings(laptop)[-1]
    assert (
        "the training on the work pool retrain-training failed: cannot train on a GPU: no NVIDIA GPU is visible"
        in message
    )
    assert "is a CPU-only build sees ['/physical_device:CPU:0']" in message
    assert training["state"]["type"] == "FAILED"
    assert len(trainings(laptop)) == len({each["id"] for each in trainings(laptop)})
    assert not laptop.checkpoints()


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_scheduled_run_does_not_overtake_the_one_before(laptop: Laptop) -> None:
    first = laptop.start("retrain/scheduled", **digits(8, epochs=10 * EPOCHS))  # at work until the second one asks
    eventually(laptop.checkpoints, 300)
    second = laptop.start("retrain/scheduled", **digits(8))
    state = laptop.ended(second)["state"]
    assert (state["type"], "of this deployment is at work" in state["message"]) == ("CANCELLED", True)
    assert laptop.ended(first)["state"]["name"] == "Published"


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_worker_that_went_away_before_it_began_is_missed(laptop: Laptop) -> None:
    laptop.kill("worker training")  # the server shows it as ready for a while
    run = laptop.start("retrain/on-demand", **digits(10))
    message = laptop.ended(run)["state"]["message"]
    assert "cannot train on the work pool retrain-training: " in message
    assert "Start one: prefect worker start --pool retrain-training --limit 1" in message
    assert trainings(laptop)[-1]["state"]["type"] == "CANCELLED"
    assert laptop.up().returncode == 0


@pytest.mark.timeout(600)
@pytest.mark.nightly
def test_seeds_wait_in_the_pool_together_and_a_cancelled_run_cancels_them_all(laptop: Laptop) -> None:
    before = len(trainings(laptop))
    cancelled = laptop.start("retrain/on-demand", **digits(10, epochs=10 * EPOCHS), seeds="3")
    eventually(laptop.checkpoints, 300)
    ours = [each["id"] for each in trainings(laptop)[before:]]
    assert len(ours) == 3, "all are in the pool before the first one has ended"
    laptop.api("POST", f"flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert laptop.ended(cancelled)["state"]["type"] == "CANCELLED"
    assert {laptop.ended(run)["state"]["type"] for run in ours} == {"CANCELLED"}

    again = laptop.start("retrain/on-demand", **digits(10))  # `test_seeds` trains several
    assert laptop.ended(again)["state"]["name"] == "Published"
    assert [laptop.run(each["id"])["state"]["type"] for each in trainings(laptop)[before + 3 :]] == ["COMPLETED"]
    for entry in laptop.checkpoints():
        laptop.store.delete(entry)
