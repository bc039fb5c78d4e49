"""What several seeds of one recipe say: the median one, and how far they are apart. Pure.

Seeds of one recipe differ by more than a small improvement. So the median one by accuracy is judged and published,
never the best, whose accuracy on the test set would be too good to be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from tasks.values import SeedScore, Spread


def median(scores: Sequence[SeedScore]) -> int:
    """Which one is the median by accuracy; the lower of two, and of equal ones that with the smallest seed."""
    accuracies = sorted(score.accuracy for score in scores)
    middle = accuracies[(len(scores) - 1) // 2]
    return min(
        (number for number, score in enumerate(scores) if score.accuracy == middle), key=lambda n: scores[n].seed
    )


def spread_of(scores: Sequence[SeedScore], chosen: int) -> Spread:
    """Mean, standard deviation (of a sample, n - 1) and range of at least two."""
    accuracies = [score.accuracy for score in scores]
    return Spread(
        scores=tuple(scores),
        judged=scores[chosen].seed,
        mean=fmean(accuracies),
        deviation=stdev(accuracies),
        lowest=min(accuracies),
        highest=max(accuracies),
    )
