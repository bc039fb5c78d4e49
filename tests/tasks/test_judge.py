from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tasks import judge
from tasks.judge import ONE_SIDED, TWO_SIDED, wilson
from tasks.settings import Gate
from tasks.values import Artifact, ClassScore, Decision, Evaluation, LoadBack

CLASSES = 10

Confusion = tuple[tuple[int, ...], ...]


def evaluation(counts: Confusion, /, **changed: object) -> Evaluation:
    images, correct = sum(map(sum, counts)), sum(row[label] for label, row in enumerate(counts))
    scores = tuple(
        ClassScore(label=label, precision=1.0, recall=row[label] / max(sum(row), 1), support=sum(row))
        for label, row in enumerate(counts)
    )
    found = Evaluation(
        predictions=Artifact(sha256="0" * 64, size=1, media_type="application/x-npz"),
        images=images,
        correct=correct,
        accuracy=correct / max(images, 1),
        loss=0.1,
        classes=scores,
        confusion=counts,
    )
    # Not validated: the gate must stand what validation would refuse.
    return found.model_copy(update=changed)


def diagonal(right: int = 980, wrong: int = 20) -> Confusion:
    rows = [[0] * CLASSES for _ in range(CLASSES)]
    for label, row in enumerate(rows):
        row[label], row[(label + 1) % CLASSES] = right, wrong
    return tuple(map(tuple, rows))


def decide(evaluation: Evaluation, gate: Gate, **loaded: object) -> Decision:
    """The decision on a model that was loaded back well, but for what is said."""
    same = LoadBack(images=evaluation.images, same=evaluation.images)
    return judge.decide(evaluation, gate, same.model_copy(update=loaded))


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
    decision = decide(evaluation(diagonal()), Gate())
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
    decision = decide(evaluation(diagonal()), gate)
    assert decision.verdict == "reject"
    assert failed(decision) == {name}


def test_a_limit_that_is_just_reached_passes() -> None:
    assert failed(decide(evaluation(diagonal()), Gate(min_accuracy=0.98, min_class_recall=0.98))) == set()


def test_the_weakest_class_is_named() -> None:
    rows = [list(row) for row in diagonal()]
    rows[3][3], rows[3][4] = 915, 85
    decision = decide(evaluation(tuple(map(tuple, rows))), Gate())
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
    assert decide(broken, nothing_asked).verdict == "reject"


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
    decision = decide(evaluation(diagonal()), Gate(), **loaded)
    assert failed(decision) == {"loaded back"}
    assert why in decision.checks[-1].sentence


matrices = st.lists(st.lists(st.integers(0, 400), min_size=4, max_size=4), min_size=4, max_size=4)
gates = st.builds(Gate, *[st.floats(0, 1)] * 0, min_accuracy=st.floats(0, 1), min_class_recall=st.floats(0, 1))


@given(matrices, gates, st.integers(0, 3), st.integers(0, 3), st.data())
def test_more_correct_answers_never_turn_a_pass_into_a_failure(
    rows: list[list[int]], gate: Gate, truth: int, guess: int, data: st.DataObject
) -> None:
    assume(truth != guess)
    before = decide(evaluation(tuple(map(tuple, rows))), gate)
    mended = data.draw(st.integers(0, rows[truth][guess]))
    rows[truth][guess] -= mended
    rows[truth][truth] += mended
    after = decide(evaluation(tuple(map(tuple, rows))), gate)
    assert failed(after) <= failed(before)


@given(matrices, gates, st.permutations(range(4)))
def test_the_order_of_the_classes_changes_nothing(rows: list[list[int]], gate: Gate, order: list[int]) -> None:
    renamed = tuple(tuple(rows[truth][guess] for guess in order) for truth in order)
    first, second = decide(evaluation(tuple(map(tuple, rows))), gate), decide(evaluation(renamed), gate)
    assert first.verdict == second.verdict
    assert [check.value for check in first.checks] == [check.value for check in second.checks]


@given(matrices, gates)
def test_a_row_passes_exactly_when_its_margin_is_not_negative(rows: list[list[int]], gate: Gate) -> None:
    decision = decide(evaluation(tuple(map(tuple, rows))), gate)
    for check in decision.checks:
        assert check.passed == (check.value >= check.limit) == (check.margin >= 0)
    assert (decision.verdict == "publish") == all(check.passed for check in decision.checks)
