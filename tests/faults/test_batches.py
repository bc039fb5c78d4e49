"""A source that grows, under runs that are killed and runs that start together."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tasks.registry import Registry
from tasks.storage import open_store
from tests.batches import arrive, digits, name
from tests.commands import command, server

__all__ = ["server"]  # a fixture

MODEL = "grown"
LIMITS = ("--min-accuracy", "0.5", "--min-class-recall", "0.1", "--max-regression", "0.2", "--seeds", "1")


def start(folder: Path, store: str, server: dict[str, str], **more: str) -> subprocess.Popen[str]:
    words = command("run", "--source", f"{folder}/*", "--model", MODEL, "--store", store, "--epochs", "8", *LIMITS)
    return subprocess.Popen(
        [*words, "--json"],
        env={**os.environ, **server, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def verdict(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return str(json.loads(printed)["verdict"])


def history(store: str) -> list[tuple[list[str], str]]:
    """The batches and the weights of each version."""
    registry = Registry(open_store(store), MODEL)
    assert registry.verify_champion() == []
    manifests = [registry.manifest(version) for version in registry.versions()]
    return [
        ([each["name"] for each in manifest.facts["data"]["batches"]], manifest.facts["weights_digest"])
        for manifest in manifests
    ]


@pytest.mark.timeout(600)  # four runs, each of which imports TensorFlow
def test_two_runs_that_see_the_same_new_batch_learn_from_it_once(
    bucket: str, tmp_path: Path, server: dict[str, str]
) -> None:
    for number, content in enumerate(digits(6)[:2]):
        arrive(tmp_path / "in", name(number), content)
        both = [start(tmp_path / "in", bucket, server, RETRAIN_HOME=str(tmp_path / home)) for home in ("one", "two")]
        assert {verdict(process) for process in both} == {"published", "already published"}
    assert [batches for batches, _ in history(bucket)] == [[name(0)], [name(0), name(1)]]


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_runs_that_are_killed_at_any_moment_change_nothing_in_the_end(tmp_path: Path, server: dict[str, str]) -> None:
    chance, disturbed, quiet = random.Random(5), f"file://{tmp_path}/disturbed", f"file://{tmp_path}/quiet"
    for number, content in enumerate(digits(6)[:5]):
        arrive(tmp_path / "in", name(number), content)
        assert verdict(start(tmp_path / "in", quiet, server)) == "published"
        for _ in range(2):
            killed = start(tmp_path / "in", disturbed, server)
            time.sleep(chance.uniform(1, 20))
            os.killpg(killed.pid, signal.SIGKILL)
            killed.communicate()
        assert verdict(start(tmp_path / "in", disturbed, server)) in {"published", "already published"}
    assert history(disturbed) == history(quiet)
