"""Is the model as often right as it says? The reliability curve and the expected calibration error. Pure NumPy."""

from __future__ import annotations

import numpy as np

from tasks.data.arrays import Bytes, Probabilities
from tasks.values import Value

# As Guo et al. have it. The error depends on the number of bins, so it stands beside it wherever it is told.
BINS = 15


class Bin(Value):
    """The images whose guess had a probability in (lower, upper]: their number, mean probability, and share right."""

    lower: float
    upper: float
    images: int
    confidence: float
    accuracy: float


class Calibration(Value):
    """The bins that hold images, in order, of `of` equally wide ones over [0, 1]; `error` is the mean gap."""

    error: float
    of: int
    bins: tuple[Bin, ...]


def calibration(probabilities: Probabilities, labels: Bytes, of: int = BINS) -> Calibration:
    """How far the probability of the guess is from the share of right guesses.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        of: How many bins.

    Images are put into equally wide bins by the probability of their guess; the error is the mean over all images of
    their bin's gap, |share right - mean probability|. It is 0 for a model that is right as often as it says.

    Source: M. P. Naeini, G. F. Cooper, M. Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian
    binning, AAAI 29:2901-2907; for networks and 15 bins, C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), On
    calibration of modern neural networks, ICML 34:1321-1330.
    """
    sureness = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, of + 1)
    # Float32 probabilities may add up to a little more than 1.
    places = np.clip(np.searchsorted(edges, sureness, side="left") - 1, 0, of - 1)
    bins = [_bin(edges[place], edges[place + 1], sureness[at], right[at]) for place, at in _groups(places)]
    gaps = sum(each.images * abs(each.accuracy - each.confidence) for each in bins)
    return Calibration(error=round(gaps / max(len(labels), 1), 6), of=of, bins=tuple(bins))


def _groups(places: np.ndarray[tuple[int], np.dtype[np.intp]]) -> list[tuple[int, np.ndarray]]:
    return [(int(place), places == place) for place in np.unique(places)]


def _bin(lower: float, upper: float, sureness: np.ndarray, right: np.ndarray) -> Bin:
    return Bin(
        lower=round(float(lower), 6),
        upper=round(float(upper), 6),
        images=len(right),
        confidence=round(float(sureness.mean()), 6),
        accuracy=float(right.mean()),
    )
