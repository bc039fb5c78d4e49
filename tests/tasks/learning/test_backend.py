from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Opens files after the import, so that they get the numbers of descriptors that were closed during it.
PROGRAM = """
import logging, os, sys
from pathlib import Path
from tasks.learning import backend
backend.keras()
files = [open(f"file-{number}", "w") for number in range(20)]
logger = logging.getLogger("tensorflow")
assert logger.handlers
logger.error("a line of TensorFlow's log")
logger.warning("a warning")
print("a line of this program", file=sys.stderr)
print([file.name for file in files if Path(file.name).stat().st_size])
"""


def test_tensorflows_log_never_reaches_a_file_that_was_opened_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert done.stderr.splitlines() == ["ERROR:tensorflow:a line of TensorFlow's log", "a line of this program"]
