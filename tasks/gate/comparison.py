"""Candidate and champion on the same test images: how many were won and lost, and which.

Pure NumPy; `tasks.gate.paired` has the statistics of the counts. Called by the gate, for the report, and by `retrain
compare` for any two published versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.data.arrays import Labels, Probabilities
from tasks.gate.paired import Counts, count
from tasks.values import Value

# How many of the images won, and of those lost, are listed.
MAX_LISTED = 20


class Prediction(Value):
    """The class that a model gives an image, and the probability of that class."""

    guess: int
    probability: float


class Change(Value):
    """A test image that only one of two models gets right: its number, its label, and both predictions."""

    image: int
    truth: int
    champion: Prediction
    candidate: Prediction


class Side(Value):
    """The images that only one of the two models gets right: how many, how many of each class, and which.

    `images` lists at most `MAX_LISTED`: those where the model that is wrong gives its guess the highest probability.
    """

    count: int
    per_class: tuple[int, ...]
    images: tuple[Change, ...]


class Comparison(Value):
    """How a candidate differs from the champion, version `champion`, over `images` test images.

    `won` are the images that only the candidate gets right, `lost` those that only the champion does.
    """

    champion: int
    images: int
    both_right: int
    both_wrong: int
    won: Side
    lost: Side

    @property
    def counts(self) -> Counts:
        """The counts for the paired statistics."""
        return Counts(only_champion=self.lost.count, only_candidate=self.won.count, images=self.images)


@dataclass(frozen=True)
class _Model:
    """A model's guesses (n,) of the labels' type, their probabilities, float32 (n,), and which are right, bool (n,)."""

    guesses: Labels
    confidence: Probabilities
    right: np.ndarray

    def prediction(self, image: int) -> Prediction:
        return Prediction(guess=int(self.guesses[image]), probability=round(float(self.confidence[image]), 4))


def compare(
    champion: int, labels: Labels, old: Probabilities, new: Probabilities, limit: int = MAX_LISTED
) -> Comparison:
    """Compare a candidate with the champion, image by image.

    Args:
        champion: The champion's version.
        labels: The class of each image, uint8 or uint16 (n,).
        old: The champion's probabilities, float32 (n, classes).
        new: The candidate's probabilities, float32 (n, classes).
        limit: How many of the images won, and of those lost, to list.

    Raises:
        ValueError: These are not predictions of the same images.
    """
    if not len(labels) == len(old) == len(new):
        raise ValueError(f"not the same images: {len(labels)}, {len(old)}, {len(new)}")
    champions, candidates = _model(old, labels), _model(new, labels)
    counts = count(labels, champions.guesses, candidates.guesses)
    both_right = int((champions.right & candidates.right).sum())

    def side(mask: np.ndarray, loser: _Model) -> Side:
        images = np.flatnonzero(mask)
        # A stable sort: equal probabilities keep the order of the images, so the same models give the same report.
        ranked = images[np.argsort(-loser.confidence[images], kind="stable")][:limit]
        return Side(
            count=len(images),
            per_class=tuple(int(number) for number in np.bincount(labels[images], minlength=old.shape[1])),
            images=tuple(
                Change(
                    image=int(i),
                    truth=int(labels[i]),
                    champion=champions.prediction(i),
                    candidate=candidates.prediction(i),
                )
                for i in ranked
            ),
        )

    return Comparison(
        champion=champion,
        images=len(labels),
        both_right=both_right,
        both_wrong=len(labels) - both_right - counts.only_champion - counts.only_candidate,
        won=side(~champions.right & candidates.right, champions),
        lost=side(champions.right & ~candidates.right, candidates),
    )


def _model(probabilities: Probabilities, labels: Labels) -> _Model:
    guesses = probabilities.argmax(axis=1).astype(labels.dtype)
    return _Model(guesses, probabilities.max(axis=1), guesses == labels)
