"""The rows of the gate, and the decision: a model passes if every row passes.

Pure, and fails closed: whatever is missing, inconsistent or not a number fails. Every check is one row with a value, a
limit and a sentence. The first row asks whether the evaluation can be believed at all; no override publishes a model
that fails it. The next rows ask how good the candidate is by itself, the last ones whether it is shown to be worse than
the champion or a pinned version. Called by `tasks.judge`; imports neither the registry nor the store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Labels, class_name
from tasks.gate.intervals import ONE_SIDED, TWO_SIDED, wilson
from tasks.gate.paired import count, loss_bounds, mcnemar
from tasks.gate.recipes import (
    RecipeComparison,
    Step,
    compare_recipes,
    deciding_loss,
    loss_step,
    next_look,
    reference_limit,
)
from tasks.settings import Gate
from tasks.values import Check, Decision, Evaluation, LoadBack, Override

# The value of a row that could not be computed: below any limit of a share or of a negated loss.
UNKNOWN = -2.0

# Standard errors below the lowest accuracy from which on further seeds are not tried: the images' alone, and those of
# a recipe's seeds are about as large.
HOPELESS = 4.0

# The rows of the loss to the champion on the images of earlier batches, and of new ones, and the error of each.
PARTS = ("loss on earlier images", "loss on new images")
PART_ALPHA = 0.05


@dataclass(frozen=True)
class CandidateResults:
    """What is judged: the evaluation, and for each test image the predicted class and the label, both (n,).

    `loaded` compares the predictions of the file to be published; `same` names the published version that has the same
    weights, "" if none has; `classes` are the names of the classes.

    `by_seed` are the predicted classes of each seed's model, (K, n), where recipes are compared; None compares models.
    `seeds_left` tells whether further seeds may be trained.

    `new` tells which images are of batches that the champion has not learned from, bool (n,); None if unknown.
    """

    evaluation: Evaluation
    predicted: Labels
    labels: Labels
    loaded: LoadBack
    same: str = ""
    classes: tuple[str, ...] = ()
    by_seed: Labels | None = None
    seeds_left: bool = False
    new: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class BaselineResults:
    """A model to compare with ("champion v3"): its predicted classes and the labels, both (n,).

    None if they are not available; `problem` then says why. `by_seed` are the predicted classes of its recipe's seeds,
    (J, n), its own among them; None counts as itself alone. `retries` counts the verdicts since the last publication,
    for a pinned reference.
    """

    name: str
    predicted: Labels | None = None
    labels: Labels | None = None
    problem: str = ""
    by_seed: Labels | None = None
    retries: int = 0


Results = TypeVar("Results", CandidateResults, BaselineResults)


def decide(
    candidate: CandidateResults,
    champion: BaselineResults | None,
    reference: BaselineResults | None,
    policy: Gate,
    override: Override | None = None,
) -> Decision:
    """Judge a candidate.

    Args:
        candidate: What was measured on the test set.
        champion: The current champion on the same test set; None before the first.
        reference: The pinned version on the same test set; None without a pin.
        policy: The limits.
        override: Who publishes, and why, a model that the rows reject. It has no effect on a model that passes, or
            whose evaluation or file cannot be believed.
    """
    evaluation = candidate.evaluation
    tested, loaded = _classes_tested(candidate), _loaded_back(candidate.loaded, evaluation.images)
    checks = (
        tested,
        _accuracy(evaluation, policy.min_accuracy, _worst_seed(candidate)),
        _lower_bound(evaluation, policy.min_accuracy_lower_bound),
        _weakest_class(evaluation, candidate.classes, policy.min_class_recall),
        loaded,
        *([_loss(candidate, champion, policy), *_part_losses(candidate, champion, policy)] if champion else []),
        *([_loss(candidate, reference, policy)] if reference else []),
    )
    passed = all(check.passed for check in checks)
    overridden = override is not None and tested.passed and loaded.passed and not passed
    accepted: Literal["publish", "no change"] = "no change" if candidate.same else "publish"
    return Decision(
        verdict=accepted if passed or overridden else "reject",
        accuracy=evaluation.correct / max(evaluation.images, 1),
        interval=_interval(evaluation, TWO_SIDED),
        checks=checks,
        remark=candidate.same or ("" if champion else "no champion yet"),
        override=override if overridden else None,
    )


def next_step(
    candidate: CandidateResults, champion: BaselineResults | None, reference: BaselineResults | None, policy: Gate
) -> tuple[Step, str]:
    """Whether the verdict is known, or takes further seeds, and why; the arguments are those of `decide`."""
    evaluation = candidate.evaluation
    if not _classes_tested(candidate).passed:
        return "reject", "the evaluation cannot be believed"
    if _interval(evaluation, HOPELESS)[1] < policy.min_accuracy:
        return "reject", f"an accuracy of {evaluation.accuracy:.4f} is far below {policy.min_accuracy:g}"
    own = (
        _accuracy(evaluation, policy.min_accuracy),
        _lower_bound(evaluation, policy.min_accuracy_lower_bound),
        _weakest_class(evaluation, candidate.classes, policy.min_class_recall),
    )
    missed = [check.name for check in own if not check.passed]
    steps = dict(_loss_steps(candidate, (champion, reference), policy))
    if champion:  # no seed is trained for a part: the loss is shown there, or it is not
        parts = _part_losses(candidate, champion, policy)
        steps |= {part.name: "publish" if part.passed else "reject" for part in parts}
    step = next_look(steps.values(), not missed, candidate.seeds_left)
    if step == "publish":
        return step, "every row passes" if steps else "every row passes, and there is no model to compare with"
    rejected = [name for name, each in steps.items() if each == "reject"]
    undecided = [name for name, each in steps.items() if each == "more"]
    return step, f"{', '.join(rejected or missed + undecided)} {'not passed' if step == 'reject' else 'not certain'}"


def _loss_steps(
    candidate: CandidateResults, baselines: tuple[BaselineResults | None, ...], policy: Gate
) -> Iterator[tuple[str, Step]]:
    """What each row of loss says; a baseline that cannot be compared rejects, as no seed changes that."""
    for baseline in baselines:
        if baseline:
            comparison, _ = _compared(candidate, baseline)
            limit = _allowed(baseline, policy)
            yield (
                f"loss to {baseline.name}",
                loss_step(comparison, limit, candidate.seeds_left) if comparison else "reject",
            )


def _check(name: str, value: float, limit: float, sentence: str) -> Check:
    if not math.isfinite(value):
        value, sentence = UNKNOWN, "the value is not a number"
    margin = value - limit
    return Check(name=name, value=value, limit=limit, margin=margin, passed=margin >= 0, sentence=sentence)


def _classes_tested(candidate: CandidateResults) -> Check:
    """The counts agree with each other and with the predictions, and every class has test images."""
    evaluation = candidate.evaluation
    confusion = evaluation.confusion
    agree = (
        _square(confusion)
        and _counts_agree(evaluation)
        and _classes_agree(evaluation)
        and _predictions_agree(candidate)
    )
    tested = sum(1 for score in evaluation.classes if score.support > 0) if agree else 0
    sentence = f"{tested} of {len(confusion)} classes have test images and the counts agree"
    return _check(
        "classes tested", tested, max(len(confusion), 2), sentence if agree else "the counts contradict each other"
    )


def _square(confusion: tuple[tuple[int, ...], ...]) -> bool:
    return all(len(row) == len(confusion) and min(row) >= 0 for row in confusion)


def _counts_agree(evaluation: Evaluation) -> bool:
    return (
        evaluation.images == sum(map(sum, evaluation.confusion)) > 0
        and evaluation.correct == sum(row[label] for label, row in enumerate(evaluation.confusion))
        and math.isclose(evaluation.accuracy, evaluation.correct / evaluation.images)
        and math.isfinite(evaluation.loss)
    )


def _predictions_agree(candidate: CandidateResults) -> bool:
    """The predictions, which the rows of champion and reference use, give the confusion matrix."""
    labels, predicted, classes = candidate.labels, candidate.predicted, len(candidate.evaluation.confusion)
    if labels.ndim != 1 or labels.shape != predicted.shape or not len(labels):
        return False
    if max(labels.max(), predicted.max()) >= classes:
        return False
    counted = np.bincount(labels.astype(np.intp) * classes + predicted, minlength=classes * classes)
    return list(counted) == [number for row in candidate.evaluation.confusion for number in row]


def _classes_agree(evaluation: Evaluation) -> bool:
    """Each class occurs once, in order, with the support and the recall of the confusion matrix."""
    if [score.label for score in evaluation.classes] != list(range(len(evaluation.confusion))):
        return False
    rows = zip(evaluation.classes, evaluation.confusion, strict=True)
    return all(
        score.support == sum(row) and math.isclose(score.recall, row[score.label] / max(sum(row), 1))
        for score, row in rows
    )


def _interval(evaluation: Evaluation, z: float) -> tuple[float, float]:
    """Wilson's interval; (0, 1), which excludes nothing, if the counts are impossible."""
    if not 0 <= evaluation.correct <= evaluation.images or not evaluation.images:
        return 0.0, 1.0
    return wilson(evaluation.correct, evaluation.images, z)


