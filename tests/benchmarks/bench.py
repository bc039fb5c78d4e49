"""What the job costs against the plain script, and the training against other frameworks and the machine's limit.

    python -m tests.benchmarks.bench [--mirror file:///data/mnist] [--rounds 5] [--peers PYTHON] [--sizes 60000 600000]

Prints three tables in Markdown, and timelines of one run of the job, cold and cached:

- whole processes, in turn: the reference script, PyTorch and JAX with the same recipe on the same arrays, also with
  products in bfloat16, and the job cold and cached, each with a temporary Prefect server and with a running one;
- the training alone of each, its share of the operations that the machine can do at best in that precision, and the
  accuracy on the test images: the seed of a training is the number of its round;
- the training alone on ten and on a hundred times the images.

PyTorch and JAX run on the interpreter that --peers names; without it their rows are left out. Nothing here passes or
fails by time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.caching.keys import installed
from tasks.data.datasets import MNIST
from tasks.learning.device import describe, device_kind
from tests.benchmarks import tables
from tests.benchmarks.measure import Measured, measure, rounds, running_server, spread
from tests.benchmarks.peers import BF16, learned, peers

# The source of the arrays without --mirror, if it exists.
BESIDE = Path(__file__).parents[3] / "shared" / "mnist"

FETCH = """
import gzip, pathlib, sys
from tasks.data.datasets import MNIST
from tasks.download import fetch
for field, content in fetch(MNIST, sys.argv[2:]).contents.items():
    pathlib.Path(sys.argv[1], f"{MNIST.files[field].name}.gz").write_bytes(gzip.compress(content))
"""

REFERENCE, OWN = "reference script", "the job's training"
LIMIT, LIMIT_BF16 = "matrix product", f"matrix product{BF16}"

IMAGES = MNIST.train_images.shape[0]

# More images than this take minutes, so they are measured in one round.
ONCE = 1_000_000


def arrays(mirror: str | None, folder: Path) -> Path:
    """The folder with the four .gz files for all rows: the mirror's own, or `folder` after a download."""
    parts = urlsplit(mirror or BESIDE.as_uri())
    if parts.scheme == "file" and (here := Path(unquote(parts.path)) / "train-images-idx3-ubyte.gz").exists():
        return here.parent
    folder.mkdir()
    # In a subprocess: this imports much, and a child's peak memory includes what its parent held at the fork.
    subprocess.run([sys.executable, "-c", FETCH, str(folder), *([mirror] if mirror else [])], check=True)
    return folder


def script(name: str, *arguments: object) -> Measured:
    """One run of a module of this folder."""
    return measure([sys.executable, "-m", f"tests.benchmarks.{name}", *map(str, arguments)], {})


def job(store: Path, mirror: str, environment: Mapping[str, str], cold: bool) -> Measured:
    """One run of the job, in an empty store (cold) or in that of the last cold run.

    Raises:
        RuntimeError: It did not end as expected: below an accuracy of 0.97, or a cold run that published nothing.
    """
    if cold:
        shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "flows.cli.main", "run", "--json", "--store", str(store), "--mirror", mirror]
    measured = measure(command, environment)
    outcome = json.loads(measured.printed)
    if outcome["decision"]["accuracy"] < 0.97 or (outcome["verdict"] == "published") != cold:
        raise RuntimeError(f"the run did not end as expected: {outcome['verdict']}, {outcome['decision']['accuracy']}")
    return measured


def timeline(environment: Mapping[str, str], *options: str) -> str:
    """The timeline of one run of the job with these options, with a line for the end of the process."""
    started = {"TIMELINE_START": str(time.time())}
    run = measure([sys.executable, "-m", "tests.benchmarks.timeline", *options], {**environment, **started})
    return f"{run.printed}{run.seconds:6.2f} s  the process has ended\n"


