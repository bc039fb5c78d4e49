"""Two hundred runs on small data over a server and its workers: what grows is what is kept: `make test-nightly`.

Prints a line each time it looks, with what a run adds to the database and to the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.workers.laptop import FINAL, Laptop
from tests.workers.test_dispatch import digits

RUNS, EVERY = 200, 20
ANY = {"min_accuracy": 0.1, "min_accuracy_lower_bound": 0.1, "min_class_recall": 0.0, "max_regression": 0.9}
# What is loaded and filled once is, after so many.
WARM = 60


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path)
    laptop.environment["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    assert laptop.up().returncode == 0
    yield laptop
    assert laptop.retrain("down").returncode == 0


class Look(NamedTuple):
    """What server and workers hold after so many runs: memory in MB, open files, temporary files, MB on disk."""

    runs: int
    memory: dict[str, float]
    files: dict[str, int]
    temporary: int
    database: float
    store: float
    versions: int


def look(laptop: Laptop, runs: int) -> Look:
    processes = {name: laptop.process(name) for name in ("server", "worker jobs", "worker training")}
    return Look(
        runs,
        {name: process.memory_info().rss / 1e6 for name, process in processes.items()},
        {name: process.num_fds() for name, process in processes.items()},
        sum(1 for _ in (laptop.folder / "tmp").iterdir()),
        sum(path.stat().st_size for path in (laptop.folder / "home/up").glob("prefect.db*")) / 1e6,
        sum(path.stat().st_size for path in (laptop.folder / "store").rglob("*") if path.is_file()) / 1e6,
        len(list((laptop.folder / "store/models/digits/versions").glob("*/manifest.json"))),
    )


def ended(laptop: Laptop, run: str) -> str:
    """Wait until a run has ended, asking once a second, as many questions would be most of the server's work."""
    for _ in range(600):
        time.sleep(1)
        state = laptop.run(run)["state"]
        if state["type"] in FINAL:
            return str(state["name"])
    raise AssertionError(f"the run {run} has not ended after ten minutes")


@pytest.mark.nightly
@pytest.mark.timeout(14400)
def test_two_hundred_runs_leave_nothing_but_what_is_kept(laptop: Laptop) -> None:
    looks, states = list[Look](), set[str]()
    for number in range(1, RUNS + 1):
        # Every third one trains, as on a schedule whose data come now and then; none of the others has anything to do.
        chosen = digits(number // 3, epochs=1) | {"gate": ANY, "device": "cpu", "train_on": "here", "seeds": "1"}
        run = laptop.start("retrain/on-demand", **chosen)
        states.add(ended(laptop, run))
        if number % EVERY == 0:
            policy = ["--keep-champions", "3", "--keep-months", "0", "--older-than", "0", "--keep-runs-days", "1"]
            cleaned = laptop.retrain(
                "gc", "--source", "digits", "--store", str(laptop.folder / "store"), "--yes", *policy
            )
            assert cleaned.returncode == 0, cleaned.stderr
            cleared = laptop.retrain(
                "cache", "clear", "--store", str(laptop.folder / "store"), "--older-than", "0", "--yes"
            )
            assert cleared.returncode == 0, cleared.stderr
            looks.append(look(laptop, number))
            print(looks[-1], flush=True)
    assert states <= {"Published", "Unchanged", "Rejected"}, states
    warm = [each for each in looks if each.runs >= WARM]
    first, last = warm[0], warm[-1]
    for name in first.memory:
        assert last.memory[name] < first.memory[name] + 60, name
        assert last.files[name] <= first.files[name] + 5, name
    assert last.temporary <= first.temporary + 2
    assert last.versions <= first.versions + 1, "the policy keeps three champions and one a month"
    added = last.runs - first.runs
    print(f"a run adds {(last.database - first.database) / added:.3f} MB to the database, ", end="")
    print(f"{(last.store - first.store) / added:.3f} MB to the store")
    assert (last.database - first.database) / added < 1.5
