"""Signals to the command line, at moments that are known: while it imports, waits, and calculates."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]

Run = Callable[..., subprocess.Popen[str]]

# The command line with a `versions` that calls compiled code for minutes, and says so once it is in there.
CALCULATES = """
import hashlib, sys, threading
from flows.cli import models
def versions(options):
    threading.Timer(0.5, print, ["calculates"], {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
models.COMMANDS[0] = models.COMMANDS[0]._replace(function=versions)
from flows.cli.start import start
sys.exit(start())
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start Python with a command line, in a folder of its own; whatever became of it, it is gone after the test."""
    (tmp_path / "tmp").mkdir()
    with ExitStack() as stack:

        def run(*command: str) -> subprocess.Popen[str]:
            running = subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=_defaults,
            )
            stack.enter_context(running)
            stack.callback(running.kill)
            return running

        yield run


def _defaults() -> None:
    """As from a terminal, wherever these tests run: what nohup or a job in the background ignores stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_until_handled(running: subprocess.Popen[str]) -> None:
    """Before the last of the signals is, one meets Python's own start."""
    status = Path(f"/proc/{running.pid}/status")
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) >> (signal.SIGHUP - 1) & 1:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "seconds"),
    [
        *((signal.SIGINT, seconds) for seconds in (0.0, 0.1, 0.6, 1.5, 2.5, 4.0)),
        (signal.SIGTERM, 2.5),
        (signal.SIGHUP, 0.0),
    ],
)
def test_a_signal_ends_a_run_with_one_line_and_nothing_left_behind(
    run: Run, tmp_path: Path, number: signal.Signals, seconds: float
) -> None:
    running = run("-m", "flows.cli.main", "run", "--dataset", "digits", "--store", "store")
    wait_until_handled(running)
    time.sleep(seconds)
    started = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(number)
    printed, errors = running.communicate(timeout=30)
    assert (running.returncode, printed) == (130, "")
    lines = [line for line in errors.splitlines() if line[2:3] + line[5:6] != "::"]  # but for the log
    assert lines == ["retrain: stopped. Run again: finished steps are reused."]
    assert not psutil.wait_procs(started, timeout=20)[1]
    assert not list((tmp_path / "tmp").iterdir())


def test_a_second_interrupt_ends_what_compiled_code_delays(run: Run) -> None:
    running = run("-c", CALCULATES, "versions")
    assert running.stdout
    assert running.stdout.readline() == "calculates\n"
    running.send_signal(signal.SIGINT)
    time.sleep(1)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    errors = running.communicate(timeout=3)[1]
    assert running.returncode == 130
    assert errors == "retrain: stopped. Run again: finished steps are reused.\n"


def test_the_first_signal_ends_it_after_some_seconds(run: Run) -> None:
    running = run("-c", CALCULATES, "versions")
    assert running.stdout
    assert running.stdout.readline() == "calculates\n"
    running.terminate()
    running.communicate(timeout=15)
    assert running.returncode == 130


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    script = f"trap '' HUP; {sys.executable} -m flows.cli.main cache --store store & sleep 0.5; kill -HUP $!; wait $!"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0
