from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tasks.data.arrays import Bytes
from tasks.gate.checks import BaselineResults, CandidateResults, decide
from tasks.gate.intervals import ONE_SIDED, TWO_SIDED, wilson
from tasks.gate.paired import Counts, loss_bounds
from tasks.report.formatting import gate_rows, headline, verdict_line
from tasks.settings import Gate
from tasks.values import Artifact, ClassScore, Decision, Evaluation, LoadBack, Override

CLASSES = 10

Confusion = tuple[tuple[int, ...], ...]


def evaluation(counts: Confusion, /, **changed: object) -> Evaluation:
    images, correct = sum(map(sum, counts)), sum(row[label] for label, row in enumerate(counts))
    scores = tuple(
        ClassScore(label=label, precision=1.0, recall=row[label] / max(sum(row), 1), support=sum(row))
        for label, row in enumerate(counts)
    )
    result = Evaluation(
        predictions=Artifact(sha256="0" * 64, size=1, media_type="application/x-npz"),
        images=images,
        correct=correct,
        accuracy=correct / max(images, 1),
        loss=0.1,
        classes=scores,
        confusion=counts,
    )
    # Not validated: the gate must stand what validation would refuse.
    return result.model_copy(update=changed)


def diagonal(right: int = 980, wrong: int = 20) -> Confusion:
    rows = [[0] * CLASSES for _ in range(CLASSES)]
    for label, row in enumerate(rows):
        row[label], row[(label + 1) % CLASSES] = right, wrong
    return tuple(map(tuple, rows))


def candidate(result: Evaluation) -> CandidateResults:
    """An evaluation with the predictions that its confusion matrix counts."""
    counts = [(truth, guess, max(n, 0)) for truth, row in enumerate(result.confusion) for guess, n in enumerate(row)]
    labels, predicted = (
        np.repeat([cell[place] for cell in counts], [n for *_, n in counts]).astype(np.uint8) for place in (0, 1)
    )
    return CandidateResults(result, predicted, labels, LoadBack(images=result.images, same=result.images))


def judged(result: Evaluation, gate: Gate, **loaded: object) -> Decision:
    """The decision without a champion; `loaded` changes what the load-back of the file result."""
    results = candidate(result)
    return decide(replace(results, loaded=results.loaded.model_copy(update=loaded)), None, None, gate)


def failed(decision: Decision) -> set[str]:
    return {check.name for check in decision.checks if not check.passed}


@given(st.integers(1, 20_000), st.floats(0, 1))
def test_wilson_is_the_interval_that_scipy_computes(images: int, share: float) -> None:
    correct = round(share * images)
    expected = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert wilson(correct, images, TWO_SIDED) == pytest.approx((expected.low, expected.high), abs=1e-12)
    one_sided = binomtest(correct, images, alternative="greater").proportion_ci(0.95, method="wilson")
    assert wilson(correct, images, ONE_SIDED)[0] == pytest.approx(one_sided.low, abs=1e-12)


def test_a_good_model_passes_and_every_row_says_why() -> None:
    decision = judged(evaluation(diagonal()), Gate())
    assert decision.verdict == "publish"
    assert decision.accuracy == 0.98
    assert decision.interval == pytest.approx((0.97706, 0.98257), abs=1e-5)
    assert [check.name for check in decision.checks] == [
        "classes tested",
        "accuracy",
        "accuracy lower bound",
        "lowest class recall",
        "loaded back",
    ]
    assert "9,800 of 10,000" in decision.checks[1].sentence


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (Gate(min_accuracy=0.9801), "accuracy"),
        (Gate(min_accuracy_lower_bound=0.9777), "accuracy lower bound"),
        (Gate(min_class_recall=0.981), "lowest class recall"),
    ],
)
def test_each_limit_rejects_by_itself(gate: Gate, name: str) -> None:
    decision = judged(evaluation(diagonal()), gate)
    assert decision.verdict == "reject"
    assert failed(decision) == {name}


def test_a_limit_that_is_just_reached_passes() -> None:
    assert failed(judged(evaluation(diagonal()), Gate(min_accuracy=0.98, min_class_recall=0.98))) == set()


def test_the_weakest_class_is_named() -> None:
    rows = [list(row) for row in diagonal()]
    rows[3][3], rows[3][4] = 915, 85
    decision = judged(evaluation(tuple(map(tuple, rows))), Gate(min_class_recall=0.92))
    assert failed(decision) == {"lowest class recall"}
    assert "class 3" in decision.checks[3].sentence


NAN = math.nan