def _accuracy(evaluation: Evaluation, limit: float, worst: float = 1.0) -> Check:
    sentence = f"{evaluation.correct:,} of {evaluation.images:,} test images are right"
    if worst < limit:
        sentence += f"; the recipe's worst seed reaches {worst:.4f} only"
    return _check("accuracy", evaluation.accuracy, limit, sentence)


def _worst_seed(candidate: CandidateResults) -> float:
    """The lowest accuracy of several seeds; 1 for one."""
    if candidate.by_seed is None or len(candidate.by_seed) == 1 or not _comparable(candidate.by_seed, candidate.labels):
        return 1.0
    return float((candidate.by_seed == candidate.labels).mean(axis=1).min())


def _lower_bound(evaluation: Evaluation, limit: float) -> Check:
    bound, _ = _interval(evaluation, ONE_SIDED)
    sentence = f"at least {bound:.4f} with 95 % confidence (Wilson)"
    return _check("accuracy lower bound", bound, limit, sentence)


def _weakest_class(evaluation: Evaluation, classes: tuple[str, ...], limit: float) -> Check:
    if not evaluation.classes:
        return _check("lowest class recall", 0.0, max(limit, 1e-9), "no class was measured")
    weakest = min(evaluation.classes, key=lambda score: score.recall)
    name = class_name(classes, weakest.label)
    sentence = f"class {name} is the weakest, over {weakest.support:,} test images"
    return _check("lowest class recall", weakest.recall, limit, sentence)


