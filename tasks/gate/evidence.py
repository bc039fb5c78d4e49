"""Several seeds of one recipe: which model is judged, and how far they differ. Pure; called by the flow.

Seeds of one recipe differ by more than a small improvement does. The median model by accuracy is judged and published,
never the best: its accuracy on the test set, by which it was chosen, is biased upwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from tasks.values import SeedScore, Spread


def median(scores: Sequence[SeedScore]) -> int:
    """The index of the median by accuracy: of an even number the lower, among equal accuracies the smallest seed."""
    accuracies = sorted(score.accuracy for score in scores)
    middle = accuracies[(len(scores) - 1) // 2]
    return min(
        (number for number, score in enumerate(scores) if score.accuracy == middle), key=lambda n: scores[n].seed
    )


def spread_of(scores: Sequence[SeedScore], chosen: int) -> Spread:
    """Mean, standard deviation (of a sample, n - 1) and range of at least two scores; `chosen` indexes the median."""
    accuracies = [score.accuracy for score in scores]
    return Spread(
        scores=tuple(scores),
        judged=scores[chosen].seed,
        mean=fmean(accuracies),
        deviation=stdev(accuracies),
        lowest=min(accuracies),
        highest=max(accuracies),
    )
