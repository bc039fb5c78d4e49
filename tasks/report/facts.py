"""What a report is made of. Pure; imports no drawing library."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.settings import Recipe
from tasks.values import Decision, Evaluation, Prepared, Provenance, Trained, Value


class Facts(Value):
    """Everything that the report tells."""

    prepared: Prepared
    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    decision: Decision
    provenance: Provenance

    @property
    def model(self) -> str:
        """The model's name: that of its data set."""
        return self.prepared.dataset


class Mistake(NamedTuple):
    """A test image that the model got wrong: its number, what it is, what the model took it for, and how surely."""

    image: int
    truth: int
    guess: int
    probability: float


def worst_mistakes(probabilities: NDArray[np.float32], labels: NDArray[np.uint8], most: int) -> list[Mistake]:
    """The mistakes that the model was surest of, worst first.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        most: How many at most.
    """
    guesses = probabilities.argmax(axis=1)
    sureness = probabilities.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    # A stable sort: equal sureness keeps the order of the images, so the same model gives the same report.
    ranked = wrong[np.argsort(-sureness[wrong], kind="stable")][:most]
    return [Mistake(int(i), int(labels[i]), int(guesses[i]), round(float(sureness[i]), 4)) for i in ranked]
