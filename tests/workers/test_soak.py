"""A quarter of an hour of scheduled runs, two a minute, while servers and workers die: `make test-nightly`.

Every run that was due ends as what it was, none is lost, and people are told of each once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.workers.laptop import FINAL, Laptop, eventually, kill_all, make_block
from tests.workers.test_dispatch import LENIENT, digits

RUNS, SECONDS = 30, 30
TOLD = {"Rejected", "Crashed", "Failed", "Cancelled"}  # that no weights are new is no news


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path)
    assert laptop.up().returncode == 0
    yield laptop
    assert laptop.retrain("down").returncode == 0


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_scheduled_runs_outlive_servers_and_workers_and_each_is_told_once(
    laptop: Laptop, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    address, posted = inbox
    make_block(laptop, address)
    told = laptop.retrain("up", "--notify", "custom-webhook/team")
    assert told.returncode == 0, told.stderr
    first = laptop.start("retrain/scheduled", **digits(0, epochs=5))  # trains; the scheduled ones find it in the cache
    assert laptop.ended(first)["state"]["name"] == "Published"

    start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=60)
    end = start + timedelta(seconds=RUNS * SECONDS)
    schedules = [schedule(laptop, start, 0, LENIENT), schedule(laptop, start, SECONDS, {"min_accuracy": 1.0})]
    fifth = (end - start) / 5
    # Not while a run's process starts: Prefect's first requests there do not wait for the server.
    between = timedelta(seconds=SECONDS / 2)
    wait_until(start + fifth + between)
    restart_server(laptop, away=10)
    wait_until(start + 2 * fifth)
    killed = replace_worker(laptop)
    wait_until(start + 3 * fifth + between)
    restart_server(laptop, away=40)
    wait_until(start + 4 * fifth)
    killed |= replace_worker(laptop)
    wait_until(end - between)
    id = laptop.api("GET", "deployments/name/retrain/scheduled")["id"]
    for each in schedules:
        laptop.api("PATCH", f"deployments/{id}/schedules/{each}", {"active": False})

    # A run that was taken and had not begun when its worker died is found dead after 15 minutes.
    eventually(lambda: all(run["state"]["type"] in FINAL for run in due(laptop, start, end)), 1100)
    runs = due(laptop, start, end)
    moments = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert moments == [start + timedelta(seconds=SECONDS * number) for number in range(RUNS)], "none is lost"
    names = Counter(run["state"]["name"] for run in runs)
    print(dict(names))
    assert names.keys() <= {"Unchanged", "Rejected", "Crashed", "Cancelled"}
    crashed = {run["id"]: run["state"]["message"] for run in runs if run["state"]["name"] == "Crashed"}
    assert crashed.keys() <= killed, f"nothing else crashed: {crashed}"
    assert names["Unchanged"] >= RUNS / 6, names
    assert names["Rejected"] >= RUNS / 6, names
    for run in runs:
        if run["state"]["type"] == "CANCELLED":
            assert "another run of this deployment is at work" in run["state"]["message"]
    # An interval has no beginning: there may be one before the first that is counted.
    scheduled = [run for run in laptop.runs("retrain/scheduled") if run["auto_scheduled"]]
    ids = [first, *(run["id"] for run in scheduled if run["state"]["name"] in TOLD)]
    eventually(lambda: len(posted) >= len(ids), 60)
    time.sleep(10)  # for any more
    assert Counter(each["text"].split()[-1].rpartition("/")[2] for each in posted) == Counter(ids)
    log = (laptop.folder / "home/up/server.log").read_text()
    assert "database is locked" not in log


def schedule(laptop: Laptop, start: datetime, offset: int, gate: dict[str, float]) -> str:
    """A run each minute with this gate, from `start` and `offset` seconds on; the schedule's id."""
    id = laptop.api("GET", "deployments/name/retrain/scheduled")["id"]
    every = {"interval": 2 * SECONDS, "anchor_date": (start + timedelta(seconds=offset)).isoformat()}
    body = [{"schedule": every, "active": True, "parameters": digits(0, epochs=5) | {"gate": gate}}]
    return str(laptop.api("POST", f"deployments/{id}/schedules", body)[0]["id"])


def due(laptop: Laptop, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """The runs that were due, by their time."""
    found = [run for run in laptop.runs("retrain/scheduled") if run["auto_scheduled"]]
    inside = [run for run in found if start <= datetime.fromisoformat(run["expected_start_time"]) < end]
    return sorted(inside, key=lambda run: run["expected_start_time"])


def restart_server(laptop: Laptop, away: float) -> None:
    laptop.take_server_away()
    time.sleep(away)
    laptop.bring_server_back()


def replace_worker(laptop: Laptop) -> set[str]:
    """Kill the worker with whatever it runs, as a reboot does, and start another; the ids of what it had taken."""
    worker = laptop.process("worker jobs")
    kill_all(worker, *worker.children(recursive=True))
    # Only now: until the next worker starts, nobody takes another.
    taken = {run["id"] for run in laptop.runs("retrain/scheduled") if run["state"]["type"] in {"PENDING", "RUNNING"}}
    started = laptop.up()
    assert started.returncode == 0, started.stderr
    return taken


def wait_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
