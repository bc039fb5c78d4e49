"""Paired statistics of two models on the same test images: how much accuracy does the candidate lose to the champion?

Images that both get right, or both wrong, say nothing about a difference. The discordant ones count: `b` that only the
champion gets right, `c` that only the candidate does. The loss is champion's accuracy minus candidate's, (b - c) / n; a
negative loss is a gain. Pure NumPy; called by gate and report. It has no limits and decides nothing.

Why Tango's score interval and not another: tests/operating/coverage.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Labels

Floats = NDArray[np.float64]

# Bisection steps. The first interval is at most 2 wide, so the last one is narrower than 2e-18.
BISECTIONS = 60


@dataclass(frozen=True)
class Counts:
    """On how many of `images` test images two models differ, and which one is right.

    Raises:
        ValueError: Counts that no two models can have.
    """

    only_champion: int
    only_candidate: int
    images: int

    def __post_init__(self) -> None:
        if min(self.only_champion, self.only_candidate) < 0 or self.images < 1:
            raise ValueError(f"counts below zero, or no images: {self}")
        if self.only_champion + self.only_candidate > self.images:
            raise ValueError(f"more images differ than there are: {self}")

    @property
    def loss(self) -> float:
        """The measured loss: champion's accuracy minus candidate's."""
        return (self.only_champion - self.only_candidate) / self.images


def count(labels: Labels, champion: Labels, candidate: Labels) -> Counts:
    """Compare two models' predicted classes with the labels, image by image; all uint8 (n,).

    Raises:
        ValueError: The shapes differ, are not one-dimensional, or there are no images.
    """
    if labels.ndim != 1 or not labels.shape == champion.shape == candidate.shape:
        raise ValueError(f"not the same images: {labels.shape}, {champion.shape}, {candidate.shape}")
    right, candidate_right = champion == labels, candidate == labels
    return Counts(
        only_champion=int((right & ~candidate_right).sum()),
        only_candidate=int((~right & candidate_right).sum()),
        images=len(labels),
    )


def loss_bounds(counts: Counts, z: float) -> tuple[float, float]:
    """Tango's score interval for paired proportions: the lowest and the highest loss that the counts do not refute.

    Args:
        counts: The observed counts.
        z: Normal quantile, as for `tasks.gate.intervals.wilson`: 1.645 if one end is used with 95 % confidence.

    Both ends are in [-1, 1]; the true loss is shown to exceed the lower one. Exchanging the models exchanges the ends
    and their signs. One more right answer of the candidate never raises either end.

    Source: T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17:891-908.
    """
    b, c = np.float64(counts.only_champion), np.float64(counts.only_candidate)
    return float(lower_bound(b, c, counts.images, z)), -float(lower_bound(c, b, counts.images, z))


def lower_bound(b: Floats | np.float64, c: Floats | np.float64, n: int, z: float) -> Floats:
    """The lower end of `loss_bounds` for arrays of counts: the loss at which `score` equals z, by bisection.

    The score falls as the loss grows, from above z at -1 to 0 at the observed loss.
    """
    low, high = np.full(np.shape(b), -1.0), (b - c) / n
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        refuted = score(b, c, n, middle) > z
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


def score(b: Floats | np.float64, c: Floats | np.float64, n: int, loss: Floats | float) -> Floats:
    """Tango's statistic: by how many standard errors the observed loss exceeds `loss`, if `loss` is the true one.

    Above z, it refutes a true loss of at most `loss`. `q` is the maximum likelihood estimate, under that loss, of the
    probability of an image that only the candidate gets right: the larger root of 2 n q² + B q + C = 0.
    McNemar's statistic (b - c) / √(b + c) is the case loss = 0.
    """
    # For a negative loss, exchange the models: then no terms of opposite sign cancel.
    gained, loss = np.less(loss, 0), np.abs(loss)
    b, c = np.where(gained, c, b), np.where(gained, b, c)
    middle = (2 * n - b + c) * loss - b - c
    q = (np.hypot(middle, np.sqrt(8 * n * c * loss * (1 - loss))) - middle) / (4 * n)
    distance = b - c - n * loss
    # Where only the observed loss is possible the variance is 0, and any other loss is infinitely far away.
    with np.errstate(divide="ignore", invalid="ignore"):
        standard_errors = np.where(distance == 0, 0.0, distance / np.sqrt(n * (2 * q + loss * (1 - loss))))
    return np.where(gained, -standard_errors, standard_errors)


def mcnemar(counts: Counts) -> float:
    """The exact, two-sided p-value of McNemar's test: how often two equally good models differ at least this much.

    Two-sided, because it stands beside a one-sided bound and answers another question, whether the models differ at
    all: a better candidate must not show as p = 1. Doubling the smaller tail is exact, since the binomial distribution
    with p = 1/2 is symmetric. 1 if no image is discordant.

    Source: Q. McNemar (1947), Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12:153-157; exact by the binomial distribution of b among the b + c.
    """
    discordant = counts.only_champion + counts.only_candidate
    if not discordant:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(counts.only_champion, counts.only_candidate), discordant, 0.5)))
