"""Accuracy, loss, precision and recall of predictions. Called by the evaluate step. NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np

from tasks.data.arrays import Labels, Probabilities
from tasks.values import Artifact, ClassScore, Evaluation


def score(probabilities: Probabilities, labels: Labels, predictions: Artifact) -> Evaluation:
    """Accuracy, mean cross-entropy in nats, precision and recall per class, confusion matrix.

    A class that is never predicted has precision 0, one without images recall 0.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        predictions: The artifact with the predictions for each image.
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


def require_scores_of(evaluation: Evaluation, probabilities: Probabilities, labels: Labels) -> None:
    """Raise ValueError unless the evaluation counts what these predictions get right.

    Args:
        evaluation: What `score` is said to have returned for them.
        probabilities: float32 (n, classes).
        labels: uint8 or uint16 (n,).
    """
    classes = probabilities.shape[1]
    pairs = labels.astype(np.intp) * classes + probabilities.argmax(axis=1)
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    right, support = confusion.diagonal(), confusion.sum(axis=1)
    counted = (len(labels), int(right.sum()), tuple(map(tuple, confusion.tolist())), tuple(range(classes)))
    labelled = tuple(each.label for each in evaluation.classes)
    if (evaluation.images, evaluation.correct, evaluation.confusion, labelled) != counted:
        raise ValueError("its counts are not those of its predictions")
    shares = [
        evaluation.accuracy,
        *(each.recall * total for each, total in zip(evaluation.classes, support, strict=True)),
    ]
    if not np.allclose(shares, [counted[1] / len(labels), *right]):
        raise ValueError("its shares are not those of its predictions")
