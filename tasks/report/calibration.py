"""Is the model right as often as it says? Reliability curve and expected calibration error.

Pure NumPy; called when a document is built.
"""

from __future__ import annotations

import numpy as np

from tasks.data.arrays import Labels, Probabilities
from tasks.values import Value

# As in Guo et al. The error depends on the number of bins, so every form of the report states both.
BINS = 15


class Bin(Value):
    """The images whose guess has a probability in (lower, upper]: their number, mean probability, and share right."""

    lower: float
    upper: float
    images: int
    confidence: float
    accuracy: float


class Calibration(Value):
    """The bins that hold images, in order, out of `of` equally wide ones over [0, 1].

    `error` is the expected calibration error.
    """

    error: float
    of: int
    bins: tuple[Bin, ...]


def calibration(probabilities: Probabilities, labels: Labels, of: int = BINS) -> Calibration:
    """How far the probabilities of the guesses are from the share of right guesses.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        of: Number of bins.

    Images are put into equally wide bins by the probability of their guess. The error is the mean over all images of
    their bin's gap, |share right - mean probability|. It is 0 for a model that is right as often as it says.

    Source: M. P. Naeini, G. F. Cooper, M. Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian
    binning, AAAI 29:2901-2907; for networks and 15 bins, C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), On
    calibration of modern neural networks, ICML 34:1321-1330.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, of + 1)
    # A float32 probability may be a little above 1.
    indices = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, of - 1)
    bins = [_bin(edges[i], edges[i + 1], confidence[mask], right[mask]) for i, mask in _groups(indices)]
    gaps = sum(bin_.images * abs(bin_.accuracy - bin_.confidence) for bin_ in bins)
    return Calibration(error=round(gaps / max(len(labels), 1), 6), of=of, bins=tuple(bins))


def _groups(indices: np.ndarray[tuple[int], np.dtype[np.intp]]) -> list[tuple[int, np.ndarray]]:
    return [(int(i), indices == i) for i in np.unique(indices)]


def _bin(lower: float, upper: float, confidence: np.ndarray, right: np.ndarray) -> Bin:
    return Bin(
        lower=round(float(lower), 6),
        upper=round(float(upper), 6),
        images=len(right),
        confidence=round(float(confidence.mean()), 6),
        accuracy=float(right.mean()),
    )
