"""The command line where standard streams are closed, full or not UTF-8, or the folder is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Ends as `retrain run` does, with the exit code of a rejected run, after a line of progress.
REJECTED = """
import sys
from flows.cli import main, progress, run, streams
def rejected(options):
    progress.show_progress()
    progress.LOG.info("epoch 1 … ok")
    streams.show("REJECTED — nothing was published")
    return 3
main.COMMANDS[0] = main.COMMANDS[0]._replace(function=rejected)
rejected.__name__ = "run"
sys.exit(main.main(["run"]))
"""


def shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which $RETRAIN is the command line and $REJECTED a run that the gate rejects."""
    (folder / "rejected.py").write_text(REJECTED)
    commands = {
        "RETRAIN": f"{sys.executable} -m flows.cli.main",
        "REJECTED": f"{sys.executable} {folder / 'rejected.py'}",
        "PYTHONPATH": str(ROOT),
        "STORE": str(folder / "store"),
        "RETRAIN_HOME": str(folder / "home"),
    }
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **commands, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "streams",
    [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "| cat >/dev/full"],
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_the_exit_code_tells_of_the_model_whatever_becomes_of_the_output(
    tmp_path: Path, streams: str, buffered: str
) -> None:
    done = shell(f"set -o pipefail; $REJECTED {streams}", tmp_path, PYTHONUNBUFFERED=buffered)
    assert done.returncode in ({1, 3} if "cat" in streams else {3}), done.stderr
    assert "Traceback" not in done.stderr
    if streams == ">/dev/full":
        assert "retrain: warning: cannot write standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}])
def test_an_output_that_is_not_utf_8_gets_escapes(tmp_path: Path, setting: dict[str, str]) -> None:
    done = shell("$REJECTED", tmp_path, PYTHONUTF8="0", **setting)
    assert done.returncode == 3, done.stderr
    assert "REJECTED \\u2014 nothing" in done.stdout
    assert "epoch 1 \\u2026 ok" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("$RETRAIN cache --store $STORE >&-", 0),
        ("$RETRAIN cache clear --older-than 0 --store $STORE <&-", 0),
        ("$RETRAIN versions --store gs://x 2>/dev/full", 2),
        ("$RETRAIN versions --store gs://x 2>&-", 2),
        ("$RETRAIN --help >/dev/full", 0),
    ],
)
def test_a_command_ends_as_it_would_with_all_streams(tmp_path: Path, script: str, code: int) -> None:
    done = shell(script, tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_result_that_could_not_be_printed_is_an_error(tmp_path: Path) -> None:
    done = shell("$RETRAIN cache --store $STORE >/dev/full", tmp_path)
    assert done.returncode == 1
    last = "retrain: cannot write standard output: No space left on device. Write it elsewhere."
    assert done.stderr.splitlines()[-1] == last


def test_what_is_opened_later_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    done = shell("$RETRAIN doctor --store $STORE >&- && find $STORE -type f -size +0", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


def test_in_a_folder_that_was_deleted_only_what_needs_it_fails(tmp_path: Path) -> None:
    gone = "mkdir gone; cd gone; rmdir ../gone; "
    assert shell(f"{gone} $RETRAIN cache --store $STORE", tmp_path).returncode == 0
    done = shell(f"{gone} $RETRAIN cache", tmp_path)
    assert done.returncode == 2
    assert "relative to the current folder, which was deleted" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    done = shell("$RETRAIN cache clear --older-than 0 --store $STORE", tmp_path)
    assert "Traceback" not in done.stderr
