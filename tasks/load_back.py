"""The load_back step: the bytes to be published, loaded in a process of its own, predict what was evaluated.

Evaluation has loaded the same bytes, but in the process that trained them, with everything that this one had imported,
set and cached. A consumer starts from nothing but the file, so this is tried before a model is published. Cached under
the file, the test images and the predictions: a run that reuses them starts no process. Whatever goes wrong on the way
fails the gate's row, and is not cached: the next run tries again.
"""

from __future__ import annotations

import logging

from tasks.caching.steps import Run, step
from tasks.data.arrays import Probabilities, from_npy, from_npz
from tasks.errors import LoadBackError
from tasks.gate.candidate import Candidate
from tasks.learning.agreement import agreement
from tasks.learning.isolated import predict_isolated
from tasks.values import Artifact, Examples, LoadBack

LOG = logging.getLogger("retrain.load_back")

# How far a probability may be from the evaluated one. On one CPU it is the same bit for bit; an evaluation that was
# cached on another model of CPU differs in the last place, 1e-7. No test image's class may differ.
TOLERANCE = 1e-5


def compare(predicted: Probabilities, evaluated: Probabilities) -> LoadBack:
    """How many images have the evaluated class and, within the tolerance, the evaluated probabilities.

    Both are float32 (n, classes). Raises LoadBackError where the number of classes differs.
    """
    if predicted.shape != evaluated.shape:
        raise LoadBackError(
            "the model file cannot be loaded back",
            f"it predicts {predicted.shape[1]} classes instead of {evaluated.shape[1]}",
            "Run again.",
        )
    agreed = agreement(predicted, evaluated, TOLERANCE)
    return LoadBack(images=agreed.images, same=agreed.same, largest_difference=agreed.largest)


@step(packages=["keras", "numpy", "tensorflow"])
def load_back(model: Artifact, test: Examples, evaluated: Artifact, run: Run) -> LoadBack:
    """Compare what the model file predicts in a process of its own with the evaluated predictions."""
    probabilities, _ = from_npz(run.artifacts.get(evaluated))
    predicted = predict_isolated(run.artifacts.get(model), from_npy(run.artifacts.get(test.images)))
    loaded = compare(predicted, probabilities)
    LOG.info("load_back: %d of %d test images are predicted the same", loaded.same, loaded.images)
    return loaded


def load_back_candidate(candidate: Candidate, run: Run) -> Candidate:
    """The candidate with what its file predicts: a failure is a row of the gate that fails, not the end of the run."""
    return candidate.model_copy(update={"loaded": _loaded_back(candidate, run)})


def _loaded_back(candidate: Candidate, run: Run) -> LoadBack:
    try:
        return load_back(candidate.trained.model, candidate.prepared.test, candidate.evaluation.predictions, run)
    except LoadBackError as error:
        LOG.warning("load_back: %s", error)
        return LoadBack(failure=error.why)
