"""The rows of the other frameworks: which can run, and how. The scripts are peer_torch.py and peer_jax.py.

They have an environment of their own. The rows of a framework that it lacks are left out, and the output says so.
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

# The end of the name of a row whose products are in bfloat16.
BF16 = ", bf16"

VERSIONS = """
import json
from importlib.metadata import PackageNotFoundError, version
versions = {}
for name in ("torch", "jax", "numpy"):
    try:
        versions[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


class Peers(NamedTuple):
    """The rows that can be measured, each with a seed, the versions of their packages, and a line for each left out."""

    rows: dict[str, Callable[[int], Measured]]
    versions: dict[str, str]
    left_out: list[str]


def peers(python: str | None, data: Path, cache: Path) -> Peers:
    """The rows that this environment can run.

    Args:
        python: The interpreter of the other frameworks' environment; None leaves all rows out.
        data: The folder with the four .gz files.
        cache: The folder of PyTorch's compiler cache.
    """
    versions, why = _versions(python)

    def row(script: str, *flags: str, **environment: str) -> Callable[[int], Measured]:
        def run(seed: int) -> Measured:
            command = [str(python), "-m", f"tests.benchmarks.{script}", str(data), "--seed", str(seed), *flags]
            return learned(measure(command, environment))

        return run

    def compiled_without_cache(seed: int) -> Measured:
        with TemporaryDirectory() as empty:
            return row("peer_torch", "--compile", TORCHINDUCTOR_CACHE_DIR=empty)(seed)

    compiled = partial(row, "peer_torch", "--compile", TORCHINDUCTOR_CACHE_DIR=str(cache))
    known: dict[str, tuple[str, Callable[[int], Measured]]] = {
        "PyTorch, eager": ("torch", row("peer_torch")),
        f"PyTorch, eager{BF16}": ("torch", row("peer_torch", "--bf16")),
        "PyTorch, compiled": ("torch", compiled()),
        f"PyTorch, compiled{BF16}": ("torch", compiled("--bf16")),
        "PyTorch, compiled, cache empty": ("torch", compiled_without_cache),
        "JAX, an epoch one call": ("jax", row("peer_jax")),
        f"JAX, an epoch one call{BF16}": ("jax", row("peer_jax", "--bf16")),
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


def learned(run: Measured) -> Measured:
    """The run itself. Raises RuntimeError if its accuracy is below 0.97, because then it is not this recipe."""
    if protocol.parse(run.printed).accuracy < 0.97:
        raise RuntimeError(f"the training did not reach an accuracy of 0.97: {run.printed}")
    return run


def _versions(python: str | None) -> tuple[dict[str, str], str]:
    """The versions of an environment's packages, and "" or the reason why they cannot be read."""
    if python is None:
        return {}, "no --peers was given"
    try:
        result = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {}, f"{python} does not run, {error}"
    return dict(json.loads(result.stdout)), ""
