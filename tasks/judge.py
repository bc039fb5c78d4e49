"""The judge step: does the candidate pass the gate?

Pure and closed: whatever is missing, inconsistent or not a number fails. Every check is one row with the value, the
limit and a sentence; the verdict is their conjunction, so the gate can be read and added to row by row.
"""

from __future__ import annotations

import logging
import math
from statistics import NormalDist

from tasks.caching.steps import Run, step
from tasks.page import show_table
from tasks.report.words import gate_rows
from tasks.settings import Gate
from tasks.values import Check, Decision, Evaluation, LoadBack

LOG = logging.getLogger("retrain.judge")

# One-sided 95 %: 5 % of equally good models that are exactly at the limit would fail by chance.
ONE_SIDED = NormalDist().inv_cdf(0.95)
TWO_SIDED = NormalDist().inv_cdf(0.975)


def wilson(correct: int, images: int, z: float) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Args:
        correct: Successes.
        images: Trials, at least 1.
        z: Normal quantile: `TWO_SIDED` for the 95 % interval, `ONE_SIDED` where only one end is used.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22:209-212.
    """
    share = correct / images
    centre = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def decide(evaluation: Evaluation, gate: Gate, loaded: LoadBack) -> Decision:
    """Judge a candidate by its evaluation.

    Args:
        evaluation: What was measured on the test set.
        gate: The limits.
        loaded: What the file to be published predicts in a fresh process.
    """
    checks = (
        _sound(evaluation),
        _accuracy(evaluation, gate.min_accuracy),
        _lower_bound(evaluation, gate.min_accuracy_lower_bound),
        _weakest_class(evaluation, gate.min_class_recall),
        _loaded_back(loaded, evaluation.images),
    )
    return Decision(
        verdict="publish" if all(check.passed for check in checks) else "reject",
        accuracy=evaluation.correct / max(evaluation.images, 1),
        interval=_interval(evaluation, TWO_SIDED),
        checks=checks,
    )


def _check(name: str, value: float, limit: float, sentence: str) -> Check:
    if not math.isfinite(value):
        value, sentence = -1.0, "the value is not a number"  # below any limit
    margin = value - limit
    return Check(name=name, value=value, limit=limit, margin=margin, passed=margin >= 0, sentence=sentence)


def _sound(evaluation: Evaluation) -> Check:
    """The counts agree with each other, and every class was tested."""
    confusion = evaluation.confusion
    agree = _square(confusion) and _counts_agree(evaluation) and _classes_agree(evaluation)
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
    )


def _classes_agree(evaluation: Evaluation) -> bool:
    """Each class is there once, in order, with the recall that the confusion matrix says: the floor reads it."""
    if [score.label for score in evaluation.classes] != list(range(len(evaluation.confusion))):
        return False
    rows = zip(evaluation.classes, evaluation.confusion, strict=True)
    return all(
        score.support == sum(row) and math.isclose(score.recall, row[score.label] / max(sum(row), 1))
        for score, row in rows
    )


def _interval(evaluation: Evaluation, z: float) -> tuple[float, float]:
    """Wilson's interval; (0, 1), which says nothing, where the counts are impossible."""
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
    apart = f"to within {loaded.largest_difference:.1g}" if loaded.largest_difference else "bit for bit"
    sentence = f"{loaded.same:,} of {images:,} images the same in a fresh process, {apart}"
    return _check(name, loaded.same / max(images, 1), 1.0, sentence)


@step(cached=False)
def judge(evaluation: Evaluation, gate: Gate, loaded: LoadBack, run: Run) -> Decision:
    """Judge the candidate and show the gate's rows on the run's page."""
    decision = decide(evaluation, gate, loaded)
    show_table("gate", gate_rows(decision), f"The gate says: {decision.verdict}")
    for check in decision.checks:
        LOG.info("judge: %s %s: %s", "pass" if check.passed else "FAIL", check.name, check.sentence)
    return decision
