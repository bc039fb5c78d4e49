"""Which of the other frameworks can be compared with, and how each is run: see peer_torch.py and peer_jax.py.

They live in an environment of their own, which may lack any of them: then its rows are left out, and that is said.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.benchmarks import protocol
from tests.benchmarks.measure import Measured, measure

VERSIONS = """
import json
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("torch", "jax", "numpy"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Peers(NamedTuple):
    """The rows that can be measured, the packages they run on, and a line for each that is left out."""

    rows: dict[str, Callable[[], Measured]]
    versions: dict[str, str]
    left_out: list[str]


def peers(python: str | None, data: Path, cache: Path) -> Peers:
    """What there is.

    Args:
        python: The interpreter of the other frameworks' environment, if there is one.
        data: The folder with the four .gz files.
        cache: Where PyTorch keeps what it has compiled.
    """
    versions, why = _versions(python)

    def run(script: str, *more: str, **environment: str) -> Measured:
        done = measure([str(python), "-m", f"tests.benchmarks.{script}", str(data), *more], environment)
        return learned(done)

    def compiled_anew() -> Measured:
        with TemporaryDirectory() as empty:
            return run("peer_torch", "--compile", TORCHINDUCTOR_CACHE_DIR=empty)

    known: dict[str, tuple[str, Callable[[], Measured]]] = {
        "PyTorch, eager": ("torch", partial(run, "peer_torch")),
        "PyTorch, compiled": ("torch", partial(run, "peer_torch", "--compile", TORCHINDUCTOR_CACHE_DIR=str(cache))),
        "PyTorch, compiled anew": ("torch", compiled_anew),
        "JAX, an epoch one call": ("jax", partial(run, "peer_jax")),
    }
    return Peers(
        {name: row for name, (package, row) in known.items() if package in versions},
        versions,
        [
            f"Left out: {name}: {why or f'no {package} for {python}'}."
            for name, (package, _) in known.items()
            if package not in versions
        ],
    )


def learned(done: Measured) -> Measured:
    """The same, if the network has learned what the recipe teaches. Raises RuntimeError where it has not."""
    if protocol.parse(done.printed).accuracy < 0.97:
        raise RuntimeError(f"not the run that was meant: {done.printed}")
    return done


def _versions(python: str | None) -> tuple[dict[str, str], str]:
    """The packages of an environment, or why nothing can be told of them."""
    if python is None:
        return {}, "no --peers was given"
    try:
        done = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {}, f"{python} does not run, {error}"
    return dict(json.loads(done.stdout)), ""
