"""Limits for data that nobody knows yet, from several seeds of one recipe. Pure; called by `retrain calibrate`.

A healthy retraining differs from another one by its seed alone. Each limit is a prediction limit for one further
observation, mean + k · s · √(1 + 1/K) over K seeds: a gate with this limit fails a healthy retraining with a chosen
probability, the rate of false alarms. It is a promise for this test set, this recipe and these data.

The logarithm of the error rate is taken to be normal, and so is the loss that one seed shows to another; there k is
Student's t (Hahn). The lowest recall of a class has a heavier tail: the worst class of an unlucky seed. There k is
what holds for every distribution with one peak, 4 / (9 (1 + k²)) being the rate (Vysochanskij and Petunin).

Where a verdict compares recipes by five seeds each, its limit is one of the difference of two such means,
k · s · √(1/5 + 1/5), k being Student's t.

Sources: G. J. Hahn (1969), Factors for calculating two-sided prediction intervals for samples from a normal
distribution, Journal of the American Statistical Association 64:878-888, here one-sided; D. F. Vysochanskij and
Y. I. Petunin (1980), Justification of the 3σ rule for unimodal distributions, Theory of Probability and Mathematical
Statistics 21:25-36, here one-sided. How well it holds: tests/operating/limits.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Labels
from tasks.gate.intervals import ONE_SIDED, wilson
from tasks.gate.paired import lower_bound
from tasks.gate.recipes import LOOKS

Floats = NDArray[np.float64]

# How often a healthy retraining may fail a row.
FALSE_ALARMS = {
    "min_accuracy": 0.005,
    "min_accuracy_lower_bound": 0.005,  # the same retrainings
    "min_class_recall": 0.01,
    "max_regression": 0.005,
}

# Fewer tell too little of how far seeds differ.
FEWEST_SEEDS = 5

# The limits are multiples of it, rounded so that fewer healthy retrainings fail.
STEP = 0.001
FINE_STEP = 0.0001  # of a difference of means


class Proposal(NamedTuple):
    """A limit, the lowest and the highest value that the seeds reached, and the promised rate of false alarms."""

    name: str
    limit: float
    lowest: float
    highest: float
    false_alarms: float


def propose(right: NDArray[np.bool_], labels: Labels, one_seed: bool = False) -> list[Proposal]:
    """The limits of the gate.

    Args:
        right: Which test images each seed's model gets right: bool (seeds, n), at least `FEWEST_SEEDS`.
        labels: The class of each image, (n,); every class has images.
        one_seed: Whether verdicts are to compare two models, by the loss that is shown, and not two recipes.
    """
    seeds, images = right.shape
    accuracy = right.mean(axis=1)
    errors = np.log(1 - accuracy + 0.5 / images)
    floor = max(0.0, _down(1 - math.exp(_limit(errors, _student("min_accuracy", seeds))) + 0.5 / images))
    # Implied by the floor, so that it fails nothing that the floor does not.
    implied = _down(wilson(math.ceil(floor * images), images, ONE_SIDED)[0])
    recall = np.array([lowest_recall(row, labels) for row in right])
    peaked = math.sqrt(4 / (9 * FALSE_ALARMS["min_class_recall"]) - 1)
    k = _student("max_regression", seeds)
    losses = shown_losses(right) if one_seed else mean_losses(right)
    if one_seed:
        margin = max(STEP, -_down(-_limit(losses, k, seeds)))
    else:
        margin = max(FINE_STEP, -_down(-k * accuracy.std(ddof=1) * math.sqrt(2 / LOOKS[-1]), FINE_STEP))
    return [
        _proposal("min_accuracy", floor, accuracy),
        _proposal("min_accuracy_lower_bound", implied, lower_bounds(right)),
        _proposal("min_class_recall", max(0.0, _down(-_limit(-recall, peaked))), recall),
        _proposal("max_regression", margin, losses),
    ]


def _proposal(name: str, limit: float, values: Floats) -> Proposal:
    return Proposal(name, limit, float(values.min()), float(values.max()), FALSE_ALARMS[name])


def _limit(values: Floats, k: float, seeds: int | None = None) -> float:
    """The upper prediction limit; of values that are not independent, `seeds` is how many are."""
    return float(values.mean() + k * values.std(ddof=1) * math.sqrt(1 + 1 / (seeds or len(values))))


def _student(name: str, seeds: int) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - FALSE_ALARMS[name], seeds - 1))


def _down(limit: float, step: float = STEP) -> float:
    return round(math.floor(limit / step + 1e-9) * step, 6)


def lower_bounds(right: NDArray[np.bool_]) -> Floats:
    """Of each seed the lower bound of its accuracy."""
    images = right.shape[1]
    return np.array([wilson(int(correct), images, ONE_SIDED)[0] for correct in right.sum(axis=1)])


def lowest_recall(right: NDArray[np.bool_], labels: Labels) -> float:
    """The recall of the class with the lowest one."""
    totals = np.bincount(labels)
    return float((np.bincount(labels, right, len(totals)) / totals).min())


def mean_losses(right: NDArray[np.bool_]) -> Floats:
    """What the mean over five seeds loses to that over five others, in 1,000 draws; of fewer than ten, over halves."""
    accuracy, random = right.mean(axis=1), np.random.default_rng(0)
    number = min(LOOKS[-1], len(accuracy) // 2)
    drawn = np.stack([random.permutation(len(accuracy))[: 2 * number] for _ in range(1000)])
    losses: Floats = accuracy[drawn[:, :number]].mean(axis=1) - accuracy[drawn[:, number:]].mean(axis=1)
    return losses


def shown_losses(right: NDArray[np.bool_]) -> Floats:
    """The loss that each seed, as the candidate, shows to each other one, as the champion: that row of the gate."""
    only_first = right.astype(np.float32) @ (~right).astype(np.float32).T
    champion, candidate = np.nonzero(~np.eye(len(right), dtype=bool))
    b, c = only_first[champion, candidate], only_first[candidate, champion]
    return lower_bound(b.astype(np.float64), c.astype(np.float64), right.shape[1], ONE_SIDED)