@pytest.mark.parametrize(
    "broken",
    [
        evaluation(diagonal(), accuracy=NAN),
        evaluation(diagonal(), accuracy=0.99),
        evaluation(diagonal(), correct=9900),
        evaluation(diagonal(), images=9999),
        evaluation(diagonal(), classes=()),
        evaluation(diagonal(), classes=evaluation(diagonal()).classes[:9]),
        evaluation(diagonal(), confusion=()),
        evaluation(diagonal(), confusion=tuple(row[:3] for row in diagonal())),
        evaluation(((980, -5, 25), (0, 1000, 0), (0, 0, 1000))),
        evaluation(diagonal(), correct=10_001, accuracy=1.0001),
        evaluation(diagonal(), classes=evaluation(diagonal(1000, 0)).classes),
        evaluation(
            diagonal(), classes=tuple(s.model_copy(update={"support": 1}) for s in evaluation(diagonal()).classes)
        ),
        evaluation(diagonal(), classes=evaluation(diagonal()).classes[:9] + evaluation(diagonal()).classes[:1]),
        evaluation(()),
        evaluation(((0, 0), (0, 0))),
        evaluation(tuple((0,) * 10 if label == 4 else row for label, row in enumerate(diagonal()))),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_rejected(broken: Evaluation) -> None:
    nothing_asked = Gate(min_accuracy=0, min_accuracy_lower_bound=0, min_class_recall=0)
    assert judged(broken, nothing_asked).verdict == "reject"


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (
            {"same": 9_999, "largest_difference": 0.5},
            "9,999 of 10,000 images the same in a fresh process, to within 0.5",
        ),
        ({"failure": "the process was killed by SIGKILL"}, "the file to be published: the process was killed by"),
        ({"images": 9_999, "same": 9_999}, "9,999 images were predicted, 10,000 evaluated"),
        ({"same": 10_001}, "10,000 images were predicted"),
        ({"same": -1}, "10,000 images were predicted"),
        ({"images": 0, "same": 0}, "0 images were predicted"),
    ],
)
def test_a_file_that_was_not_loaded_back_the_same_is_rejected(loaded: dict[str, object], why: str) -> None:
    decision = judged(evaluation(diagonal()), Gate(), **loaded)
    assert failed(decision) == {"loaded back"}
    assert why in decision.checks[-1].sentence


matrices = st.lists(st.lists(st.integers(0, 400), min_size=4, max_size=4), min_size=4, max_size=4)
gates = st.builds(Gate, *[st.floats(0, 1)] * 0, min_accuracy=st.floats(0, 1), min_class_recall=st.floats(0, 1))


@given(matrices, gates, st.integers(0, 3), st.integers(0, 3), st.data())
def test_more_correct_answers_never_turn_a_pass_into_a_failure(
    rows: list[list[int]], gate: Gate, truth: int, guess: int, data: st.DataObject
) -> None:
    assume(truth != guess)
    before = judged(evaluation(tuple(map(tuple, rows))), gate)
    mended = data.draw(st.integers(0, rows[truth][guess]))
    rows[truth][guess] -= mended
    rows[truth][truth] += mended
    after = judged(evaluation(tuple(map(tuple, rows))), gate)
    assert failed(after) <= failed(before)


@given(matrices, gates, st.permutations(range(4)))
def test_the_order_of_the_classes_changes_nothing(rows: list[list[int]], gate: Gate, order: list[int]) -> None:
    renamed = tuple(tuple(rows[truth][guess] for guess in order) for truth in order)
    first, second = judged(evaluation(tuple(map(tuple, rows))), gate), judged(evaluation(renamed), gate)
    assert first.verdict == second.verdict
    assert [check.value for check in first.checks] == [check.value for check in second.checks]


@given(matrices, gates)
def test_a_row_passes_exactly_when_its_margin_is_not_negative(rows: list[list[int]], gate: Gate) -> None:
    decision = judged(evaluation(tuple(map(tuple, rows))), gate)
    for check in decision.checks:
        assert check.passed == (check.value >= check.limit) == (check.margin >= 0)
    assert (decision.verdict == "publish") == all(check.passed for check in decision.checks)


LABELS = (np.arange(10_000) % 10).astype(np.uint8)
NOTHING_ASKED = Gate(min_accuracy=0, min_accuracy_lower_bound=0, min_class_recall=0, max_regression=1)
OVERRIDE = Override(reason="the audit wants it", by="ada on desk")


def answers(wrong: Iterable[int], labels: Bytes = LABELS) -> Bytes:
    """Predicted classes that are right except on these images."""
    predicted = labels.copy()
    places = list(wrong)
    predicted[places] = (labels[places] + 1) % (int(labels.max()) + 1)
    return predicted


def measured(predicted: Bytes, labels: Bytes = LABELS, same: str = "") -> CandidateResults:
    """These predictions, as `evaluate` and load_back report them."""
    classes = int(labels.max()) + 1
    counted = np.bincount(labels.astype(int) * classes + predicted, minlength=classes**2).reshape(classes, classes)
    result = evaluation(tuple(map(tuple, counted.tolist())))
    return CandidateResults(result, predicted, labels, LoadBack(images=result.images, same=result.images), same)


