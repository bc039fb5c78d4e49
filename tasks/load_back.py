"""The load_back step: checks that the model file, loaded in an isolated subprocess, predicts what was evaluated.

Evaluation loads the same bytes in the process that trained the model, with all that this process has imported, set and
cached. A consumer has nothing but the file, so the job tries that before it publishes. The result is cached by file,
test images and predictions. A failure fails the gate's row *loaded back* and is not cached: the next run tries again.
Called by the flow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tasks.caching.steps import Run, step
from tasks.data.arrays import Probabilities, from_npy, from_npz
from tasks.errors import LoadBackError
from tasks.gate.candidate import Candidate
from tasks.learning.agreement import agreement
from tasks.learning.isolated import predict_isolated
from tasks.values import Artifact, Examples, LoadBack

LOG = logging.getLogger("retrain.load_back")

# Largest allowed difference to an evaluated probability. On one CPU model there is none; an evaluation cached on
# another one differs in the last place, by 1e-7. The class of an image may never differ.
TOLERANCE = 1e-5


def compare(predicted: Probabilities, evaluated: Probabilities) -> LoadBack:
    """Count the images with the evaluated class and, within the tolerance, the evaluated probabilities.

    Both arrays are float32 (n, classes).

    Raises:
        LoadBackError: The number of classes differs.
    """
    if predicted.shape != evaluated.shape:
        raise LoadBackError(
            "the model file cannot be loaded back",
            f"it predicts {predicted.shape[1]} classes instead of {evaluated.shape[1]}",
            "Run again.",
        )
    agreed = agreement(predicted, evaluated, TOLERANCE)
    return LoadBack(images=agreed.images, same=agreed.same, largest_difference=agreed.largest)


def _fits(result: LoadBack, read: Callable[[Artifact], bytes], model: Artifact, test: Examples, *_: object) -> None:
    if result.failure or not 0 <= result.same <= result.images or result.images != len(from_npy(read(test.labels))):
        raise ValueError("it is of other test images")


@step(packages=["keras", "numpy", "tensorflow"], fits=_fits)
def load_back(model: Artifact, test: Examples, evaluated: Artifact, run: Run) -> LoadBack:
    """Predict with the model file in a subprocess and compare with the evaluated predictions.

    Raises:
        LoadBackError: The subprocess cannot predict with the file.
    """
    probabilities, _ = from_npz(run.artifacts.get(evaluated))
    predicted = predict_isolated(run.artifacts.get(model), from_npy(run.artifacts.get(test.images)))
    loaded = compare(predicted, probabilities)
    LOG.info("load_back: %d of %d test images are predicted the same", loaded.same, loaded.images)
    return loaded


def load_back_candidate(candidate: Candidate, run: Run) -> Candidate:
    """Add the result of the step to the candidate. A failure fails the row of the gate instead of the run."""
    return candidate.model_copy(update={"loaded": _load_back_or_failure(candidate, run)})


def _load_back_or_failure(candidate: Candidate, run: Run) -> LoadBack:
    try:
        return load_back(candidate.trained.model, candidate.prepared.test, candidate.evaluation.predictions, run)
    except LoadBackError as error:
        LOG.warning("load_back: %s", error)
        return LoadBack(failure=error.why)
