"""Publishing despite kills, races and faults, with real processes and real servers.

Each kind of store is a server with a proxy in front: the proxy counts, breaks and kills. Slow: `make test-faults`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.config import Config

from tasks.errors import RetrainError
from tasks.registry import Registry
from tasks.storage import open_store
from tasks.storage.probe import check
from tasks.storage.s3 import CONFIG
from tests.faults import servers
from tests.faults.proxy import Fault, Proxy
from tests.faults.publisher import contents
from tests.tasks.registry.racing import race

# Requests that change the store, of one publish: marker, two files, manifest, pointer, history; or where the history
# decides: marker, two files, claim, manifest, history, claim removed, pointer. And how many until the champion moves.
WRITES = {"pointer": 6, "history": 8}
DECIDED = {"pointer": 5, "history": 6}


@pytest.fixture(scope="module", params=servers.KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Iterator[servers.Running]:
    """A running server of each kind, with its proxy."""
    with servers.running(request.param) as running:
        yield running


@pytest.fixture
def store(kind: servers.Running, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store there."""
    yield kind.new_store(tmp_path)
    if kind.proxy:
        kind.proxy.reset()


@pytest.fixture
def proxy(kind: servers.Running) -> Proxy:
    assert kind.proxy
    return kind.proxy


@pytest.fixture
def fail_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer attempts and shorter time-outs, so that a lasting fault fails soon."""
    retries = Config(retries={"total_max_attempts": 2}, read_timeout=1)
    monkeypatch.setattr("tasks.storage.s3.CONFIG", CONFIG.merge(retries))


def start(store: str, first: int, count: int = 1, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.publisher", store, str(first), str(count)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def published_by(process: subprocess.Popen[str]) -> dict[int, int]:
    """Start a waiting publisher: the version of each content that it published before its end."""
    printed, errors = process.communicate("go\n", timeout=150)
    assert process.returncode in {0, -9}, errors
    return {int(line.split()[0]): int(line.split()[1]) for line in printed.splitlines()}


def publish(store: str, number: int) -> int:
    return (
        Registry(open_store(store), "mnist").publish(contents(number), {"number": number}, f"content {number}").version
    )


def numbers_published(store: str) -> list[int]:
    """The content number of every version, by version; each was verified."""
    registry = Registry(open_store(store), "mnist")
    for version in registry.versions():
        assert registry.verify(version) == []
    assert registry.verify_champion() == []
    return [int(registry.manifest(version).facts["number"]) for version in registry.versions()]


def settled(store: str) -> None:
    """Nothing is half done: versions are consecutive, the pointer is the newest entry of a history without doubles."""
    registry = Registry(open_store(store), "mnist")
    history, champion = registry.history(), registry.champion()
    assert registry.versions() == list(range(1, len(registry.versions()) + 1))
    assert len({entry.publish_id for entry in history}) == len(history)
    assert sorted(entry.version for entry in history) == registry.versions()
    assert history[-1] == champion
    recorded = list(open_store(store).list("models/mnist/history/0"))
    assert len(recorded) == len(history)


@pytest.mark.parametrize("writes", range(1, WRITES["history"] + 1))
def test_a_publisher_killed_after_any_write_loses_nothing(kind: servers.Running, store: str, writes: int) -> None:
    decides = check(open_store(store)).decides
    if writes > WRITES[decides]:
        pytest.skip("a publish makes fewer writes here")
    publish(store, 1)
    victim = start(store, 2, 1, **kind.dying(writes))
    kind.kill(victim.pid, writes)
    assert published_by(victim) == {}
    assert victim.returncode == -9

    registry = Registry(open_store(store), "mnist")
    champion = registry.champion()
    assert champion
    assert registry.verify(champion) == []
    assert registry.manifest(champion).facts["number"] == champion.version
    assert champion.version == (2 if writes >= DECIDED[decides] else 1)

    assert published_by(start(store, 2)) == {2: 2}
    assert numbers_published(store) == [1, 2]
    settled(store)


def test_another_publish_after_a_kill_is_not_held_up(kind: servers.Running, store: str) -> None:
    publish(store, 1)
    victim = start(store, 2, 1, **kind.dying(3))
    kind.kill(victim.pid, 3)
    assert published_by(victim) == {}
    assert publish(store, 3) == 3
    assert publish(store, 2) == 2
    assert numbers_published(store) == [1, 2, 3]
    settled(store)


def test_publishers_that_race_lose_nothing(kind: servers.Running, store: str) -> None:
    processes, each = 5, 8
    racers = [start(store, process * each, each) for process in range(processes)]
    with ThreadPoolExecutor(processes) as threads:
        versions = {
            number: version for printed in threads.map(published_by, racers) for number, version in printed.items()
        }
    assert sorted(versions) == list(range(processes * each))
    assert sorted(versions.values()) == list(range(1, processes * each + 1))
    published = numbers_published(store)
    assert {number: published[version - 1] for number, version in versions.items()} == {
        number: number for number in versions
    }
    settled(store)


# One server whose pointer decides, one whose history does.
BROKEN = pytest.mark.parametrize("kind", [servers.MOTO, servers.IGNORING], indirect=True, ids=lambda kind: kind.name)

PASSING = [
    Fault("status", method="PUT", times=3),
    Fault("status", method="GET", times=3),
    Fault("status", method="PUT", status=409, code="ConditionalRequestConflict"),
    Fault("status", method="PUT", status=400, code="XAmzContentSHA256Mismatch"),
    Fault("status", method="PUT", status=500, code="InternalError"),
    Fault("reset", times=2),
    Fault("lost", method="PUT", path="model.keras"),
    Fault("lost", method="PUT", path="manifest"),
    Fault("lost", method="PUT", path="champion"),
    Fault("lost", method="PUT", path="history"),
    Fault("lost", method="PUT", path="content-"),
    Fault("reset in body", method="GET", path="model.keras"),
    Fault("reset in body", method="GET", path="champion"),
    Fault("truncated", method="GET", path="manifest"),
    Fault("truncated", method="GET", path="list-type"),
    Fault("corrupted", method="GET", path="model.keras"),
    Fault("corrupted", method="GET", path="manifest"),
    Fault("corrupted", method="GET", path="champion"),
    Fault("corrupted", method="GET", path="history/"),
]


@BROKEN
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind} {fault.status} {fault.method} {fault.path}")
def test_a_publish_survives_a_fault_that_passes(proxy: Proxy, store: str, fault: Fault) -> None:
    publish(store, 1)
    registry = Registry(open_store(store), "mnist")
    capabilities = registry.capabilities
    proxy.faults.append(replace(fault))
    again = Registry(open_store(store), "mnist", capabilities)
    assert again.publish(contents(2), {"number": 2}, "content 2").version == 2
    assert proxy.faults[0].times == 0, "no request got the fault"
    assert numbers_published(store) == [1, 2]
    settled(store)


@pytest.mark.parametrize(
    "kind", [servers.LOCAL, servers.MOTO, servers.IGNORING], indirect=True, ids=lambda kind: kind.name
)
@pytest.mark.parametrize("history_decides", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_publishes_that_follow_one_champion_race_while_others_read(
    kind: servers.Running, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history_decides: bool
) -> None:
    monkeypatch.setenv("RETRAIN_HISTORY_DECIDES", str(history_decides))
    race(store, check(open_store(store)), 40, tmp_path / "fetched")


LASTING = [
    Fault("status", method="PUT", path="manifest", times=None),
    Fault("status", method="PUT", path="champion", times=None, status=403, code="AccessDenied"),
    Fault("reset", method="PUT", path="history", times=None),
    Fault("status", method="PUT", path="history", times=None, status=403, code="AccessDenied"),
    Fault("lost", method="PUT", path="model.keras", times=None),
    Fault("hang", method="PUT", path="champion", times=None),
    Fault("truncated", method="GET", path="model.keras", times=None),
    Fault("corrupted", method="GET", path="report.html", times=None),
    Fault("corrupted", method="GET", path="champion", times=None),
]


@BROKEN
@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: f"{fault.kind} {fault.method} {fault.path}")
def test_a_fault_that_lasts_is_one_line_and_the_next_publish_completes(
    proxy: Proxy, store: str, fault: Fault, fail_fast: None, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, 1)
    capabilities = Registry(open_store(store), "mnist").capabilities
    proxy.faults.append(replace(fault))
    broken = Registry(open_store(store), "mnist", capabilities)
    late = {"pointer": "history", "history": "champion"}[capabilities.decides]
    if fault.path == late and (fault.method == "PUT" or late == "champion"):  # written after the champion has moved
        assert broken.publish(contents(2), {"number": 2}, "content 2").new
        assert "version 2 is the champion; the next publish repairs this" in caplog.text
    else:
        with pytest.raises(RetrainError) as caught:
            broken.publish(contents(2), {"number": 2}, "content 2")
        assert "\n" not in str(caught.value)
    proxy.faults.clear()
    champion = Registry(open_store(store), "mnist").champion()
    assert champion
    assert Registry(open_store(store), "mnist").verify(champion) == []
    assert publish(store, 2) == 2
    assert numbers_published(store) == [1, 2]
    settled(store)
