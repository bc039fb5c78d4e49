"""Where a model comes from: the code's revision, Python, the packages. Called by the flow.

Reads the metadata of packages and imports none of them.
"""

from __future__ import annotations

import csv
import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tasks.address import Address
from tasks.caching.keys import BUILDS, closure, installed, source_digest
from tasks.values import Provenance

PACKAGES = ("keras", "numpy", "prefect", "scikit-learn", "tensorflow")

# The steps that make and measure a model; their modules, and those that they import, are recorded.
STEPS = ("tasks.download", "tasks.preprocess", "tasks.train", "tasks.evaluate")


def provenance(source: str, seconds: dict[str, float]) -> Provenance:
    """The provenance of what this code computes.

    Args:
        source: The mirror that the data came from.
        seconds: The duration of each step, where it was computed.

    The code's name is `RETRAIN_REVISION`, or the Git commit, or the version of the installed package.
    """
    return Provenance(
        code=os.environ.get("RETRAIN_REVISION") or _git_revision() or f"retrain-mnist {installed('retrain-mnist')}",
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := installed(name))},
        digests={name: digest for name in PACKAGES if (digest := _digest(name))},
        modules={name: source_digest(name) for name in sorted(set().union(*map(closure, STEPS)))},
        source=Address(source),
        seconds=seconds,
    )


def _git_revision() -> str:
    """The commit of the checkout that this file lies in, "+ changes" if files are modified; "" outside a checkout."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty= + changes", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


@cache
def _digest(package: str) -> str:
    """The SHA-256 over the hashes of a package's files; "" if it is not installed or does not list its files.

    Only files of the wheel count, not those that installers write: every installer gives the same digest.
    """
    for name in BUILDS.get(package, (package,)):
        with suppress(PackageNotFoundError):
            lines = csv.reader((distribution(name).read_text("RECORD") or "").splitlines())
            rows = sorted(f"{path} {digest}\n" for path, digest, _ in lines if digest and _of_wheel(path))
            return hashlib.sha256("".join(rows).encode()).hexdigest() if rows else ""
    return ""


def _of_wheel(path: str) -> bool:
    written = {"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
    return not path.startswith("../") and not path.endswith(".pyc") and path.rpartition("/")[2] not in written
