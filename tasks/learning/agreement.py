"""Do two ways of computing predictions agree? For the model loaded back, and for its ONNX export. Pure NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.data.arrays import Probabilities


class Agreement(NamedTuple):
    """On how many of the images two predictions agree, and the largest difference of any probability."""

    images: int
    same: int
    largest: float


def agreement(predicted: Probabilities, evaluated: Probabilities, tolerance: float) -> Agreement:
    """Compare predictions with the evaluated ones, both float32 (n, classes).

    An image is the same where the class is, and each probability differs by at most `tolerance`. NaN is never the same,
    and counts as a difference of 1.
    """
    apart = np.abs(predicted.astype(np.float64) - evaluated).max(axis=1, initial=0.0)
    same = (apart <= tolerance) & (predicted.argmax(axis=1) == evaluated.argmax(axis=1))
    largest = float(np.nan_to_num(apart, nan=1.0).max(initial=0.0))
    return Agreement(images=len(evaluated), same=int(same.sum()), largest=largest)