def baseline(name: str, wrong: Iterable[int]) -> BaselineResults:
    return BaselineResults(name, answers(wrong), LABELS)


def test_before_the_first_champion_the_rest_decides() -> None:
    decision = decide(measured(answers(range(100))), None, None, Gate())
    assert (decision.verdict, decision.remark, len(decision.checks)) == ("publish", "no champion yet", 5)


def test_a_loss_to_the_champion_that_is_shown_rejects_and_reads_as_a_loss() -> None:
    champion = baseline("champion v3", range(100))
    decision = decide(measured(answers(range(150))), champion, None, Gate())
    assert (decision.verdict, failed(decision), decision.remark) == ("reject", {"loss to champion v3"}, "")
    row = decision.checks[-1]
    low, _ = loss_bounds(Counts(50, 0, 10_000), ONE_SIDED)
    assert (row.value, row.limit, row.loss) == (-low, -0.002, True)
    assert row.sentence == (
        "at least 0.0040 with 95 % confidence (Tango), allowed 0.0020; "
        "50 images right only there, 0 only here, McNemar's p = 1.8e-15"
    )
    shown = gate_rows(decision)[-1]
    assert (shown["value"], shown["needs"], shown["margin"], shown["result"]) == (
        "0.0040",
        "≤ 0.0020",
        "−0.0020",
        "FAIL",
    )
    assert headline(decision) == "Loss to champion v3 is at least 0.0040, allowed 0.0020."


def test_a_closest_call_of_no_shown_loss_is_told_as_such() -> None:
    decision = decide(measured(answers(range(150))), baseline("champion v3", range(145, 295)), None, Gate())
    assert headline(decision) == (
        "Every check holds. The closest call: no loss to champion v3 is shown, and up to 0.0020 is allowed."
    )


def test_a_loss_that_is_not_shown_passes() -> None:
    # 30 images worse on 170 that differ: 0.003 measured, and nobody can tell it from 0.002.
    decision = decide(measured(answers(range(70, 170))), baseline("champion v3", range(70)), None, Gate())
    assert decision.verdict == "publish"
    better = decide(measured(answers(range(70))), baseline("champion v3", range(100)), None, Gate())
    assert better.verdict == "publish"
    assert gate_rows(better)[-1]["value"].startswith("−0.00")
    assert "no loss is shown" in better.checks[-1].sentence


def test_the_reference_is_compared_with_by_itself() -> None:
    candidate_, champion = measured(answers(range(150))), baseline("champion v9", range(150))
    decision = decide(candidate_, champion, baseline("reference v2", range(100)), Gate())
    assert failed(decision) == {"loss to reference v2"}
    assert failed(decide(candidate_, champion, baseline("reference v2", range(150)), Gate())) == set()


def test_how_much_may_be_lost_is_a_setting() -> None:
    candidate_, champion = measured(answers(range(150))), baseline("champion v3", range(100))
    low, _ = loss_bounds(Counts(50, 0, 10_000), ONE_SIDED)
    assert failed(decide(candidate_, champion, None, Gate(max_regression=low))) == set()
    assert failed(decide(candidate_, champion, None, Gate(max_regression=np.nextafter(low, 0)))) != set()


@pytest.mark.parametrize(
    "broken",
    [
        BaselineResults("champion v3", problem="the file was altered"),
        BaselineResults("champion v3", answers([]), None),
        BaselineResults("champion v3", None, LABELS),
        BaselineResults("champion v3", answers([])[:-1], LABELS[:-1]),
        BaselineResults("champion v3", answers([])[:-1], LABELS),
        BaselineResults("champion v3", answers([]), LABELS[::-1].copy()),
        BaselineResults("champion v3", answers([]).reshape(100, 100), LABELS),
        BaselineResults("champion v3", answers([])[:0], LABELS[:0]),
    ],
)
def test_a_baseline_that_cannot_be_compared_with_rejects_whatever_is_allowed(broken: BaselineResults) -> None:
    for champion, reference in ((broken, None), (baseline("champion v4", []), broken)):
        decision = decide(measured(answers([])), champion, reference, NOTHING_ASKED)
        assert (decision.verdict, failed(decision)) == ("reject", {"loss to champion v3"})
        assert "cannot be compared: " in decision.checks[-1].sentence
        assert gate_rows(decision)[-1]["value"] == "unknown"
        assert headline(decision).startswith("Loss to champion v3 is unknown, as it cannot be compared: ")


