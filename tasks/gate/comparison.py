"""Candidate and champion on the same test images: how many were won and lost, and which.

Pure NumPy; `tasks.gate.paired` has the statistics of the counts. The report shows what `compare` makes, and so does
`retrain compare` of any two published versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.data.arrays import Bytes, Probabilities
from tasks.gate.paired import Counts, count
from tasks.values import Value

# How many of the images won, and of those lost, are named.
MOST = 20


class Said(Value):
    """What a model took an image for, and how surely."""

    guess: int
    probability: float


class Change(Value):
    """A test image that one of two models gets wrong: its number, what it shows, and what either model says."""

    image: int
    truth: int
    champion: Said
    candidate: Said


class Side(Value):
    """The images that only one of the two models gets right: how many, of each class, and the first to look at.

    `images` are those where the model that is wrong is surest, at most `MOST` of them.
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
        """What the statistics of a paired comparison are made of."""
        return Counts(only_champion=self.lost.count, only_candidate=self.won.count, images=self.images)


@dataclass(frozen=True)
class _Model:
    """A model's guesses, uint8 (n,), how sure it was, float32 (n,), and whether they are right."""

    guesses: Bytes
    sureness: Probabilities
    right: np.ndarray

    def said(self, image: int) -> Said:
        return Said(guess=int(self.guesses[image]), probability=round(float(self.sureness[image]), 4))


def compare(champion: int, labels: Bytes, theirs: Probabilities, ours: Probabilities, most: int = MOST) -> Comparison:
    """Compare a candidate with the champion, image by image.

    Args:
        champion: The champion's version.
        labels: What each image shows, uint8 (n,).
        theirs: What the champion says, float32 (n, classes).
        ours: What the candidate says, float32 (n, classes).
        most: How many of the images won and of those lost to name.

    Raises ValueError where these are not predictions of the same images.
    """
    if not len(labels) == len(theirs) == len(ours):
        raise ValueError(f"not the same images: {len(labels)}, {len(theirs)}, {len(ours)}")
    old, new = _model(theirs, labels), _model(ours, labels)
    counts = count(labels, old.guesses, new.guesses)
    both_right = int((old.right & new.right).sum())

    def side(which: np.ndarray, loser: _Model) -> Side:
        images = np.flatnonzero(which)
        # A stable sort: equal sureness keeps the order of the images, so the same models give the same report.
        ranked = images[np.argsort(-loser.sureness[images], kind="stable")][:most]
        return Side(
            count=len(images),
            per_class=tuple(int(number) for number in np.bincount(labels[images], minlength=theirs.shape[1])),
            images=tuple(
                Change(image=int(at), truth=int(labels[at]), champion=old.said(at), candidate=new.said(at))
                for at in ranked
            ),
        )

    return Comparison(
        champion=champion,
        images=len(labels),
        both_right=both_right,
        both_wrong=len(labels) - both_right - counts.only_champion - counts.only_candidate,
        won=side(~old.right & new.right, old),
        lost=side(old.right & ~new.right, new),
    )


def _model(probabilities: Probabilities, labels: Bytes) -> _Model:
    guesses = probabilities.argmax(axis=1).astype(np.uint8)
    return _Model(guesses, probabilities.max(axis=1), guesses == labels)
