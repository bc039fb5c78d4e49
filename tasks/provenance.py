"""Where a model comes from: the code's revision, Python, the packages. Called by the flow; imports none of them."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from tasks.caching.keys import installed
from tasks.values import Provenance

PACKAGES = ("keras", "numpy", "prefect", "scikit-learn", "tensorflow")


def provenance(source: str, seconds: dict[str, float]) -> Provenance:
    """What this code was and ran on.

    Args:
        source: The mirror that the data came from.
        seconds: What each step took, where it was computed.
    """
    return Provenance(
        code=os.environ.get("RETRAIN_REVISION") or _git_revision() or f"retrain-mnist {installed('retrain-mnist')}",
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := installed(name))},
        source=source,
        seconds=seconds,
    )


def _git_revision() -> str:
    """The commit of the checkout that this file lies in, "+ changes" if it was edited; "" outside a checkout."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty= + changes", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
