"""Wilson's interval of a proportion, and the normal quantiles that gate and report use. Pure."""

from __future__ import annotations

import math
from statistics import NormalDist

# One-sided 95 %: of models whose true value is exactly at the limit, 5 % are refuted by chance.
ONE_SIDED = NormalDist().inv_cdf(0.95)
TWO_SIDED = NormalDist().inv_cdf(0.975)


def wilson(correct: int, images: int, z: float) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Args:
        correct: Successes.
        images: Trials, at least 1.
        z: Normal quantile: `TWO_SIDED` for the 95 % interval, `ONE_SIDED` where only one end is used.

    Returns the lower and the upper end, both in [0, 1].

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22:209-212.
    """
    share = correct / images
    centre = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
