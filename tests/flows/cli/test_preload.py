"""The preload of TensorFlow in a run that ends before the import has finished."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENDS_EARLY = """
import atexit, sys
from flows.cli.preload import preload
from tasks.settings import Settings
preload(Settings(store=sys.argv[1]))
atexit.register(lambda: print("imported:", hasattr(sys.modules.get("keras"), "Sequential")))
sys.exit(1)
"""


def test_a_run_that_ends_early_lets_the_import_end_first(tmp_path: Path) -> None:
    # If the process ended first, TensorFlow's threads would crash it: a segmentation fault instead of the exit code.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDS_EARLY, str(tmp_path)],  # the command ignores warnings too
        env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "imported: True\n", "")
