"""Gathers the evidence for a verdict: trains as many seeds as it needs, and selects the median model for the gate.

Each seed is a cached training of its own, so a run with more seeds reuses those that exist. The seeds of a baseline
are trained when they are first needed. Called by the flows `retrain`, `calibrate` and `pin`.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import NamedTuple

from tasks.caching.inventory import is_cached
from tasks.caching.steps import Run
from tasks.data.arrays import Labels, answers, answers_from_npz
from tasks.errors import ArtifactError, NetworkError, TrainingError
from tasks.evaluate import evaluate
from tasks.gate.baselines import Baseline, Baselines
from tasks.gate.candidate import Candidate
from tasks.gate.evidence import median, spread_of
from tasks.gate.recipes import LOOKS, stages
from tasks.judge import find_baselines, step_of
from tasks.learning import isolated
from tasks.learning.network import code
from tasks.learning.plan import TrainingPlan
from tasks.learning.work_pool import submit_all
from tasks.registry import Registry
from tasks.registry.answers import SeedAnswers
from tasks.settings import ONE_SEED, Gate, Recipe, TrainOn
from tasks.train import train
from tasks.values import DeviceKind, Evaluation, Examples, Prepared, SeedScore, Spread, Stage, Trained

LOG = logging.getLogger("retrain.seeds")


class Result(NamedTuple):
    """A recipe with its own seed, the trained model, what was measured on it, and the seconds of its training."""

    recipe: Recipe
    trained: Trained
    evaluation: Evaluation
    seconds: float


def training_plan(prepared: Prepared, recipe: Recipe, device: DeviceKind) -> TrainingPlan:
    """The training of the recipe's own seed. Raises NetworkError where its own network cannot be used."""
    return TrainingPlan(
        examples=prepared.train,
        validation=prepared.validation,
        shape=prepared.shape,
        recipe=recipe,
        code=code(recipe.network),
        device=device,
    )


class Seeds:
    """The seeds of one recipe: the plan's and those after it, each trained and evaluated once in a run.

    Args:
        plan: The training of the first one.
        test: The test set.
        train_on: Which machine trains.
        run: The run, with its store.
    """

    def __init__(self, plan: TrainingPlan, test: Examples, train_on: TrainOn, run: Run) -> None:
        self.plan, self.test, self.train_on, self.run = plan, test, train_on, run
        self.results: list[Result] = []

    def at_least(self, number: int) -> list[Result]:
        """The results of this many seeds or more: trained one by one on this machine, all at once on a work pool.

        Raises:
            TrainingError, DispatchError: A training failed; the others on the work pool are cancelled.
        """
        run, train_on = self.run, self.train_on
        plans = [_with_seed(self.plan, self.plan.recipe.seed + more) for more in range(len(self.results), number)]
        missing = [
            plan for plan in plans if "train" in run.refresh or not is_cached(run.store, train.key(plan, "here", run))
        ]
        if missing and train_on == "here":
            isolated.preload()  # the subprocess of load_back imports TensorFlow while this process does
        at_once = missing if train_on == "pool" and number > 1 else []
        with submit_all(at_once, run) if at_once else nullcontext():
            trained = [train(plan, train_on, run) for plan in plans]
        for plan, each in zip(plans, trained, strict=True):
            seconds = run.computed[train.key(plan, train_on, run)]
            self.results.append(Result(plan.recipe, each, evaluate(each.model, self.test, run), seconds))
        return self.results

    def predicted(self) -> tuple[Labels, Labels]:
        """The predicted classes of each seed's model, (seeds, n), and the labels (n,)."""
        return answers(self.run.artifacts.get(each.evaluation.predictions) for each in self.results)


def _with_seed(plan: TrainingPlan, seed: int) -> TrainingPlan:
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"seed": seed % 2**32})})


def gather_evidence(
    model: str, prepared: Prepared, seeds: Seeds, setting: str, limits: Gate, versions: Registry
) -> tuple[Candidate, Baselines, tuple[Stage, ...]]:
    """Train seeds until the verdict is known. The median one's model is the candidate; the stages say what it took.

    Args:
        model: The model's name.
        prepared: The data.
        seeds: The recipe's seeds; trained as far as they are needed.
        setting: How many the verdict may take.
        limits: The gate's.
        versions: The published ones.

    Raises:
        TrainingError, DispatchError: A training failed.
        RegistryError: The pointer to the champion is damaged, or there is no champion where one is required.
    """
    numbers, past = stages(setting), tuple[Stage, ...]()
    for number in numbers:
        left, results = number < numbers[-1], seeds.at_least(number)[:number]
        candidate = _candidate(model, prepared, seeds.plan, results)
        baselines = find_baselines(candidate, versions, seeds.run)
        if setting == ONE_SEED:  # two models are compared, and not two recipes
            return candidate.model_copy(update={"by_seed": ()}), baselines, ()
        if baselines.same_weights:
            step, why = "publish", baselines.remark
        elif number < baselines.repeats in numbers:
            step, why = "more", "a version that began with the same training took more"
        else:
            step, why = step_of(candidate, baselines, limits, left, seeds.run)
            if number == numbers[0] and (step == "more" or not left) and _complete(baselines, seeds):
                baselines = find_baselines(candidate, versions, seeds.run)
                step, why = step_of(candidate, baselines, limits, left, seeds.run)
        known = past[-1].seeds if past else 0
        seconds = round(sum(each.seconds for each in results[known:]), 3)
        past += (Stage(seeds=number, seconds=seconds, step=step, why=why, seeds_left=left),)
        LOG.info("seeds: after %d: %s, %s", number, "more are trained" if step == "more" else "enough", why)
        if step != "more":
            break
    return candidate, baselines, past


