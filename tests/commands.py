"""Commands as a user runs them, for the tests: processes, with a server and a store that a first run has filled."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli.main", *arguments]


# Runs each of its commands, and says the exit code after what it has printed.
SEVERAL = """
import json, sys
from flows.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    print(f"\\0{code}\\0", end="", flush=True)
"""


def several(commands: Sequence[Sequence[str]]) -> list[str]:
    """A process that runs these commands one after the other: to start one takes longer than to run most of them."""
    return [sys.executable, "-c", SEVERAL, json.dumps(commands)]


def parts(printed: str) -> list[tuple[int, str]]:
    """The exit code and the output of each command of `several`."""
    *cut, rest = re.split("\0(\\d+)\0", printed)
    assert not rest, printed
    return [(int(code), text) for text, code in zip(cut[::2], cut[1::2], strict=True)]


# Runs Prefect's own command once for each list of words.
PREFECT = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = ["prefect", *words]
    try:
        runpy.run_module("prefect", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, end.code
    print("\\0", end="", flush=True)
"""


def run_prefect(commands: Iterable[Sequence[str]], **environment: str) -> list[str]:
    """What each of these commands prints; one process runs them, as its import of Prefect takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", PREFECT, json.dumps(list(commands))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split("\0")[:-1]


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
