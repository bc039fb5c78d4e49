"""Predicts with a model file in an isolated subprocess that gets nothing but the file's bytes and the images.

The subprocess spends most of its time on the import of TensorFlow, which needs neither. `preload` starts it early: it
imports while the caller does other work, and then waits. Called by the load_back step, by `flows.seeds` and by
`flows.cli.preload`. Imports neither Prefect nor Keras.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from tasks.data.arrays import Bytes, Probabilities, from_npy, to_npy
from tasks.errors import LoadBackError, SubprocessError
from tasks.learning import predictions

ROOT = Path(__file__).parents[2]

# Seconds for the whole subprocess: ten times what TensorFlow's import takes on a busy machine.
TIMEOUT = 300.0

# Bytes of data memory: ten times what the recipe's model takes, and enough for the largest model file allowed.
MEMORY_LIMIT = 8 * 2**30


def predict_isolated(model: bytes, images: Bytes) -> Probabilities:
    """Predict in a subprocess: probabilities float32 (n, classes), from a model file's bytes and uint8 images (n, 784).

    Raises:
        LoadBackError: The file is refused, or predicts something of another shape.
        SubprocessError: The subprocess cannot start, dies, takes too long, or writes nothing, for a reason of this
            machine as far as anybody can tell: that is no verdict on the file.
    """
    try:
        process = _take_process()
        try:
            return process.predict(model, images)
        finally:
            process.end()
    except OSError as error:
        raise _unfinished(f"{error.filename or tempfile.gettempdir()}: {error.strerror or error}") from error


def preload() -> None:
    """Start the subprocess that the next `predict_isolated` uses, unless it runs already. It ends with this process."""
    global _preloaded
    if _preloaded is None:
        try:
            _preloaded = _Process()
        except OSError:
            return  # `predict_isolated` tries again and raises the error
        atexit.register(dismiss)


def dismiss() -> None:
    """End the preloaded subprocess, if there is one."""
    global _preloaded
    process, _preloaded = _preloaded, None
    if process:
        process.end()
    atexit.unregister(dismiss)


class _Process:
    """A subprocess in a temporary folder. It imports Keras, waits for a line, and predicts from files in the folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name)
        # The subprocess must import this project's sources, also where they are not installed.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with (self._path / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", predictions.__name__, str(MEMORY_LIMIT)],
                cwd=self._path,
                # It predicts on the CPU, and must not take GPU memory from a training beside it.
                env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"},
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Ctrl-C must reach the run alone. The subprocess ends, and deletes its folder, when its standard
                # input closes.
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def predict(self, model: bytes, images: Bytes) -> Probabilities:
        (self._path / predictions.MODEL).write_bytes(model)
        (self._path / predictions.IMAGES).write_bytes(to_npy(images))
        try:
            with suppress(BrokenPipeError):  # it has ended: its exit code says more
                self._process.stdin.write(b"\n")  # type: ignore[union-attr]
            code = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise _unfinished(f"the process was not done after {TIMEOUT:.0f} s") from None
        if code < 0:
            raise _unfinished(f"the process was killed by {signal.Signals(-code).name}")
        if code:
            why = _last_line(self._path / "errors") or f"the process ended with {code}"
            raise _failed(why) if code == predictions.REFUSED else _unfinished(why)
        return _read(self._path / predictions.PROBABILITIES, len(images))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


_preloaded: _Process | None = None


def _take_process() -> _Process:
    """The preloaded subprocess, or a new one if there is none or it has ended."""
    global _preloaded
    process, _preloaded = _preloaded, None
    if process and not process.is_alive():
        process.end()
        process = None
    return process or _Process()


def _read(path: Path, images: int) -> Probabilities:
    """The array that the subprocess wrote, after checking dtype and shape."""
    try:
        array = from_npy(path.read_bytes())
    except ValueError as error:
        raise _unfinished(f"the process wrote no array ({error})") from error
    if array.dtype != np.float32 or array.ndim != 2 or len(array) != images:
        raise _failed(f"the process wrote {array.dtype} {array.shape} for {images:,} images")
    return array.view(np.float32)


def _failed(why: str) -> LoadBackError:
    return LoadBackError("the model file cannot be loaded back", why, "Run again; the log has the details.")


def _unfinished(why: str) -> SubprocessError:
    return SubprocessError(
        "cannot load the model file back on this machine",
        why,
        "Check memory, limits (ulimit -a) and the disk of temporary files, then run again: finished steps are reused.",
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
