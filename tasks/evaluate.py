"""The evaluate step: the exact bytes of the model file, on every test image, once.

Keeps each image's probabilities, so that a later version can be compared image by image. `reevaluate` is the same for a
published model whose predictions are of other images, or damaged: a step by another name, as a run may take both.
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
    """Measure the model file on the test set."""
    found = _evaluated(model, test, run)
    LOG.info("evaluate: %d of %d test images right, accuracy %.4f", found.correct, found.images, found.accuracy)
    return found


@step(packages=["keras", "numpy", "scikit-learn", "tensorflow"])
def reevaluate(model: Artifact, test: Examples, run: Run) -> Evaluation:
    """Measure a published model file on today's test set."""
    return _evaluated(model, test, run)


def _evaluated(model: Artifact, test: Examples, run: Run) -> Evaluation:
    labels = from_npy(run.artifacts.get(test.labels))
    probabilities = predict(run.artifacts.get(model), from_npy(run.artifacts.get(test.images)))
    predictions = run.artifacts.put(to_npz(probabilities, labels), "application/x-npz")
    return score(probabilities, labels, predictions)
