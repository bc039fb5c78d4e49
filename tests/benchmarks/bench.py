"""What the job costs beside the plain script: whole processes, interleaved, so that a drifting machine is fair to all.

    python -m tests.benchmarks.bench [--mirror file:///data/mnist] [--rounds 3]

Rows: the reference script; the job cold and cached, each with a temporary Prefect server and with a running one. Then
the training alone, one epoch, on 60,000 and on 600,000 images (the set repeated). Wall seconds and peak memory are the
operating system's own account of each finished process; memory is that of the largest single process of its tree.
Prints Markdown. Nothing here passes or fails by time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from tasks.caching.keys import installed
from tasks.device import describe, device_kind

# Beside the checkout: where the arrays come from without --mirror.
BESIDE = Path(__file__).parents[3] / "shared" / "mnist"

FETCH = """
import gzip, pathlib, sys
from tasks.datasets import MNIST
from tasks.download import fetch
for field, content in fetch(MNIST, sys.argv[2:]).contents.items():
    pathlib.Path(sys.argv[1], f"{MNIST.files[field].name}.gz").write_bytes(gzip.compress(content))
"""


TRAIN = """
import gzip, json, pathlib, sys
import numpy as np
from tasks import idx
from tasks.arrays import Split
from tasks.datasets import MNIST
from tasks.settings import Recipe
from tasks.train import fit
def read(name):
    file = MNIST.files[name]
    return idx.decode(gzip.decompress(pathlib.Path(sys.argv[1], f"{file.name}.gz").read_bytes()), file.name, file.shape)
times = int(sys.argv[2])
images, labels = np.tile(read("train_images").reshape(-1, 784), (times, 1)), np.tile(read("train_labels"), times)
(epoch,) = fit(Split(images, labels), Recipe(epochs=1)).history
print(json.dumps({"images": len(labels), "seconds": epoch.seconds}))
"""


class Measured(NamedTuple):
    """One finished process: wall seconds, peak memory in MB, what it printed."""

    seconds: float
    megabytes: float
    printed: str


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end. Raises RuntimeError where it fails."""
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


def arrays(mirror: str | None, folder: Path) -> Path:
    """A folder with the four .gz files, for every row: the mirror's own, or `folder` with what it sends."""
    parts = urlsplit(mirror or BESIDE.as_uri())
    if parts.scheme == "file" and (here := Path(unquote(parts.path)) / "train-images-idx3-ubyte.gz").exists():
        return here.parent
    folder.mkdir()
    # A process of its own: this imports much, and the system counts a child's peak memory from its parent's.
    subprocess.run([sys.executable, "-c", FETCH, str(folder), *([mirror] if mirror else [])], check=True)
    return folder


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """The API address of a Prefect server that runs while the block does."""
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
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        lines.append(f"| {name} | {spread} | {ratio:.2f} | {statistics.median(run.megabytes for run in runs):.0f} |")
    return "\n".join(lines)


def training(folder: Path, repeated: int) -> Measured:
    """One epoch in a process of its own, on all images, repeated."""
    return measure([sys.executable, "-c", TRAIN, str(folder), str(repeated)], {})


def scaling(found: Mapping[str, Sequence[Measured]]) -> str:
    """How memory and time grow with the number of images."""
    lines = ["| one epoch, training alone | seconds of the epoch | images/s | peak MB |", "|---|---|---|---|"]
    for name, runs in found.items():
        seconds = statistics.median(json.loads(run.printed)["seconds"] for run in runs)
        images = json.loads(runs[0].printed)["images"]
        peak = statistics.median(run.megabytes for run in runs)
        lines.append(f"| {name} | {seconds:.1f} | {images / seconds:,.0f} | {peak:.0f} |")
    return "\n".join(lines)


def steps(runs: Sequence[Measured]) -> str:
    """The median seconds of each step of some runs of the job."""
    seen = [{step["name"]: step["seconds"] for step in json.loads(run.printed)["steps"]} for run in runs]
    return ", ".join(f"{name} {statistics.median(run[name] for run in seen):.1f} s" for name in seen[0])


def reference(folder: Path) -> Measured:
    """One run of the plain script."""
    done = measure([sys.executable, "-m", "tests.benchmarks.reference", str(folder)], {})
    if float(done.printed) < 0.97:
        raise RuntimeError(f"not the run that was meant: {done.printed}")
    return done


def job(store: Path, mirror: str, environment: Mapping[str, str], cold: bool) -> Measured:
    """One run of the job, in an empty store (cold) or in the one that the last cold run filled."""
    if cold:
        shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "flows.cli", "run", "--json", "--store", str(store), "--mirror", mirror]
    done = measure(command, environment)
    outcome = json.loads(done.printed)
    if outcome["decision"]["accuracy"] < 0.97 or (outcome["verdict"] == "published") != cold:
        raise RuntimeError(f"not the run that was meant: {outcome['verdict']}, {outcome['decision']['accuracy']}")
    return done


def machine() -> str:
    """Processor, memory and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("prefect", "keras", "tensorflow", "numpy")
    versions = ", ".join(f"{name} {found}" for name in names if (found := installed(name)))
    return f"{describe(device_kind('cpu')).name}, {memory:.0f} GiB; Python {sys.version.split()[0]}, {versions}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mirror", help="default: ../shared/mnist beside the checkout, else the public mirrors")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with this process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Neither Prefect nor the job sees the user's own settings.
        for variable in [variable for variable in os.environ if variable.startswith(("PREFECT_", "RETRAIN_"))]:
            del os.environ[variable]
        os.environ |= {"PREFECT_HOME": str(folder / "client"), "RETRAIN_HOME": str(folder / "home")}
        data = arrays(options.mirror, folder / "mnist")
        mirror, one, two = data.as_uri(), folder / "one", folder / "two"
        job(one, mirror, {}, cold=True)  # not counted: fills the disk cache, migrates a database
        with running_server(folder / "server") as url:
            running = {"PREFECT_API_URL": url}
            rows = {
                "reference script": lambda: reference(data),
                "cold, running server": lambda: job(two, mirror, running, cold=True),
                "cached, running server": lambda: job(two, mirror, running, cold=False),
                "cold, temporary server": lambda: job(one, mirror, {}, cold=True),
                "cached, temporary server": lambda: job(one, mirror, {}, cold=False),
            }
            found = rounds(rows, options.rounds)
        sizes = {f"{60_000 * times:,} images": partial(training, data, times) for times in (1, 10)}
        scaled = rounds(sizes, options.rounds)
    print(f"{machine()}; {time.strftime('%Y-%m-%d')}, {options.rounds} rounds\n\n{table(found)}\n")
    for row in list(rows)[1:]:
        print(f"Steps, {row}: {steps(found[row])}.")
    print(f"\n{scaling(scaled)}")


if __name__ == "__main__":
    main()
