"""The wheel alone, in a folder of files that have the names of modules and of configuration files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BROKEN = "raise SystemExit('a file of the current folder was imported')\n"
TRAPS = {
    **dict.fromkeys(("tasks.py", "random.py", "logging.py", "flows/__init__.py", "numpy/__init__.py"), BROKEN),
    **dict.fromkeys(("prefect/__init__.py", "keras.py", "tensorflow/__init__.py", "deployments.py"), BROKEN),
    ".env": "PYTHONPATH=.\nFOO=bar\n",
    ".prefectignore": "*\n",
    "pyproject.toml": "[tool.prefect]\nlogging.level = 'DEBUG'\n",
    "matplotlibrc": "font.size: 40\nlines.linewidth: 9\n",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("flows", "tasks", "deployments"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")], check=True)
    return folder / "site"


def test_the_wheel_runs_the_job_in_a_folder_of_traps(installed: Path, tmp_path: Path) -> None:
    for name, content in TRAPS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    def retrain(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(installed / "bin/retrain"), *arguments, "--store", "store"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    done = retrain("run", "--dataset", "digits", "--epochs", "3", "--min-accuracy", "0", "--report-dir", "report")
    assert done.returncode == 0, done.stderr
    assert "PUBLISHED digits version 1" in done.stdout
    again = retrain("run", "--dataset", "digits", "--epochs", "3", "--min-accuracy", "0")
    assert "0 reused" not in again.stdout, again.stderr
    for command in ("versions", "champion", "history", "verify"):
        assert retrain(command, "--dataset", "digits").returncode == 0
    refused = retrain("run", "--dataset", "digits", "--device", "gpu")
    assert "sees ['/physical_device:CPU:0']" in refused.stderr, "the probe of TensorFlow imports nothing from here"
