"""What the Makefile says before it installs anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Runs a program as a Python of another version would.
OTHER_PYTHON = """#!{python}
import sys
sys.version, sys.version_info = "{version} (main)", ({info}, 0, "final", 0)
exec(sys.argv[2])
"""


@pytest.mark.parametrize("version", ["3.10", "3.14"])
@pytest.mark.parametrize("target", ["run", "install"])
def test_a_python_without_a_tensorflow_is_one_line_that_names_another(
    version: str, target: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "other-python"
    info = version.replace(".", ", ")
    python.write_text(OTHER_PYTHON.format(python=sys.executable, version=f"{version}.0", info=info))
    python.chmod(0o755)
    done = subprocess.run(
        ["make", target, f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    line, _ = done.stderr.splitlines()  # the last one is make's own
    assert line == (
        f"retrain needs Python 3.11 to 3.13, for which there is TensorFlow; {python} is {version}.0. "
        f"Choose another: make {target} PYTHON=python3.12"
    )
    assert not (tmp_path / ".venv").exists()


def test_pip_refuses_the_same_versions() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11,<3.14"
