"""The whole job, unchanged, on every kind of store: it publishes once, and a second run reuses every step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.registry import Registry
from tasks.storage import open_store
from tests.faults import servers

# `retrain`, where a resolver, which no time-out reaches, holds each request for ten minutes, and a file may take 1 s.
HANGING = """
import functools, socket, sys, time
from flows.cli.main import main
from tasks.data import mirrors

def hang(host, *rest, **more):
    if host == "hangs.example.org":
        time.sleep(600)
    return here(host, *rest, **more)

here, socket.getaddrinfo = socket.getaddrinfo, hang
mirrors.RetryPolicy = functools.partial(mirrors.RetryPolicy, per_file=1.0)
sys.exit(main())
"""

DECIDES = {"moto, swap refused": "history", "moto, conditions ignored": "history", "s3rver": "history"}


def start(store: str, **settings: str) -> subprocess.Popen[str]:
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, "-m", "flows.cli.main", "run", "--dataset", "digits", "--store", store, "--json"]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or "", **settings}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict:  # type: ignore[type-arg]
    printed, errors = process.communicate(timeout=170)
    assert process.returncode == 0, errors
    return json.loads(printed)  # type: ignore[no-any-return]


def retrain(store: str) -> dict:  # type: ignore[type-arg]
    return finished(start(store))


@pytest.mark.parametrize("kind", servers.KINDS, ids=lambda kind: kind.name)
def test_the_job_runs_on_every_kind_of_store(kind: servers.Kind, tmp_path: Path, prefect_server: None) -> None:
    with servers.running(kind) as running:
        store = running.new_store(tmp_path)
        first, second = retrain(store), retrain(store)
        assert (first["verdict"], second["verdict"]) == ("published", "already published")
        assert first["receipt"]["decides"] == DECIDES.get(kind.name, "pointer")
        assert sum(step["cached"] for step in second["steps"]) == 7
        registry = Registry(open_store(store), "digits")
        champion = registry.champion()
        assert champion
        assert registry.verify(champion) == []
        assert [pointer.version for pointer in registry.history()] == registry.versions() == [1]


def test_two_runs_that_start_together_disturb_nothing(bucket: str, tmp_path: Path, prefect_server: None) -> None:
    """Each on a machine of its own; at worst both do the work, and the second one publishes nothing."""
    both = [start(bucket, RETRAIN_HOME=str(tmp_path / name)) for name in ("one", "two")]
    first, second = (finished(process) for process in both)
    assert first["decision"]["checks"][:4] == second["decision"]["checks"][:4]
    assert {first["verdict"], second["verdict"]} == {"published", "already published"}
    registry = Registry(open_store(bucket), "digits")
    assert len(registry.versions()) == len(registry.history()) == 1
    assert registry.verify(registry.versions()[0]) == []
    assert registry.verify_champion() == []
    third = retrain(bucket)
    # The report states the seconds of the results that were cached last, from either run, so it may be computed again.
    cached = {step["name"] for step in third["steps"] if step["cached"]}
    assert cached >= {"download", "preprocess", "train", "evaluate", "load_back"}
    assert third["verdict"] == "already published"


def test_a_run_that_is_killed_while_it_trains_goes_on(tmp_path: Path, prefect_server: None) -> None:
    store, whole = open_store(str(tmp_path / "store")), open_store(str(tmp_path / "whole"))
    process = start(store.url)
    deadline = time.monotonic() + 120
    while not list(store.list("checkpoints/train/")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert list(store.list("checkpoints/train/"))
    again = start(store.url)
    printed, log = again.communicate(timeout=170)
    assert "train: resumes after epoch" in log
    assert [step["name"] for step in json.loads(printed)["steps"] if step["cached"]] == ["download", "preprocess"]
    retrain(whole.url)
    weights = [Registry(each, "digits").manifest(1).facts["weights_digest"] for each in (store, whole)]
    assert weights[0] == weights[1]
    assert not list(store.list("checkpoints/train/"))


def test_a_download_that_was_given_up_does_not_keep_the_process(tmp_path: Path, prefect_server: None) -> None:
    """Its thread cannot be ended: it waits for a resolver that does not answer."""
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, "-c", HANGING, "run", "--store", str(tmp_path), "--mirror", "https://hangs.example.org/"]
    server, root = PREFECT_API_URL.value() or "", str(Path(__file__).parents[2])
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": root}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("retrain: cannot download mnist: https://hangs.example.org/: did not deliver"):
                break
        assert process.wait(60) == 1  # Prefect sends what it has
