"""Several trainings that differ in nothing but the seed, and the one of them that stands for the recipe.

One seed tells little: seeds of one recipe differ by more than a small improvement. So the median one by accuracy is
judged and published, never the best, whose accuracy on the test set would be too good to be true. Each seed is a cached
training of its own: raising their number reuses those that are there. Called by the flow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from statistics import fmean, stdev
from typing import NamedTuple

from tasks import afresh
from tasks.caching.inventory import is_kept
from tasks.caching.steps import Run
from tasks.dispatch import all_at_once
from tasks.evaluate import evaluate
from tasks.settings import Recipe, TrainOn
from tasks.train import train
from tasks.values import DeviceKind, Evaluation, Examples, Prepared, SeedScore, Spread, Trained

LOG = logging.getLogger("retrain.seeds")


class Training(NamedTuple):
    """A recipe with its own seed, and what came of it."""

    recipe: Recipe
    trained: Trained


class Candidate(NamedTuple):
    """The training that is judged, and how the others did; no spread where there are none."""

    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    spread: Spread | None


def train_seeds(
    prepared: Prepared, recipe: Recipe, seeds: int, device: DeviceKind, train_on: TrainOn, run: Run
) -> list[Training]:
    """Train with the recipe's seed and those that follow: here one after the other, on a work pool all at once."""
    recipes = [recipe.model_copy(update={"seed": (recipe.seed + number) % 2**32}) for number in range(seeds)]
    examples, validation = prepared.train, prepared.validation

    def is_missing(each: Recipe) -> bool:
        key = train.key(examples, validation, each, device, train_on, run)
        return "train" in run.refresh or not is_kept(run.store, key)

    missing = list(filter(is_missing, recipes))
    if missing and train_on == "here":
        afresh.get_ready()  # it imports TensorFlow while this process does
    at_once = missing if train_on == "gpu" and seeds > 1 else []
    with all_at_once(examples, validation, at_once, device, run) if at_once else nullcontext():
        return [Training(each, train(examples, validation, each, device, train_on, run)) for each in recipes]


def evaluate_median(trainings: Sequence[Training], test: Examples, run: Run) -> Candidate:
    """Evaluate every training and take the median one by accuracy."""
    evaluations = [evaluate(each.trained.model, test, run) for each in trainings]
    scores = [
        SeedScore(seed=each.recipe.seed, accuracy=found.accuracy)
        for each, found in zip(trainings, evaluations, strict=True)
    ]
    chosen = median(scores)
    spread = spread_of(scores, chosen) if len(scores) > 1 else None
    return Candidate(*trainings[chosen], evaluations[chosen], spread)


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
    found = Spread(
        scores=tuple(scores),
        judged=scores[chosen].seed,
        mean=fmean(accuracies),
        deviation=stdev(accuracies),
        lowest=min(accuracies),
        highest=max(accuracies),
    )
    for score in scores:
        LOG.info("seeds: %d has accuracy %.4f%s", *score.model_dump().values(), _mark(score, found))
    LOG.info("seeds: mean %.4f, standard deviation %.4f", found.mean, found.deviation)
    return found


def _mark(score: SeedScore, spread: Spread) -> str:
    return ", the median: it is judged" if score.seed == spread.judged else ""
