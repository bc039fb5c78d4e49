"""What the job costs beside the plain script: whole processes, interleaved, so that a drifting machine is fair to all.

    python -m tests.benchmarks.bench --mirror file:///data/mnist --rounds 3

Rows: the reference script; the job cold and cached, each with a temporary Prefect server and with a running one. Wall
seconds and peak memory are the operating system's own account of each finished process; memory is that of the largest
single process of its tree. Prints Markdown. Nothing here passes or fails by time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from tasks.caching.keys import installed
from tasks.device import describe


class Measured(NamedTuple):
    """One finished process: wall seconds, peak memory in MB, what it printed."""

    seconds: float
    megabytes: float
    printed: str


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end. Raises RuntimeError where it fails."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
        return Measured(seconds, usage.ru_maxrss / 1024, output.read())


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """The API address of a Prefect server that runs while the block does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        while not _answers(url):
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def rounds(rows: Mapping[str, Callable[[], Measured]], count: int) -> dict[str, list[Measured]]:
    """Each row `count` times, in turn."""
    found: dict[str, list[Measured]] = {name: [] for name in rows}
    for number in range(count):
        for name, run in rows.items():
            found[name].append(run())
            print(f"round {number + 1}: {name}: {found[name][-1].seconds:.1f} s", file=sys.stderr)
    return found


def table(found: Mapping[str, Sequence[Measured]]) -> str:
    """Medians, ranges, and the median of the ratios to the first row, round by round."""
    first = next(iter(found.values()))
    lines = ["| | wall s, median (range) | × reference | peak MB |", "|---|---|---|---|"]
    for name, runs in found.items():
        seconds = [run.seconds for run in runs]
        ratio = statistics.median(run.seconds / base.seconds for run, base in zip(runs, first, strict=True))
        peak = statistics.median(run.megabytes for run in runs)
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        lines.append(f"| {name} | {spread} | {ratio:.2f} | {peak:.0f} |")
    return "\n".join(lines)


def steps(runs: Sequence[Measured]) -> str:
    """The median seconds of each step of some runs of the job."""
    seen: dict[str, list[float]] = {}
    for run in runs:
        for step in json.loads(run.printed)["steps"]:
            seen.setdefault(step["name"], []).append(step["seconds"])
    return ", ".join(f"{name} {statistics.median(values):.1f} s" for name, values in seen.items())


def job(store: Path, mirror: str, environment: Mapping[str, str], cold: bool) -> Measured:
    """One run of the job, in an empty store (cold) or in the one that the last cold run filled."""
    if cold:
        shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "flows.cli", "run", "--json", "--store", str(store), "--mirror", mirror]
    done = measure(command, environment)
    outcome: dict[str, Any] = json.loads(done.printed)
    if outcome["decision"]["accuracy"] < 0.97 or (outcome["verdict"] == "published") != cold:
        raise RuntimeError(f"not the run that was meant: {outcome['verdict']}, {outcome['decision']['accuracy']}")
    return done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mirror", default=(Path.cwd().parent / "shared/mnist").as_uri(), help="file:// of the .gz files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    arrays = unquote(urlsplit(options.mirror).path)
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "prefect") as url:
        folder = Path(name)
        home = {"RETRAIN_HOME": str(folder / "home")}
        temporary, running = {**home, "PREFECT_API_URL": ""}, {**home, "PREFECT_API_URL": url}
        one, two = folder / "one", folder / "two"
        job(one, options.mirror, temporary, cold=True)  # not counted: fills the disk cache, migrates a database
        found = rounds(
            {
                "reference script": lambda: measure(
                    [sys.executable, "-m", "tests.benchmarks.reference", arrays], {"TF_CPP_MIN_LOG_LEVEL": "3"}
                ),
                "cold, running server": lambda: job(two, options.mirror, running, cold=True),
                "cached, running server": lambda: job(two, options.mirror, running, cold=False),
                "cold, temporary server": lambda: job(one, options.mirror, temporary, cold=True),
                "cached, temporary server": lambda: job(one, options.mirror, temporary, cold=False),
            },
            options.rounds,
        )
    versions = ", ".join(
        f"{package} {installed(package)}" for package in ("prefect", "keras", "tensorflow-cpu", "numpy")
    )
    print(f"{describe('cpu').name}; {date.today()}; {versions}; {options.rounds} rounds\n\n{table(found)}\n")
    for row in ("cold, running server", "cached, running server"):
        print(f"Steps, {row}: {steps(found[row])}.")


if __name__ == "__main__":
    main()
