from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tasks.gate.checks import PART_ALPHA, PARTS, BaselineResults, CandidateResults, decide
from tasks.gate.recipes import LOOKS
from tasks.learning.metrics import score
from tasks.settings import Gate
from tasks.values import NPZ, Artifact, LoadBack
from tests.operating.limits import sets
from tests.operating.looks import chosen
from tests.operating.parts import (
    JSON,
    MARKDOWN,
    PAIRS,
    Case,
    case,
    lost,
    markdown,
    pairs,
    part_of,
    part_seen,
    worse,
)

ANSWERS = Artifact(sha256="0" * 64, size=0, media_type=NPZ)


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(JSON.read_text())
    return content


@pytest.mark.parametrize(
    "each", [Case("mnist", 500), Case("digits", 60), Case("mnist", 500, new_loss=0.03)], ids=lambda each: str(each[:3])
)
def test_the_table_is_what_the_kept_trainings_say(saved: dict[str, Any], each: Case) -> None:
    (kept,) = (row for row in [*saved["healthy"], *saved["worse"]] if row.items() >= each._asdict().items())
    assert case(each) == pytest.approx(kept, abs=1e-3)


def test_pairs_of_models_are_what_the_kept_trainings_say(saved: dict[str, Any]) -> None:
    assert pairs(PAIRS[2]) == pytest.approx(saved["pairs"][2], abs=1e-4)


def test_the_page_shows_the_numbers(saved: dict[str, Any]) -> None:
    assert markdown(saved) == MARKDOWN.read_text()


def test_healthy_recipes_pay_little_and_one_that_loses_a_part_is_found(saved: dict[str, Any]) -> None:
    assert max(each["without"] - each["passes"] for each in saved["healthy"]) <= 0.02
    assert max(each["without"] - each["passes"] for each in saved["pairs"]) <= 0.03
    found = {(each["new"], each["earlier_loss"], each["new_loss"]): each for each in saved["worse"]}
    for forgets in ((9500, 0.03, 0.0), (500, 0.0, 0.03)):
        assert found[forgets]["without"] > 0.85
        assert found[forgets]["passes"] < 0.06


@pytest.mark.parametrize("kind", ["5", "1"])
def test_rows_here_are_the_products(kind: str) -> None:
    labels, right = sets()["mnist"]
    labels = labels.astype(np.uint8)
    new = part_of(len(labels), 500, np.random.default_rng(0))
    draw = worse(right, ((new, 0.02),), np.random.default_rng(0))
    found = [lost(part_seen([draw], right, part, kind, 20), 0.0029, PART_ALPHA) for part in (~new, new)]
    theirs, rest = chosen(kind, right, 20, np.random.default_rng(0))
    answers, champions = (np.where(each, labels, (labels + 1) % 10).astype(np.uint8) for each in (draw, right))
    evaluation = score(np.eye(10, dtype=np.float32)[answers[0]], labels, ANSWERS)
    for number in range(20):
        by_seed = champions[theirs[number]]
        champion = BaselineResults("champion v1", by_seed[0], labels, by_seed=by_seed)
        for look, k in enumerate(LOOKS):
            by_seed = answers[rest[number, :k]]
            results = CandidateResults(evaluation, by_seed[0], labels, LoadBack(), by_seed=by_seed, new=new)
            rows = {check.name: check.passed for check in decide(results, champion, None, Gate()).checks}
            assert [rows[name] for name in PARTS] == [not part[look, number] for part in found]
    assert {bool(value) for value in found[1].ravel()} == {True, False}


def test_the_readme_quotes_the_numbers(saved: dict[str, Any]) -> None:
    readme = " ".join((MARKDOWN.parents[2] / "tasks/gate/README.md").read_text().split())
    healthy = [each for each in saved["healthy"] if (each["data"], each["seeds"]) == ("mnist", 5)]
    (forgets,) = (each for each in saved["worse"] if each["earlier_loss"] == 0.03)
    quoted = f"{healthy[0]['without']:.3f} of healthy MNIST runs pass without the two rows, and at least"
    assert f"{quoted} {min(each['passes'] for each in healthy):.3f} with them" in readme
    assert f"passes with {forgets['passes']:.3f} instead of {forgets['without']:.3f}" in readme