def _loaded_back(loaded: LoadBack, images: int) -> Check:
    name = "loaded back"
    if loaded.failure:
        return _check(name, 0.0, 1.0, f"the file to be published: {loaded.failure}")
    if not 0 <= loaded.same <= loaded.images == images:
        return _check(name, 0.0, 1.0, f"{loaded.images:,} images were predicted, {images:,} evaluated")
    agreement = f"to within {loaded.largest_difference:.1g}" if loaded.largest_difference else "bit for bit"
    sentence = f"{loaded.same:,} of {images:,} images the same in a fresh process, {agreement}"
    return _check(name, loaded.same / max(images, 1), 1.0, sentence)


def _loss(candidate: CandidateResults, baseline: BaselineResults, policy: Gate) -> Check:
    """The candidate loses no more than it may to the baseline, on the same images.

    Recipes are compared by the means over their seeds; models by the loss that is shown.
    """
    allowed = policy.max_regression if candidate.by_seed is None else _allowed(baseline, policy)
    compared = _shown_loss if candidate.by_seed is None else _mean_loss
    return _loss_check(f"loss to {baseline.name}", allowed, *compared(candidate, baseline, allowed))


def _loss_check(name: str, allowed: float, low: float, sentence: str) -> Check:
    margin = allowed - low
    return Check(name=name, value=-low, limit=-allowed, margin=margin, passed=margin >= 0, sentence=sentence, loss=True)


def _part_losses(candidate: CandidateResults, champion: BaselineResults, policy: Gate) -> list[Check]:
    """A loss to the champion that is shown on the images of earlier batches alone, or on those of new ones.

    A model that learns the new images and forgets the others may lose nothing in the mean. Both rows reject only a loss
    that is shown with 95 % confidence, of models and of recipes, as a part has fewer images than the limit is made for:
    they reject a healthy recipe rarely, and one that loses as much as is allowed there with 5 % at each look
    (tests/operating/parts.py).

    None where all images are in one part, a part has fewer than the two images that a variance takes, or the champion
    cannot be compared, which its own row says.
    """
    new, allowed = candidate.new, policy.max_regression
    if new is None or _loss(candidate, champion, policy).value == UNKNOWN:
        return []
    if new.dtype != np.bool_ or new.shape != candidate.labels.shape:
        problem = "cannot be compared: nobody knows which images are new"
        return [_loss_check(name, allowed, -UNKNOWN, problem) for name in PARTS]
    if min(np.count_nonzero(new), np.count_nonzero(~new)) < 2:
        return []
    shown = _shown_loss if candidate.by_seed is None else _shown_mean_loss
    return [
        _loss_check(name, allowed, *shown(_part(candidate, images), _part(champion, images), allowed))
        for name, images in zip(PARTS, (~new, new), strict=True)
    ]


