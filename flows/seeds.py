"""Trains with several seeds and selects the candidate for the gate: the median model by accuracy.

Each seed is a cached training of its own, so a run with more seeds reuses those that exist. Called by the flow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from tasks.caching.inventory import is_cached
from tasks.caching.steps import Run
from tasks.evaluate import evaluate
from tasks.gate.candidate import Candidate
from tasks.gate.evidence import median, spread_of
from tasks.learning import isolated
from tasks.learning.plan import TrainingPlan
from tasks.learning.work_pool import submit_all
from tasks.settings import Recipe, TrainOn
from tasks.train import train
from tasks.values import DeviceKind, Prepared, SeedScore, Spread, Trained

LOG = logging.getLogger("retrain.seeds")


class Training(NamedTuple):
    """A recipe with its own seed, and the trained model."""

    recipe: Recipe
    trained: Trained


def train_seeds(
    prepared: Prepared, recipe: Recipe, seeds: int, device: DeviceKind, train_on: TrainOn, run: Run
) -> list[Training]:
    """Train with the recipe's seed and those after it: one by one on this machine, all at once on a work pool.

    Raises:
        TrainingError, DispatchError: A training failed; the others on the work pool are cancelled.
    """
    recipes = [recipe.model_copy(update={"seed": (recipe.seed + number) % 2**32}) for number in range(seeds)]
    plans = [
        TrainingPlan(examples=prepared.train, validation=prepared.validation, recipe=each, device=device)
        for each in recipes
    ]
    missing = [
        plan for plan in plans if "train" in run.refresh or not is_cached(run.store, train.key(plan, "here", run))
    ]
    if missing and train_on == "here":
        isolated.preload()  # the subprocess of load_back imports TensorFlow while this process does
    at_once = missing if train_on == "pool" and seeds > 1 else []
    with submit_all(at_once, run) if at_once else nullcontext():
        return [Training(plan.recipe, train(plan, train_on, run)) for plan in plans]


def evaluate_median(trainings: Sequence[Training], prepared: Prepared, run: Run) -> Candidate:
    """Evaluate every training; the candidate is the median one by accuracy, with the spread of several."""
    evaluations = [evaluate(each.trained.model, prepared.test, run) for each in trainings]
    scores = [
        SeedScore(seed=each.recipe.seed, accuracy=evaluation.accuracy)
        for each, evaluation in zip(trainings, evaluations, strict=True)
    ]
    chosen = median(scores)
    spread = spread_of(scores, chosen) if len(scores) > 1 else None
    if spread:
        _log(spread)
    recipe, trained = trainings[chosen]
    return Candidate(prepared=prepared, recipe=recipe, trained=trained, evaluation=evaluations[chosen], spread=spread)


def _log(spread: Spread) -> None:
    for score in spread.scores:
        mark = ", the median: it is judged" if score.seed == spread.judged else ""
        LOG.info("seeds: %d has accuracy %.4f%s", score.seed, score.accuracy, mark)
    LOG.info("seeds: mean %.4f, standard deviation %.4f", spread.mean, spread.deviation)
