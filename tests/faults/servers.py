"""The stores of the publishing tests: a local one, and several kinds of S3 server, each behind the fault proxy.

moto and ministack come with the tests' requirements. `S3RVER` names the program of s3rver, from npm, where
it is installed: a server that accepts conditional writes and ignores them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from tests import s3
from tests.faults.proxy import Conditions, Proxy, proxying


class Kind(NamedTuple):
    """A kind of store: how to start its server, and how its proxy treats conditional writes."""

    name: str
    serving: Callable[[], AbstractContextManager[str]] | None
    conditions: Conditions = "as they are"


@dataclass
class Running:
    """A running store; a local one has no proxy."""

    kind: Kind
    proxy: Proxy | None

    def new_store(self, folder: Path) -> str:
        """The address of an empty store."""
        if self.proxy is None:
            return str(folder / "store")
        name = f"test-{uuid.uuid4().hex[:12]}"
        s3.make_bucket(name)
        return f"s3://{name}/some/prefix"

    def kill(self, process: int, writes: int) -> None:
        """Kill a process once its next writes have landed; on a local store it does that itself, see `dying`."""
        if self.proxy:
            self.proxy.kill(process, writes)

    def dying(self, writes: int) -> dict[str, str]:
        """The settings of a publisher that is to be killed after so many writes."""
        return {} if self.proxy else {"TEST_DIE_AFTER": str(writes)}


@contextmanager
def running(kind: Kind) -> Iterator[Running]:
    """Start a store; while the block runs, the AWS settings point at its proxy."""
    if kind.serving is None:
        yield Running(kind, None)
        return
    with kind.serving() as upstream, proxying(upstream, kind.conditions) as proxy:
        yield Running(kind, proxy)


@contextmanager
def ministack() -> Iterator[str]:
    """An S3 server that shares no code with moto."""
    port = _free_port()
    settings = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "s3"}
    with _process([sys.executable, "-m", "ministack"], port, settings), patch.dict(os.environ, s3.SETTINGS):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3rver() -> Iterator[str]:
    """A server that accepts conditional writes and ignores them."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [os.environ["S3RVER"], "-d", folder, "-p", str(port), "-a", "127.0.0.1", "--silent"]
        keys = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}  # the only ones that it accepts
        with _process(command, port, {}), patch.dict(os.environ, s3.SETTINGS | keys):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _process(command: list[str], port: int, settings: dict[str, str]) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=quiet, stderr=quiet)
    try:
        _wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not listen on {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


LOCAL = Kind("local", None)
MOTO = Kind("moto", s3.serving)
IGNORING = Kind("moto, conditions ignored", s3.serving, "ignored")
KINDS: list[Any] = [
    LOCAL,
    pytest.param(MOTO, marks=pytest.mark.nightly),  # as ministack, another server that enforces conditions
    # Each differs from the others in the probe alone, which has tests of its own.
    pytest.param(Kind("moto, unquoted ETags only", s3.serving, "unquoted only"), marks=pytest.mark.nightly),
    pytest.param(Kind("moto, swap refused", s3.serving, "swap refused"), marks=pytest.mark.nightly),
    IGNORING,
    Kind("ministack", ministack),
]
if "S3RVER" in os.environ:
    KINDS.append(Kind("s3rver", s3rver))
