"""Compares two predictions of the same images. Called by the steps `load_back` and `export`. Pure NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.data.arrays import Probabilities


class Agreement(NamedTuple):
    """The number of images, on how many two predictions agree, and the largest difference of any probability."""

    images: int
    same: int
    largest: float


def agreement(predicted: Probabilities, evaluated: Probabilities, tolerance: float) -> Agreement:
    """Compare predictions with the evaluated ones, both float32 (n, classes).

    An image counts as the same if its class is and each probability differs by at most `tolerance`. A NaN is never the
    same, and counts as a difference of 1.
    """
    difference = np.abs(predicted.astype(np.float64) - evaluated).max(axis=1, initial=0.0)
    same = (difference <= tolerance) & (predicted.argmax(axis=1) == evaluated.argmax(axis=1))
    largest = float(np.nan_to_num(difference, nan=1.0).max(initial=0.0))
    return Agreement(images=len(evaluated), same=int(same.sum()), largest=largest)