def _candidate(model: str, prepared: Prepared, plan: TrainingPlan, results: list[Result]) -> Candidate:
    """The median model by accuracy, with the spread of several seeds."""
    scores = [
        SeedScore(seed=each.recipe.seed, accuracy=each.evaluation.accuracy, weights=each.trained.weights_digest)
        for each in results
    ]
    chosen = median(scores)
    spread = spread_of(scores, chosen) if len(scores) > 1 else None
    if spread:
        _log(spread)
    return Candidate(
        model=model,
        prepared=prepared,
        recipe=results[chosen].recipe,
        trained=results[chosen].trained,
        evaluation=results[chosen].evaluation,
        spread=spread,
        plan=plan,
        by_seed=tuple(each.evaluation.predictions for each in results),
    )


def _complete(baselines: Baselines, seeds: Seeds) -> bool:
    """Train the further seeds of the baselines; whether one has more now."""
    device = seeds.plan.device
    known = [each for each in (baselines.champion, baselines.reference) if each]
    completed = [complete(each, LOOKS[-1], seeds.test, device, seeds.train_on, seeds.run) for each in known]
    return any(completed)


def complete(baseline: Baseline, number: int, test: Examples, device: DeviceKind, train_on: TrainOn, run: Run) -> bool:
    """Train the seeds of a version's recipe that are missing, and keep what they answer; whether there are more now.

    Only if the version can still be made from its data, code and recipe: its own training is in the cache. Otherwise
    it counts with the seeds that are known, in an interval that is wider.

    Args:
        baseline: The version, with its predictions on the test set.
        number: How many seeds it needs.
        test: The test set.
        device: The kind of device that trains now: another one gives other weights.
        train_on: Which machine trains.
        run: The run, with its store.
    """
    plan, published, known = baseline.plan, baseline.predictions, known_seeds(baseline, run)
    if published is None or known >= number:
        return False
    own = train.kept(plan.own, train_on, run) if plan and plan.first.device == device else None
    if plan is None or own is None or own.weights_digest != baseline.facts.get("weights_digest"):
        LOG.info("seeds: %s counts as %d, as its data, code or recipe are not what they were", baseline.name, known)
        return False
    LOG.info("seeds: %s is compared by %d, which are trained if they are missing", baseline.name, number)
    theirs, before, steps = Seeds(plan.first, test, train_on, run), set(run.computed), len(run.steps)
    try:
        theirs.at_least(number)
    except (ArtifactError, NetworkError, TrainingError) as error:
        LOG.warning("seeds: %s counts as %d: %s", baseline.name, known, error)
        return False
    finally:
        for key in run.computed.keys() - before:  # the report has the seconds of the candidate
            del run.computed[key]
        for place, each in enumerate(run.steps[steps:], steps):
            run.steps[place] = each.model_copy(update={"reason": f"for {baseline.name}: {each.reason}"})
    predicted, labels = theirs.predicted()
    if (predicted == answers([run.artifacts.get(published)])[0]).all(axis=1).any():
        SeedAnswers(run.store, test.images.sha256, test.labels.sha256).keep(baseline.identity, predicted, labels)
        return True
    LOG.warning("seeds: %s counts as %d: its model is none of those of its recipe", baseline.name, known)
    return False


def known_seeds(baseline: Baseline, run: Run) -> int:
    """How many seeds of a version have answers to the test set; 1 where only its own model has."""
    return len(answers_from_npz(run.artifacts.get(baseline.by_seed))[0]) if baseline.by_seed else 1


def _log(spread: Spread) -> None:
    for score in spread.scores:
        mark = ", the median: it is judged" if score.seed == spread.judged else ""
        LOG.info("seeds: %d has accuracy %.4f%s", score.seed, score.accuracy, mark)
    LOG.info("seeds: mean %.4f, standard deviation %.4f", spread.mean, spread.deviation)