def _part(results: Results, images: NDArray[np.bool_]) -> Results:
    """The same on some of the images."""
    whole: dict[str, Any] = {"predicted": results.predicted, "labels": results.labels, "by_seed": results.by_seed}
    return replace(results, **{name: array[..., images] for name, array in whole.items() if array is not None})


def _shown_mean_loss(candidate: CandidateResults, baseline: BaselineResults, allowed: float) -> tuple[float, str]:
    """As `_shown_loss`, of the means over seeds."""
    comparison, problem = _compared(candidate, baseline)
    if comparison is None:
        return -UNKNOWN, problem
    low = comparison.lower(PART_ALPHA)
    return low, f"{_shown(low)} confidence, allowed {allowed:.4f}; {_means(comparison)}, {comparison.images:,} images"


def _allowed(baseline: BaselineResults, policy: Gate) -> float:
    return reference_limit(policy.max_regression, baseline.retries)


def _mean_loss(candidate: CandidateResults, baseline: BaselineResults, allowed: float) -> tuple[float, str]:
    """The loss of the mean over seeds that decides, and a sentence; -UNKNOWN without a comparison."""
    comparison, problem = _compared(candidate, baseline)
    if comparison is None:
        return -UNKNOWN, problem
    loss, what = deciding_loss(comparison, allowed, candidate.seeds_left)
    error = f"standard error {comparison.standard_error:.4f}"
    sentence = f"{_means(comparison)}, {what or error}; allowed {allowed:.4f}"
    retries = " (a third, after a verdict that published nothing)" if baseline.retries else ""
    return loss, sentence + retries


def _means(comparison: RecipeComparison) -> str:
    changed = f"{abs(comparison.loss):.4f} {'less' if comparison.loss > 0 else 'more'}"
    return f"{_seeds(comparison.candidate_seeds)} against {comparison.baseline_seeds}: {changed} in the mean"


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number > 1 else ''}"


def _compared(candidate: CandidateResults, baseline: BaselineResults) -> tuple[RecipeComparison | None, str]:
    """The recipes of both, or None and the reason."""
    problem, ours = _problem(candidate, baseline), candidate.by_seed
    if problem or baseline.predicted is None or ours is None:
        return None, problem
    theirs = baseline.predicted[None] if baseline.by_seed is None else baseline.by_seed
    if not (_comparable(ours, candidate.labels) and _comparable(theirs, candidate.labels)):
        return None, "cannot be compared: predictions of its seeds are missing"
    return compare_recipes(ours == candidate.labels, theirs == candidate.labels), ""


def _problem(candidate: CandidateResults, baseline: BaselineResults) -> str:
    """Why the two cannot be compared; "" if they can."""
    if baseline.predicted is None or baseline.labels is None:
        return f"cannot be compared: {baseline.problem or 'it has no predictions'}"
    if not np.array_equal(baseline.labels, candidate.labels):
        return "cannot be compared: its predictions are of other images"
    return ""


def _comparable(predicted: Labels, labels: Labels) -> bool:
    return predicted.ndim == 2 and predicted.shape[0] > 0 and predicted.shape[1:] == labels.shape and len(labels) > 1


def _shown_loss(candidate: CandidateResults, baseline: BaselineResults, allowed: float) -> tuple[float, str]:
    """The smallest loss that is not refuted with 95 % confidence, and a sentence; -UNKNOWN without a comparison."""
    problem = _problem(candidate, baseline)
    if problem or baseline.predicted is None:
        return -UNKNOWN, problem
    try:
        counts = count(candidate.labels, baseline.predicted, candidate.predicted)
    except ValueError as error:
        return -UNKNOWN, f"cannot be compared: {error}"
    low, _ = loss_bounds(counts, ONE_SIDED)
    only = f"{counts.only_champion:,} images right only there, {counts.only_candidate:,} only here"
    sentence = f"{_shown(low)} confidence (Tango), allowed {allowed:.4f}; {only}"
    return low, f"{sentence}, McNemar's p = {mcnemar(counts):.2g}"


def _shown(low: float) -> str:
    return f"{f'at least {low:.4f}' if low > 0 else 'no loss is shown'} with 95 %"
