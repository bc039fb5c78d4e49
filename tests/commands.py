"""Commands as a user runs them, for the tests: processes, with a server and a store that a first run has filled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli.main", *arguments]


def retrain(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env={**os.environ, **environment}, capture_output=True, text=True, timeout=150, check=False
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A store that a first run with a temporary server has filled, and the finished process of that run."""
    store = tmp_path_factory.mktemp("digits") / "store"
    return store, retrain("run", "--dataset", "digits", "--store", str(store))


@pytest.fixture
def server(prefect_server: None) -> dict[str, str]:
    """The environment with which a command uses the server of the tests instead of starting one."""
    from prefect.settings import PREFECT_API_URL

    return {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}
