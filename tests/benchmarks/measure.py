"""Runs processes in turn and measures each, so that a machine that becomes slower affects all of them alike.

Wall seconds and peak memory are the operating system's account of each finished process. Memory is that of the largest
single process of its tree.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx


class Measured(NamedTuple):
    """One finished process: wall seconds, peak memory in MB, what it printed."""

    seconds: float
    megabytes: float
    printed: str


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=errors)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}: {errors.read().strip()[-500:]}")
        return Measured(seconds, usage.ru_maxrss * 1024 / 1e6, output.read())


def rounds(rows: Mapping[str, Callable[[int], Measured]], count: int) -> dict[str, list[Measured]]:
    """Run each row `count` times: all rows once, then all rows again. A row gets the number of the round, from 0."""
    measured: dict[str, list[Measured]] = {name: [] for name in rows}
    for number in range(count):
        for name, run in rows.items():
            measured[name].append(run(number))
            print(f"round {number + 1}: {name}: {measured[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    return measured


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range, as text."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(values: Iterable[float], base: Iterable[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Run a Prefect server for the block, and give its API address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}/api", time.monotonic() + 120
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the Prefect server does not start")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health").is_success
    return False
