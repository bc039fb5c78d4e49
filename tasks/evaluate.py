"""The evaluate step: measures the exact bytes of the model file on every test image.

It stores the probabilities of each image, so that a later version can be compared image by image. `evaluate_published`
measures a published model, whose file somebody may have replaced: in an isolated process, unless the store has the
result of `evaluate` for the same bytes. Called by `flows.seeds` and `tasks.judge`; imports TensorFlow when `evaluate`
really runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from tasks.caching.steps import Run, step
from tasks.data.arrays import Probabilities, from_npy, from_npz, to_npz
from tasks.errors import ModelFileError
from tasks.learning.isolated import predict_isolated
from tasks.learning.metrics import require_scores_of, score
from tasks.learning.predictions import predict
from tasks.values import NPZ, Artifact, Evaluation, Examples

LOG = logging.getLogger("retrain.evaluate")


def _fits(result: Evaluation, read: Callable[[Artifact], bytes], model: Artifact, test: Examples, *_: object) -> None:
    probabilities, labels = from_npz(read(result.predictions))
    if not np.array_equal(labels, from_npy(read(test.labels))):
        raise ValueError("it is of other test images")
    require_scores_of(result, probabilities, labels)


@step(packages=["keras", "numpy", "tensorflow"], fits=_fits)
def evaluate(model: Artifact, test: Examples, run: Run) -> Evaluation:
    """Measure the model file on the test set.

    Raises:
        ModelFileError: The file is unsafe or damaged.
        TrainingError: Its outputs are not probabilities.
    """
    probabilities = predict(run.artifacts.get(model), from_npy(run.artifacts.get(test.images)))
    result = _scored(probabilities, test, run)
    LOG.info("evaluate: %d of %d test images right, accuracy %.4f", result.correct, result.images, result.accuracy)
    return result


@step(packages=["keras", "numpy", "tensorflow"], fits=_fits)
def reevaluate(model: Artifact, test: Examples, classes: int, run: Run) -> Evaluation:
    """Measure a published model file on the test set, in an isolated process that a hostile file may hang or crash.

    Raises:
        LoadBackError: The process cannot predict with the file.
        ModelFileError: The model has not this number of classes.
    """
    probabilities = predict_isolated(run.artifacts.get(model), from_npy(run.artifacts.get(test.images)))
    if probabilities.shape[1] != classes:
        raise ModelFileError(
            "cannot evaluate the model",
            f"it predicts {probabilities.shape[1]} classes instead of {classes}",
            "Fetch the model again, and ask who changed it.",
        )
    return _scored(probabilities, test, run)


def evaluate_published(
    model: Artifact, read: Callable[[], bytes], test: Examples, classes: int, run: Run
) -> Evaluation:
    """Measure a published model file on the test set; raises what `reevaluate` raises.

    Args:
        model: The file, by the digest in its manifest.
        read: Its bytes, read only if this run's store has no result for it.
        test: The current test set.
        classes: The number of its classes.
        run: The run, with its store.
    """
    if known := evaluate.kept(model, test, run):
        return known
    published = run.artifacts.put(read(), model.media_type)
    evaluation = reevaluate(published, test, classes, run)
    run.computed.pop(reevaluate.key(published, test, classes, run))  # the report has the seconds of the candidate
    return evaluation


def _scored(probabilities: Probabilities, test: Examples, run: Run) -> Evaluation:
    labels = from_npy(run.artifacts.get(test.labels))
    predictions = run.artifacts.put(to_npz(probabilities, labels), NPZ)
    return score(probabilities, labels, predictions)
