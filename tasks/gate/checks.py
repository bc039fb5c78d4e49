"""The rows of the gate, and the decision: a model passes if every row passes.

Pure, and fails closed: whatever is missing, inconsistent or not a number fails. Every check is one row with a value, a
limit and a sentence. The first row asks whether the evaluation can be believed at all; no override publishes a model
that fails it. The next rows ask how good the candidate is by itself, the last ones whether it is shown to be worse than
the champion or a pinned version. Called by `tasks.judge`; imports neither the registry nor the store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.data.arrays import Bytes
from tasks.gate.intervals import ONE_SIDED, TWO_SIDED, wilson
from tasks.gate.paired import count, loss_bounds, mcnemar
from tasks.settings import Gate
from tasks.values import Check, Decision, Evaluation, LoadBack, Override

# The value of a row that could not be computed: below any limit of a share or of a negated loss.
UNKNOWN = -2.0


@dataclass(frozen=True)
class CandidateResults:
    """What is judged: the evaluation, and for each test image the predicted class and the label, both uint8 (n,).

    `loaded` compares the predictions of the file to be published; `same` names the published version that has the same
    weights, "" if none has.
    """

    evaluation: Evaluation
    predicted: Bytes
    labels: Bytes
    loaded: LoadBack
    same: str = ""


@dataclass(frozen=True)
class BaselineResults:
    """A model to compare with ("champion v3"): its predicted classes and the labels, both uint8 (n,).

    None if they are not available; `problem` then says why.
    """

    name: str
    predicted: Bytes | None = None
    labels: Bytes | None = None
    problem: str = ""


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
        _accuracy(evaluation, policy.min_accuracy),
        _lower_bound(evaluation, policy.min_accuracy_lower_bound),
        _weakest_class(evaluation, policy.min_class_recall),
        loaded,
        *(_loss(candidate, baseline, policy.max_regression) for baseline in (champion, reference) if baseline),
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


def _accuracy(evaluation: Evaluation, limit: float) -> Check:
    sentence = f"{evaluation.correct:,} of {evaluation.images:,} test images are right"
    return _check("accuracy", evaluation.accuracy, limit, sentence)


def _lower_bound(evaluation: Evaluation, limit: float) -> Check:
    bound, _ = _interval(evaluation, ONE_SIDED)
    sentence = f"at least {bound:.4f} with 95 % confidence (Wilson)"
    return _check("accuracy lower bound", bound, limit, sentence)


def _weakest_class(evaluation: Evaluation, limit: float) -> Check:
    if not evaluation.classes:
        return _check("lowest class recall", 0.0, max(limit, 1e-9), "no class was measured")
    weakest = min(evaluation.classes, key=lambda score: score.recall)
    sentence = f"class {weakest.label} is the weakest, over {weakest.support:,} test images"
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


def _loss(candidate: CandidateResults, baseline: BaselineResults, allowed: float) -> Check:
    """The data do not show that the candidate loses more than `allowed` to the baseline, on the same images."""
    low, sentence = _shown_loss(candidate, baseline, allowed)
    margin = allowed - low
    return Check(
        name=f"loss to {baseline.name}",
        value=-low,
        limit=-allowed,
        margin=margin,
        passed=margin >= 0,
        sentence=sentence,
        loss=True,
    )


def _shown_loss(candidate: CandidateResults, baseline: BaselineResults, allowed: float) -> tuple[float, str]:
    """The smallest loss that is not refuted with 95 % confidence, and a sentence; -UNKNOWN without a comparison."""
    if baseline.predicted is None or baseline.labels is None:
        return -UNKNOWN, f"cannot be compared: {baseline.problem or 'it has no predictions'}"
    if not np.array_equal(baseline.labels, candidate.labels):
        return -UNKNOWN, "cannot be compared: its predictions are of other images"
    try:
        counts = count(candidate.labels, baseline.predicted, candidate.predicted)
    except ValueError as error:
        return -UNKNOWN, f"cannot be compared: {error}"
    low, _ = loss_bounds(counts, ONE_SIDED)
    shown = f"at least {low:.4f}" if low > 0 else "no loss is shown"
    only = f"{counts.only_champion:,} images right only there, {counts.only_candidate:,} only here"
    sentence = f"{shown} with 95 % confidence (Tango), allowed {allowed:.4f}; {only}"
    return low, f"{sentence}, McNemar's p = {mcnemar(counts):.2g}"
