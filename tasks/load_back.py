"""The load_back step: the bytes to be published, loaded in a fresh process, predict what was evaluated.

Evaluation has loaded the same bytes, but in the process that trained them, with everything that this one had imported,
set and cached. A consumer starts from nothing but the file, so this is tried before a model is published. Cached under
the file, the test images and the predictions: a run that reuses them starts no process. Whatever goes wrong on the way
fails the gate's row, and is not kept: the next run tries again.
"""

from __future__ import annotations

import logging

import numpy as np

from tasks.afresh import predict_afresh
from tasks.arrays import Probabilities, from_npy, from_npz
from tasks.caching.steps import Run, step
from tasks.errors import LoadBackError
from tasks.values import Artifact, Examples, LoadBack

LOG = logging.getLogger("retrain.load_back")

# How far a probability may be from the evaluated one. On one CPU it is the same bit for bit; an evaluation that was
# cached on another model of CPU differs in the last place, 1e-7. No test image's class may differ.
TOLERANCE = 1e-5


def compare(found: Probabilities, evaluated: Probabilities) -> LoadBack:
    """How many images have the evaluated class and, within the tolerance, the evaluated probabilities."""
    if found.shape != evaluated.shape:
        raise LoadBackError(
            "the model file cannot be loaded back",
            f"it predicts {found.shape[1]} classes instead of {evaluated.shape[1]}",
            "Run again.",
        )
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
