"""Several seeds of one recipe: one after the other in the job's process, and over a work pool, with one worker or two.

    python -m tests.benchmarks.seeds [--mirror file:///data/mnist] [--seeds 4] [--rounds 1]

Whole runs of the job, `retrain run --seeds K`, in the store of a first run that is not counted, so that everything but
the trainings is cached. The Prefect server and the first worker for trainings are those of `retrain up --device
cpu`; the second worker is started for its row only. Each worker trains one seed at a time, in a process of its own that
imports TensorFlow again. Where one training already uses all cores, a second worker helps little: the pool is meant for
several machines. Prints Markdown, and ends all processes that it started.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.bench import arrays, machine
from tests.benchmarks.measure import Measured, measure, ratio, rounds, spread
from tests.workers.laptop import Laptop, eventually

ROOT = Path(__file__).parents[2]

HERE, ONE, TWO = "here, one after the other", "work pool, 1 worker", "work pool, 2 workers"


@contextmanager
def server_and_worker(folder: Path) -> Iterator[Laptop]:
    """Run `retrain up` in a folder for the block, then `retrain down`."""
    laptop = Laptop(folder)
    try:
        started = laptop.retrain("up", "--port", str(laptop.port), "--store", str(folder / "store"), "--device", "cpu")
        if started.returncode:
            raise RuntimeError(f"retrain up: {started.stderr}")
        yield laptop
    finally:
        ended = laptop.retrain("down")
        if ended.returncode:
            print(f"retrain down: {ended.stderr}", file=sys.stderr)


@contextmanager
def second_worker(laptop: Laptop) -> Iterator[None]:
    """Run another worker of the pool `retrain-training`, like that of `retrain up`, for the block."""
    command = ["worker", "start", "--pool", "retrain-training", "--type", "process", "--name", "second", "--limit", "1"]
    environment = {
        **laptop.environment,
        "PYTHONPATH": str(ROOT),
        **laptop.settings,
        "PREFECT_HOME": str(laptop.folder / "second"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    silent = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", *command], env=environment, stdout=silent, stderr=silent
    )
    try:
        eventually(lambda: workers(laptop) == 2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # happened once; it has no work left
            process.kill()
            process.wait()


def workers(laptop: Laptop) -> int:
    """The number of workers of the pool that are online."""
    return sum(
        worker["status"] == "ONLINE" for worker in laptop.api("POST", "work_pools/retrain-training/workers/filter", {})
    )


def table(rows: dict[str, list[Measured]], seeds: int) -> str:
    """Medians, ranges, and the median of the ratios to the run that trains here."""
    base = [run.seconds for run in rows[HERE]]
    lines = [f"| {seeds} seeds | wall s, median (range) | × here |", "|---|---|---|"]
    for name, runs in rows.items():
        seconds = [run.seconds for run in runs]
        lines.append(f"| {name} | {spread(seconds)} | {ratio(seconds, base):.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mirror", help="default: ../shared/mnist beside the checkout, else the public mirrors")
    parser.add_argument("--dataset", default="mnist", help="or digits, to try it out")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = ["--dataset", options.dataset]
        if options.dataset == "mnist":
            data += ["--mirror", arrays(options.mirror, folder / "mnist").as_uri()]
        with server_and_worker(folder) as laptop:
            job = [
                sys.executable,
                "-m",
                "flows.cli.main",
                "run",
                "--store",
                str(folder / "store"),
                "--device",
                "cpu",
                *data,
            ]

            def run(*more: str) -> Measured:
                environment = {**laptop.environment, "PYTHONPATH": str(ROOT)}
                return measure([*job, "--seeds", str(options.seeds), *more], environment)

            def run_with_two(_: int) -> Measured:
                with second_worker(laptop):
                    return run("--train-on", "pool", "--refresh", "train")

            run()  # warm-up: from now on everything but the trainings is cached
            rows = {
                HERE: lambda _: run("--refresh", "train"),
                ONE: lambda _: run("--train-on", "pool", "--refresh", "train"),
                TWO: run_with_two,
            }
            measured = rounds(rows, options.rounds)
    print(f"{machine({})}; {time.strftime('%Y-%m-%d')}, rounds: {options.rounds}\n\n{table(measured, options.seeds)}")


if __name__ == "__main__":
    # SIGTERM must end the server and workers too, and none of them may see the user's settings.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for variable in [variable for variable in os.environ if variable.startswith(("PREFECT_", "RETRAIN_"))]:
        del os.environ[variable]
    main()
