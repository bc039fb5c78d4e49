"""The load_back step: the bytes to be published, loaded in a fresh process, predict what was evaluated.

Evaluation has loaded the same bytes, but in the process that trained them, with everything that this one had imported,
set and cached. A consumer starts from nothing but the file, so this is tried before a model is published. Cached under
the file, the test images and the predictions: a run that reuses them starts no process. Whatever goes wrong on the way
fails the gate's row, and is not kept: the next run tries again.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tasks import predictions
from tasks.arrays import Bytes, Probabilities, from_npy, from_npz, to_npy
from tasks.caching.steps import Run, step
from tasks.errors import LoadBackError
from tasks.values import Artifact, Examples, LoadBack

LOG = logging.getLogger("retrain.load_back")

ROOT = Path(__file__).parents[1]

# Seconds for the whole process: ten times what TensorFlow's import takes on a busy machine.
PATIENCE = 300.0

# Bytes that the process may write to: ten times what the recipe's model takes; the largest file that is allowed fits.
MEMORY = 8 * 2**30

# How far a probability may be from the evaluated one. On one CPU it is the same bit for bit; an evaluation that was
# cached on another model of CPU differs in the last place, 1e-7. No test image's class may differ.
TOLERANCE = 1e-5


def predict_afresh(model: bytes, images: Bytes) -> Probabilities:
    """What a process of its own predicts, float32 (n, classes), from the file's bytes and uint8 images (n, 784).

    Raises LoadBackError where the file is refused, or the process dies, hangs, or writes no such array.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            (place / predictions.MODEL).write_bytes(model)
            (place / predictions.IMAGES).write_bytes(to_npy(images))
            _run(place)
            return _read(place / predictions.FOUND, len(images))
        except OSError as error:
            raise _failed(f"{error.filename or folder}: {error.strerror or error}") from error


def _run(place: Path) -> None:
    """Run the process in its folder: the project's sources come first on its path, wherever they lie."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # No GPU: it computes on the CPU, and must not take memory from a training next to it.
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", predictions.__name__, str(MEMORY)]
    with (place / "errors").open("wb") as errors:
        try:
            done = subprocess.run(
                command,
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _failed(f"the process was not done after {PATIENCE:.0f} s") from None
    if done.returncode < 0:
        raise _failed(f"the process was killed by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise _failed(_last_line(place / "errors") or f"the process ended with {done.returncode}")


def _read(path: Path, images: int) -> Probabilities:
    """The process's array, believed only if it is one."""
    try:
        found = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _failed(f"the process wrote no array ({error})") from error
    if found.dtype != np.float32 or found.ndim != 2 or len(found) != images:
        raise _failed(f"the process wrote {found.dtype} {found.shape} for {images:,} images")
    return found


def compare(found: Probabilities, evaluated: Probabilities) -> LoadBack:
    """How many images have the evaluated class and, within the tolerance, the evaluated probabilities."""
    if found.shape != evaluated.shape:
        raise _failed(f"it predicts {found.shape[1]} classes instead of {evaluated.shape[1]}")
    apart = np.abs(found.astype(np.float64) - evaluated).max(axis=1, initial=0.0)
    same = (apart <= TOLERANCE) & (found.argmax(axis=1) == evaluated.argmax(axis=1))  # NaN is never the same
    largest = float(np.nan_to_num(apart, nan=1.0).max(initial=0.0))
    return LoadBack(images=len(evaluated), same=int(same.sum()), largest_difference=largest)


@step(packages=["keras", "numpy", "tensorflow"])
def load_back(model: Artifact, test: Examples, evaluated: Artifact, run: Run) -> LoadBack:
    """Compare what the model file predicts in a fresh process with the evaluated predictions."""
    probabilities, _ = from_npz(run.artifacts.get(evaluated))
    found = compare(predict_afresh(run.artifacts.get(model), from_npy(run.artifacts.get(test.images))), probabilities)
    LOG.info("load_back: %d of %d test images are predicted the same", found.same, found.images)
    return found


def loaded_back(model: Artifact, test: Examples, evaluated: Artifact, run: Run) -> LoadBack:
    """The same for the gate: a failure is a row that fails, not the end of the run."""
    try:
        return load_back(model, test, evaluated, run)
    except LoadBackError as error:
        LOG.warning("load_back: %s", error)
        return LoadBack(failure=error.why)


def _failed(why: str) -> LoadBackError:
    return LoadBackError("the model file cannot be loaded back", why, "Run again; the log has the details.")


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
