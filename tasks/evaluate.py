"""The evaluate step: the exact bytes of the model file, on every test image, once.

Keeps each image's probabilities, so that a later version can be compared image by image. `reevaluate` is the same for a
published model whose predictions are of other images, or damaged: a step by another name, as a run may take both.
"""

from __future__ import annotations

import logging

import numpy as np

from tasks.arrays import Bytes, Probabilities, from_npy, to_npz
from tasks.caching.steps import Run, step
from tasks.predictions import predict
from tasks.values import Artifact, ClassScore, Evaluation, Examples

LOG = logging.getLogger("retrain.evaluate")


def score(probabilities: Probabilities, labels: Bytes, predictions: Artifact) -> Evaluation:
    """Accuracy, loss, precision and recall per class, confusion matrix, through scikit-learn.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        predictions: Where the per-image predictions are kept.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    precision, recall, _, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    exact = probabilities.astype(np.float64)
    correct = int((predicted == labels).sum())
    return Evaluation(
        predictions=predictions,
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        loss=float(log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=classes)),
        classes=tuple(
            ClassScore(
                label=int(label),
                precision=float(precision[label]),
                recall=float(recall[label]),
                support=int(support[label]),
            )
            for label in classes
        ),
        confusion=tuple(
            tuple(int(count) for count in row) for row in confusion_matrix(labels, predicted, labels=classes)
        ),
    )


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
