"""The whole job, unchanged, on every kind of store: it publishes once, and a second run finds all it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.storage import Registry, open_store
from tests.faults import servers

DECIDES = {"moto, swap refused": "history", "moto, conditions ignored": "history", "s3rver": "history"}


def retrain(store: str) -> dict:  # type: ignore[type-arg]
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, "-m", "flows.cli", "run", "--dataset", "digits", "--store", store, "--json"]
    settings = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", servers.KINDS, ids=lambda kind: kind.name)
def test_the_job_runs_on_every_kind_of_store(kind: servers.Kind, tmp_path: Path, prefect_server: None) -> None:
    with servers.running(kind) as running:
        store = running.new_store(tmp_path)
        first, second = retrain(store), retrain(store)
        assert (first["verdict"], second["verdict"]) == ("published", "already published")
        assert first["receipt"]["decides"] == DECIDES.get(kind.name, "pointer")
        assert sum(step["cached"] for step in second["steps"]) == 5
        registry = Registry(open_store(store), "digits")
        champion = registry.champion()
        assert champion
        assert registry.verify(champion) == []
        assert [pointer.version for pointer in registry.history()] == registry.versions() == [1]
