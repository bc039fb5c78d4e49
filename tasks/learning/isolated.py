"""What a model file predicts in a process of its own that has nothing but the file's bytes and the images.

Most of the time that takes is the process's own import of TensorFlow, which needs neither file nor images: whoever
knows that it will be needed calls `preload`, and the process imports meanwhile and waits. Called by the load_back
step, by the flow and by the command line. Imports neither Prefect nor Keras.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tasks.data.arrays import Bytes, Probabilities, to_npy
from tasks.errors import LoadBackError
from tasks.learning import predictions

ROOT = Path(__file__).parents[2]

# Seconds for the whole process: ten times what TensorFlow's import takes on a busy machine.
PATIENCE = 300.0

# Bytes that the process may write to: ten times what the recipe's model takes; the largest file that is allowed fits.
MEMORY = 8 * 2**30


def predict_isolated(model: bytes, images: Bytes) -> Probabilities:
    """What a process of its own predicts, float32 (n, classes), from the file's bytes and uint8 images (n, 784).

    Raises LoadBackError where the file is refused, or the process dies, hangs, or writes no such array.
    """
    try:
        process = _take()
        try:
            return process.predict(model, images)
        finally:
            process.end()
    except OSError as error:
        raise _failed(f"{error.filename or tempfile.gettempdir()}: {error.strerror or error}") from error


def preload() -> None:
    """Start the process that the next call takes, unless one waits already. It ends with this process at the latest."""
    global _waiting
    if _waiting is None:
        try:
            _waiting = _Process()
        except OSError:
            return  # the call itself will say what is wrong
        atexit.register(dismiss)


def dismiss() -> None:
    """End the process that waits, if one does."""
    global _waiting
    process, _waiting = _waiting, None
    if process:
        process.end()
    atexit.unregister(dismiss)


class _Process:
    """A process in a folder of its own, which imports, waits for a line, and predicts from the files in the folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._place = Path(self._folder.name)
        # The project's sources come first on its path, wherever they lie.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with (self._place / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", predictions.__name__, str(MEMORY)],
                cwd=self._place,
                # No GPU: it computes on the CPU, and must not take memory from a training next to it.
                env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Ctrl-C is for the run: this process ends when its standard input does.
                start_new_session=True,
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def predict(self, model: bytes, images: Bytes) -> Probabilities:
        (self._place / predictions.MODEL).write_bytes(model)
        (self._place / predictions.IMAGES).write_bytes(to_npy(images))
        try:
            self._process.communicate(b"go\n", timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise _failed(f"the process was not done after {PATIENCE:.0f} s") from None
        code = self._process.returncode
        if code < 0:
            raise _failed(f"the process was killed by {signal.Signals(-code).name}")
        if code:
            raise _failed(_last_line(self._place / "errors") or f"the process ended with {code}")
        return _read(self._place / predictions.FOUND, len(images))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


_waiting: _Process | None = None


def _take() -> _Process:
    """The process that waits; a new one where there is none, or where something has ended it since."""
    global _waiting
    process, _waiting = _waiting, None
    if process and not process.is_alive():
        process.end()
        process = None
    return process or _Process()


def _read(path: Path, images: int) -> Probabilities:
    """The process's array, believed only if it is one."""
    try:
        found = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _failed(f"the process wrote no array ({error})") from error
    if found.dtype != np.float32 or found.ndim != 2 or len(found) != images:
        raise _failed(f"the process wrote {found.dtype} {found.shape} for {images:,} images")
    return found


def _failed(why: str) -> LoadBackError:
    return LoadBackError("the model file cannot be loaded back", why, "Run again; the log has the details.")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
