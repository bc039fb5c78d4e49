"""Accuracy, loss, precision and recall of predictions. Called by the evaluate step. Pure NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Labels, Probabilities
from tasks.values import Artifact, ClassScore, Evaluation


def score(probabilities: Probabilities, labels: Labels, predictions: Artifact) -> Evaluation:
    """Accuracy, mean cross-entropy in nats, precision and recall per class, confusion matrix.

    A class that is never predicted has precision 0, one without images recall 0. A probability of 0 counts as the
    smallest step of float64, as in scikit-learn.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        predictions: The artifact with the predictions for each image.
    """
    confusion = _confusion(probabilities, labels)
    right, support = confusion.diagonal(), confusion.sum(axis=1)
    precision, recall = right / confusion.sum(axis=0).clip(1), right / support.clip(1)
    exact = probabilities.astype(np.float64)
    of_label = exact[np.arange(len(labels)), labels] / exact.sum(axis=1)
    return Evaluation(
        predictions=predictions,
        images=len(labels),
        correct=int(right.sum()),
        accuracy=int(right.sum()) / len(labels),
        loss=float(-np.log(of_label.clip(np.finfo(np.float64).eps)).mean()),
        classes=tuple(
            ClassScore(
                label=label,
                precision=float(precision[label]),
                recall=float(recall[label]),
                support=int(support[label]),
            )
            for label in range(len(support))
        ),
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def require_scores_of(evaluation: Evaluation, probabilities: Probabilities, labels: Labels) -> None:
    """Raise ValueError unless the evaluation counts what these predictions get right.

    Args:
        evaluation: What `score` is said to have returned for them.
        probabilities: float32 (n, classes).
        labels: uint8 or uint16 (n,).
    """
    confusion = _confusion(probabilities, labels)
    right, support = confusion.diagonal(), confusion.sum(axis=1)
    counted = (len(labels), int(right.sum()), tuple(map(tuple, confusion.tolist())), tuple(range(len(confusion))))
    labelled = tuple(each.label for each in evaluation.classes)
    if (evaluation.images, evaluation.correct, evaluation.confusion, labelled) != counted:
        raise ValueError("its counts are not those of its predictions")
    shares = [
        evaluation.accuracy,
        *(each.recall * total for each, total in zip(evaluation.classes, support, strict=True)),
    ]
    if not np.allclose(shares, [counted[1] / len(labels), *right]):
        raise ValueError("its shares are not those of its predictions")


def _confusion(probabilities: Probabilities, labels: Labels) -> NDArray[np.intp]:
    """How many images of each class, in rows, have each class as their guess."""
    classes = probabilities.shape[1]
    pairs = labels.astype(np.intp) * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
