"""What a report is made of. Pure; imports no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.settings import Recipe
from tasks.values import Decision, Evaluation, Export, Prepared, Provenance, Spread, Statistics, Trained, Value

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
STEPS = ("download", "preprocess", "train", "evaluate", "load_back", "export")


class Facts(Value):
    """Everything that the report tells."""

    prepared: Prepared
    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    decision: Decision
    provenance: Provenance
    exported: Export = Export()
    spread: Spread | None = None

    @property
    def model(self) -> str:
        """The model's name: that of its data set."""
        return self.prepared.dataset

    @property
    def splits(self) -> list[tuple[str, Statistics]]:
        """The statistics of each split, in the order in which the job uses them."""
        return _in_order(self.prepared.statistics, SPLITS)

    @property
    def seconds(self) -> list[tuple[str, float]]:
        """What each step took, in the order in which they run."""
        return _in_order(self.provenance.seconds, STEPS)


def _in_order(found: Mapping[str, T], names: Sequence[str]) -> list[tuple[str, T]]:
    """The entries with these names first, then any others by name: equal facts must give the same report."""
    known = [name for name in names if name in found]
    return [(name, found[name]) for name in [*known, *sorted(found.keys() - known)]]


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