def machine(peer_versions: Mapping[str, str]) -> str:
    """One line: processor, memory and versions of the packages."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    ours = {name: version for name in ("prefect", "keras", "tensorflow", "numpy") if (version := installed(name))}
    versions = ", ".join(f"{name} {version}" for name, version in {**peer_versions, **ours}.items())
    return f"{describe(device_kind('cpu')).name}, {memory:.0f} GiB; Python {sys.version.split()[0]}, {versions}"


def compare(data: Path, folder: Path, python: str | None, count: int) -> None:
    """Measure and print the first two tables."""
    mirror, one, two = data.as_uri(), folder / "one", folder / "two"
    others = peers(python, data, folder / "compiled")
    for line in others.left_out:
        print(line, file=sys.stderr)
    # Warm-up, not counted: fills the disk cache, migrates a database, compiles.
    job(one, mirror, {}, cold=True)
    for run in others.rows.values():
        run(0)
    with running_server(folder / "server") as url:
        running = {"PREFECT_API_URL": url}
        jobs = {
            "cold, running server": lambda _: job(two, mirror, running, cold=True),
            "cached, running server": lambda _: job(two, mirror, running, cold=False),
            "cold, temporary server": lambda _: job(one, mirror, {}, cold=True),
            "cached, temporary server": lambda _: job(one, mirror, {}, cold=False),
        }
        alone = {
            OWN: lambda seed: learned(script("training", data, "--seed", seed)),
            LIMIT: lambda _: script("matmul"),
            LIMIT_BF16: lambda _: script("matmul", "--bf16"),
        }
        plain = {
            REFERENCE: lambda seed: learned(script("reference", data, "--seed", seed)),
            f"{REFERENCE}{BF16}": lambda seed: learned(script("reference", data, "--seed", seed, "--bf16")),
        }
        measured = rounds({**plain, **others.rows, **jobs, **alone}, count)
        options = ["--store", str(folder / "three"), "--mirror", mirror]
        timelines = {name: timeline(running, *options) for name in ("cold", "cached")}
    limits = {row: [float(run.printed) for run in measured.pop(row)] for row in (LIMIT, LIMIT_BF16)}
    trained = {name: measured[name] for name in (*plain, OWN, *others.rows)}
    best = {name: max(limits[LIMIT_BF16 if name.endswith(BF16) else LIMIT]) for name in trained}
    sections = [
        f"{machine(others.versions)}; {time.strftime('%Y-%m-%d')}, rounds: {count}",
        *others.left_out,
        tables.processes({name: runs for name, runs in measured.items() if name != OWN}),
        *(f"Steps, {row}: {tables.steps(measured[row])}." for row in jobs),
        *(f"The limit, GFLOP/s, {row}: {spread([each / 1e9 for each in limits[row]], 0)}." for row in limits),
        tables.trainings(trained, IMAGES, best),
        *(f"Timeline, {name}, running server:\n\n```\n{lines}```" for name, lines in timelines.items()),
    ]
    print("\n\n".join(sections), end="\n\n", flush=True)


def scale(data: Path, sizes: list[int], count: int) -> None:
    """Measure and print the third table."""

    def run(size: int, _: int) -> Measured:
        return script("training", data, "--images", size)

    measured = {
        **rounds({f"{size:,} images": partial(run, size) for size in sizes if size <= ONCE}, count),
        **rounds({f"{size:,} images": partial(run, size) for size in sizes if size > ONCE}, 1),
    }
    print(tables.scaling({size: measured[f"{size:,} images"] for size in sizes}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mirror", help="default: ../shared/mnist beside the checkout, else the public mirrors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter that has torch and jax")
    parser.add_argument("--sizes", type=int, nargs="*", default=[IMAGES, 10 * IMAGES, 100 * IMAGES], metavar="IMAGES")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Prefect and the job must not see the user's settings.
        for variable in [variable for variable in os.environ if variable.startswith(("PREFECT_", "RETRAIN_"))]:
            del os.environ[variable]
        os.environ |= {"PREFECT_HOME": str(folder / "client"), "RETRAIN_HOME": str(folder / "home")}
        data = arrays(options.mirror, folder / "mnist")
        compare(data, folder, options.peers, options.rounds)
        scale(data, options.sizes, options.rounds)


if __name__ == "__main__":
    main()