@pytest.mark.parametrize(
    "changed",
    [
        {"predicted": answers([5])},
        {"predicted": answers([])[:-1]},
        {"predicted": answers([])[:0], "labels": LABELS[:0]},
        {"labels": LABELS[::-1].copy()},
        {"predicted": answers([]) + np.uint8(20)},
        {"evaluation": evaluation(diagonal(1000, 0), loss=NAN)},
    ],
)
def test_predictions_that_are_not_those_that_were_counted_are_rejected(changed: dict[str, Any]) -> None:
    assert decide(measured(answers([])), None, None, NOTHING_ASKED).verdict == "publish"
    broken = replace(measured(answers([])), **changed)
    for override in (None, OVERRIDE):
        decision = decide(broken, None, None, NOTHING_ASKED, override)
        assert (decision.verdict, decision.override) == ("reject", None)
        assert "classes tested" in failed(decision)


def test_weights_that_are_published_already_are_no_change() -> None:
    same = measured(answers(range(100)), same="version 3 has these weights already")
    decision = decide(same, baseline("champion v3", range(100)), None, Gate())
    assert (decision.verdict, decision.remark) == ("no change", "version 3 has these weights already")
    assert verdict_line(decision) == "No change: version 3 has these weights already"
    rejected = decide(same, baseline("champion v3", range(100)), None, Gate(min_accuracy=0.995))
    assert rejected.verdict == "reject"


def test_an_override_publishes_what_the_gate_rejects_and_says_so() -> None:
    candidate_, champion = measured(answers(range(150))), baseline("champion v3", range(100))
    decision = decide(candidate_, champion, None, Gate(), OVERRIDE)
    assert (decision.verdict, decision.override, failed(decision)) == ("publish", OVERRIDE, {"loss to champion v3"})
    assert verdict_line(decision) == (
        "Rejected by the gate: loss to champion v3. Published all the same by ada on desk: the audit wants it"
    )
    unreadable = BaselineResults("champion v3", problem="the file was altered")
    assert decide(candidate_, unreadable, None, Gate(), OVERRIDE).verdict == "publish"
    needless = decide(candidate_, None, None, Gate(), OVERRIDE)
    assert (needless.verdict, needless.override) == ("publish", None)


@pytest.mark.parametrize("broken", [evaluation(diagonal(), accuracy=NAN), evaluation(diagonal(), correct=9900)])
def test_no_override_publishes_what_contradicts_itself(broken: Evaluation) -> None:
    assert decide(candidate(broken), None, None, Gate(), OVERRIDE).verdict == "reject"


FEW = np.arange(60, dtype=np.uint8) % 4
guesses = st.lists(st.integers(0, 3), min_size=60, max_size=60).map(lambda drawn: np.array(drawn, np.uint8))
policies = st.builds(
    Gate,
    min_accuracy=st.floats(0, 1),
    min_accuracy_lower_bound=st.floats(0, 1),
    min_class_recall=st.floats(0, 1),
    max_regression=st.floats(0, 1),
)


@settings(deadline=None)  # a busy machine is no reason to fail
@given(guesses, guesses, guesses, policies, st.lists(st.integers(0, 59)))
def test_more_correct_predictions_never_turn_a_pass_into_a_failure(
    predicted: Bytes, champions: Bytes, references: Bytes, policy: Gate, mended: list[int]
) -> None:
    champion, reference = (
        BaselineResults("champion v1", champions, FEW),
        BaselineResults("reference v1", references, FEW),
    )
    before = decide(measured(predicted, FEW), champion, reference, policy)
    predicted = predicted.copy()
    predicted[mended] = FEW[mended]
    after = decide(measured(predicted, FEW), champion, reference, policy)
    assert failed(after) <= failed(before)
    assert after.checks[-2].value >= before.checks[-2].value


@settings(deadline=None)
@given(guesses, guesses, guesses, policies, st.permutations(range(60)))
def test_the_order_of_the_images_changes_nothing(
    predicted: Bytes, champions: Bytes, references: Bytes, policy: Gate, order: list[int]
) -> None:
    def judged_in(places: list[int]) -> Decision:
        baselines = (
            BaselineResults("a", champions[places], FEW[places]),
            BaselineResults("b", references[places], FEW[places]),
        )
        return decide(measured(predicted[places], FEW[places]), *baselines, policy)

    assert judged_in(list(range(60))) == judged_in(order)


@settings(deadline=None)
@given(guesses, st.floats(0, 1), st.booleans())
def test_a_model_never_loses_to_itself(predicted: Bytes, allowed: float, pin: bool) -> None:
    policy = NOTHING_ASKED.model_copy(update={"max_regression": allowed})
    itself = BaselineResults("itself", predicted, FEW)
    decision = decide(measured(predicted, FEW), None if pin else itself, itself if pin else None, policy)
    assert failed(decision) == set()
