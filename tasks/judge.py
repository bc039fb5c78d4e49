"""The judge step: does the candidate pass the gate?

Pure and closed: whatever is missing, inconsistent or not a number fails. Every check is one row with the value, the
limit and a sentence; the verdict is their conjunction, so the gate can be read and added to row by row. The first row
asks whether the evaluation can be believed at all, and nobody can override it; the next ones ask how good the candidate
is by itself, and the last ones whether it is shown to be worse than the champion or than a pinned version.
"""

from __future__ import annotations

import getpass
import logging
import math
import os
import platform
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from tasks.arrays import Bytes, from_npz
from tasks.caching.steps import Run, step
from tasks.page import show_table
from tasks.paired import count, loss_bounds, mcnemar
from tasks.report.words import gate_rows, verdict_line
from tasks.settings import Gate
from tasks.values import Artifact, Check, Decision, Evaluation, LoadBack, Override, Rival, Rivals

LOG = logging.getLogger("retrain.judge")

# One-sided 95 %: 5 % of equally good models that are exactly at the limit would fail by chance.
ONE_SIDED = NormalDist().inv_cdf(0.95)
TWO_SIDED = NormalDist().inv_cdf(0.975)

# The value of a row that has none: below any limit, of a share and of a negated loss.
UNKNOWN = -2.0


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


@dataclass(frozen=True)
class Candidate:
    """What is judged: the evaluation, and for each test image the predicted class and the label, both uint8 (n,).

    `loaded` is what the file to be published predicts; `same` says which published version has the same weights, ""
    where none has.
    """

    evaluation: Evaluation
    predicted: Bytes
    labels: Bytes
    loaded: LoadBack
    same: str = ""


@dataclass(frozen=True)
class Opponent:
    """What the candidate is compared with ("champion v3"): its predicted classes and the labels, both uint8 (n,).

    None where they could not be had, and `problem` says why.
    """

    name: str
    predicted: Bytes | None = None
    labels: Bytes | None = None
    problem: str = ""


def decide(
    candidate: Candidate,
    champion: Opponent | None,
    reference: Opponent | None,
    policy: Gate,
    override: Override | None = None,
) -> Decision:
    """Judge a candidate.

    Args:
        candidate: What was measured on the test set.
        champion: The current champion on the same test set; None before the first.
        reference: The pinned version, if there is one.
        policy: The limits.
        override: Publish a model that these reject, unless its evaluation or its file cannot be believed.
    """
    evaluation = candidate.evaluation
    sound, loaded = _sound(candidate), _loaded_back(candidate.loaded, evaluation.images)
    checks = (
        sound,
        _accuracy(evaluation, policy.min_accuracy),
        _lower_bound(evaluation, policy.min_accuracy_lower_bound),
        _weakest_class(evaluation, policy.min_class_recall),
        loaded,
        *(_loss(candidate, rival, policy.max_regression) for rival in (champion, reference) if rival),
    )
    passed = all(check.passed for check in checks)
    overridden = override is not None and sound.passed and loaded.passed and not passed
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


def _sound(candidate: Candidate) -> Check:
    """The counts agree with each other and with the predictions, and every class was tested."""
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


def _predictions_agree(candidate: Candidate) -> bool:
    """The predictions, which the rows of champion and reference read, are those that were counted."""
    labels, predicted, classes = candidate.labels, candidate.predicted, len(candidate.evaluation.confusion)
    if labels.ndim != 1 or labels.shape != predicted.shape or not len(labels):
        return False
    if max(labels.max(), predicted.max()) >= classes:
        return False
    counted = np.bincount(labels.astype(np.intp) * classes + predicted, minlength=classes * classes)
    return list(counted) == [number for row in candidate.evaluation.confusion for number in row]


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


def _loss(candidate: Candidate, rival: Opponent, allowed: float) -> Check:
    """The candidate is not shown to lose more than is allowed to another model, on the same images."""
    low, sentence = _shown_loss(candidate, rival, allowed)
    margin = allowed - low
    return Check(
        name=f"loss to {rival.name}",
        value=-low,
        limit=-allowed,
        margin=margin,
        passed=margin >= 0,
        sentence=sentence,
        loss=True,
    )


def _shown_loss(candidate: Candidate, rival: Opponent, allowed: float) -> tuple[float, str]:
    """The least loss that is not refuted with 95 % confidence, and a sentence; the negated UNKNOWN without any."""
    if rival.predicted is None or rival.labels is None:
        return -UNKNOWN, f"cannot be compared: {rival.problem or 'it has no predictions'}"
    if not np.array_equal(rival.labels, candidate.labels):
        return -UNKNOWN, "cannot be compared: its predictions are of other images"
    try:
        counts = count(candidate.labels, rival.predicted, candidate.predicted)
    except ValueError as error:
        return -UNKNOWN, f"cannot be compared: {error}"
    low, _ = loss_bounds(counts, ONE_SIDED)
    shown = f"at least {low:.4f}" if low > 0 else "no loss is shown"
    only = f"{counts.only_champion:,} images right only there, {counts.only_candidate:,} only here"
    sentence = f"{shown} with 95 % confidence (Tango), allowed {allowed:.4f}; {only}"
    return low, f"{sentence}, McNemar's p = {mcnemar(counts):.2g}"


@step(cached=False)
def judge(
    evaluation: Evaluation, loaded: LoadBack, rivals: Rivals, gate: Gate, force_publish: str, run: Run
) -> Decision:
    """Judge the candidate and show the gate's rows on the run's page."""
    predicted, labels = _predictions(evaluation.predictions, run)
    candidate = Candidate(evaluation, predicted, labels, loaded, rivals.remark)
    champion, reference = _opponent(rivals.champion, run), _opponent(rivals.reference, run)
    override = Override(reason=force_publish, by=_who()) if force_publish else None
    decision = decide(candidate, champion, reference, gate, override)
    show_table("gate", gate_rows(decision), verdict_line(decision))
    for check in decision.checks:
        LOG.info("judge: %s %s: %s", "pass" if check.passed else "FAIL", check.name, check.sentence)
    LOG.info("judge: %s", verdict_line(decision))
    return decision


def _opponent(rival: Rival | None, run: Run) -> Opponent | None:
    if rival is None:
        return None
    if rival.predictions is None:
        return Opponent(rival.name, problem=rival.problem)
    return Opponent(rival.name, *_predictions(rival.predictions, run))


def _predictions(kept: Artifact, run: Run) -> tuple[Bytes, Bytes]:
    """The predicted classes and the labels, both uint8 (n,)."""
    probabilities, labels = from_npz(run.artifacts.get(kept))
    return probabilities.argmax(axis=1).astype(np.uint8), labels


def _who() -> str:
    """The user and the machine that this runs as: whoever gave the command, or the worker that took it from a form."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"user {os.getuid()}"
    return f"{user} on {platform.node()}"
