"""Two models on the same test images: how much accuracy does the candidate lose to the champion?

Images that both get right, or both wrong, say nothing about a difference. What counts are the discordant ones: `b`
that only the champion gets right and `c` that only the candidate does. The loss is champion's accuracy minus
candidate's, (b - c) / n; a negative loss is a gain. Pure NumPy; the gate may call it. It knows no limit and decides
nothing.

Why Tango's score interval and not another: tests/operating/coverage.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Bytes

Floats = NDArray[np.float64]

# Of an interval that is at most 2 wide: it ends narrower than 2e-18.
HALVINGS = 60


@dataclass(frozen=True)
class Counts:
    """On how many of the `images` test images the two models differ, and who is right there.

    Raises ValueError for counts that no two models can have.
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


def count(labels: Bytes, champion: Bytes, candidate: Bytes) -> Counts:
    """Compare two models' predicted classes with the labels, image by image; all uint8 (n,).

    Raises ValueError where these are not one class for each of the same images, or none at all.
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
    """The lowest and the highest loss that the counts do not refute: Tango's score interval for paired proportions.

    Args:
        counts: What was observed.
        z: Normal quantile, as for `judge.wilson`: 1.645 where one end is used with 95 % confidence.

    Both ends are in [-1, 1] and the lower one is what a loss is shown to exceed. Exchanging the models exchanges the
    ends and their signs; one more right answer of the candidate never raises either end.

    Source: T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17:891-908.
    """
    b, c = np.float64(counts.only_champion), np.float64(counts.only_candidate)
    return float(lower_bound(b, c, counts.images, z)), -float(lower_bound(c, b, counts.images, z))


def lower_bound(b: Floats | np.float64, c: Floats | np.float64, n: int, z: float) -> Floats:
    """The lower end of `loss_bounds` for many counts at once: where `score` comes down to z, found by halving.

    The score falls as the loss grows, from above z at -1 to 0 at the observed loss.
    """
    low, high = np.full(np.shape(b), -1.0), (b - c) / n
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        refuted = score(b, c, n, middle) > z
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


def score(b: Floats | np.float64, c: Floats | np.float64, n: int, loss: Floats | float) -> Floats:
    """Tango's statistic: by how many standard errors the observed loss exceeds `loss`, were `loss` the true one.

    Refutes a loss of at most `loss` where it is above z. Under that loss, `q` is the most likely probability of an
    image that only the candidate gets right, the larger root of 2 n q² + B q + C = 0.
    McNemar's statistic (b - c) / √(b + c) is the case loss = 0.
    """
    # The same seen from the other model, so that no two terms of unlike signs cancel.
    gained, loss = np.less(loss, 0), np.abs(loss)
    b, c = np.where(gained, c, b), np.where(gained, b, c)
    middle = (2 * n - b + c) * loss - b - c
    q = (np.hypot(middle, np.sqrt(8 * n * c * loss * (1 - loss))) - middle) / (4 * n)
    distance = b - c - n * loss
    # No variance is left where nothing but the observed loss is possible; any distance from it is infinitely far.
    with np.errstate(divide="ignore", invalid="ignore"):
        standard_errors = np.where(distance == 0, 0.0, distance / np.sqrt(n * (2 * q + loss * (1 - loss))))
    return np.where(gained, -standard_errors, standard_errors)


def mcnemar(counts: Counts) -> float:
    """The exact p-value of McNemar's test: how often two equally good models would differ at least as lopsidedly.

    Two-sided, because it stands beside a bound that has a side already and answers the other question, whether the
    models differ at all: a candidate that is better must not show as p = 1. Doubling the smaller tail is exact here,
    since a fair coin's two tails are alike. 1 where no image is discordant.

    Source: Q. McNemar (1947), Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12:153-157; exact by the binomial distribution of b among the b + c.
    """
    discordant = counts.only_champion + counts.only_candidate
    if not discordant:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(counts.only_champion, counts.only_candidate), discordant, 0.5)))
