"""The evaluate step: measures the exact bytes of the model file on every test image.

It stores the probabilities of each image, so that a later version can be compared image by image. `reevaluate` does the
same for a published model whose stored predictions are damaged or of another test set. It is a step of its own, because
a run may need both. Called by `flows.seeds` and `tasks.judge`; imports TensorFlow when it really runs.
"""

from __future__ import annotations

import logging

from tasks.caching.steps import Run, step
from tasks.data.arrays import from_npy, to_npz
from tasks.learning.metrics import score
from tasks.learning.predictions import predict
from tasks.values import Artifact, Evaluation, Examples

LOG = logging.getLogger("retrain.evaluate")


@step(packages=["keras", "numpy", "scikit-learn", "tensorflow"])
def evaluate(model: Artifact, test: Examples, run: Run) -> Evaluation:
    """Measure the model file on the test set.

    Raises:
        ModelFileError: The file is unsafe or damaged.
        TrainingError: Its outputs are not probabilities.
    """
    result = _evaluate(model, test, run)
    LOG.info("evaluate: %d of %d test images right, accuracy %.4f", result.correct, result.images, result.accuracy)
    return result


@step(packages=["keras", "numpy", "scikit-learn", "tensorflow"])
def reevaluate(model: Artifact, test: Examples, run: Run) -> Evaluation:
    """Measure a published model file on the current test set; raises what `evaluate` raises."""
    return _evaluate(model, test, run)


def _evaluate(model: Artifact, test: Examples, run: Run) -> Evaluation:
    labels = from_npy(run.artifacts.get(test.labels))
    probabilities = predict(run.artifacts.get(model), from_npy(run.artifacts.get(test.images)))
    predictions = run.artifacts.put(to_npz(probabilities, labels), "application/x-npz")
    return score(probabilities, labels, predictions)
