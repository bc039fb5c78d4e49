from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tasks.gate.intervals import ONE_SIDED
from tasks.gate.paired import count, loss_bounds
from tests.operating.characteristics import (
    JSON,
    MARKDOWN,
    MAX_REGRESSION,
    Right,
    best_of,
    compute,
    counts,
    load,
    markdown,
    over_pairs,
    pairwise,
    passes,
    recalls,
    thinned,
)
from tests.operating.record import KINDS, SEEDS

LABELS, RIGHT = load()
DEFAULT = RIGHT["default"]


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(JSON.read_text())
    return content


def test_the_tables_are_what_the_kept_trainings_say(saved: dict[str, Any]) -> None:
    assert list(leaves(compute())) == pytest.approx(list(leaves(saved)), abs=1e-3)
    assert markdown(saved) == MARKDOWN.read_text()


def leaves(value: Any) -> Iterator[Any]:
    """The numbers and words of a nested value, in order."""
    if isinstance(value, dict):
        yield from (leaf for key, inner in value.items() for leaf in (key, *leaves(inner)))
    elif isinstance(value, list):
        yield from (leaf for inner in value for leaf in leaves(inner))
    else:
        yield value


def test_the_kept_trainings_are_whole() -> None:
    runs = json.loads(SEEDS.read_text())["runs"]
    assert sorted((run["kind"], run["seed"]) for run in runs) == sorted(
        (name, seed) for name, kind in KINDS.items() for seed in range(kind.seeds)
    )
    assert all(run["wrong"][0] >= 0 and min(run["wrong"][1:]) >= 1 for run in runs)
    assert np.bincount(LABELS).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # MNIST's test set


def test_the_readme_quotes_the_tables() -> None:
    readme = (MARKDOWN.parents[2] / "tasks/gate/README.md").read_text()
    quoted = [line for line in readme.splitlines() if line.startswith(("| true loss", "| half the images"))]
    assert len(quoted) == 5
    assert set(quoted) <= set(MARKDOWN.read_text().splitlines())


def test_a_healthy_seed_passes_and_what_is_worse_does_not(saved: dict[str, Any]) -> None:
    """The rates that tasks/gate/README.md quotes, from real trainings."""
    rows = {row["what"] or row["loss"]: row for row in saved["losses"]}
    assert len(DEFAULT) >= 50
    assert rows[0.0]["champion"] > 0.88
    assert rows[0.01]["champion"] < 0.06
    assert rows[0.01]["all"] < 0.02
    assert rows["shuffled labels"]["champion"] == rows["shuffled labels"]["all"] == 0
    # Losses that were trained, not drawn, are detected about as often as drawn ones of their size.
    assert rows[0.005]["champion"] < rows["3 epochs"]["champion"] < rows[0.0]["champion"]
    assert rows[0.01]["champion"] < rows["2 epochs"]["champion"] < rows[0.003]["champion"]
    assert rows[0.01]["champion"] < rows["half the images"]["champion"] < rows[0.003]["champion"]


def test_one_percent_fewer_right_answers_of_the_very_same_model_are_rejected() -> None:
    worse = thinned(DEFAULT, 0.01, np.random.default_rng(5))
    assert pairwise(worse, DEFAULT).mean() == 0
    assert pairwise(DEFAULT, DEFAULT).all()


def test_a_pinned_reference_ends_the_creeping(saved: dict[str, Any]) -> None:
    lost = {
        row["reference"]: [row[f"lost after {number}"] for number in (20, 40)]
        for row in saved["retrainings"]
        if row["loss each"]
    }
    assert lost["none"][1] > 0.012
    assert max(lost["typical"] + lost["best of 10"]) < 0.004


def test_the_row_here_is_the_products() -> None:
    candidates, champions = DEFAULT[:6], DEFAULT[6:14]
    result = passes(*counts(candidates, champions))
    wrong = (LABELS + 1) % 10
    for (i, candidate), (j, champion) in itertools.product(enumerate(candidates), enumerate(champions)):
        pair = count(LABELS, np.where(champion, LABELS, wrong), np.where(candidate, LABELS, wrong))
        assert result[i, j] == (loss_bounds(pair, ONE_SIDED)[0] <= MAX_REGRESSION)
    assert np.array_equal(pairwise(candidates, champions[:6]), np.diag(result[:, :6]))


@pytest.mark.parametrize("loss", [0.0, 0.003, 0.01])
def test_thinning_loses_what_it_says_and_gains_nothing(loss: float) -> None:
    drawn = thinned(DEFAULT, loss, np.random.default_rng(1))
    assert not (drawn & ~DEFAULT).any()
    assert (DEFAULT.mean() - drawn.mean()) == pytest.approx(loss, abs=4 * np.sqrt(loss / DEFAULT.size))


def test_the_best_of_some_over_all_choices() -> None:
    def by_listing(right: Right, number: int) -> float:
        passed, order = passes(*counts(right, right)), right.sum(axis=1)
        result = []
        for chosen in itertools.combinations(range(len(right)), number):
            best = max(chosen, key=lambda seed: (order[seed], seed))
            result += [passed[other, best] for other in range(len(right)) if other not in chosen]
        return float(np.mean(result))

    few = DEFAULT[:9]
    for number in (1, 2, 4, 8):
        assert best_of(few, number) == pytest.approx(by_listing(few, number))


def test_the_error_over_pairs_is_that_of_the_seeds_not_of_the_pairs() -> None:
    random = np.random.default_rng(2)
    seeds = 40
    # A pair passes by a property of its candidate alone: as many independent values as seeds.
    means, errors = [], []
    for _ in range(200):
        passed = np.repeat(random.random((seeds, 1)) < 0.8, seeds, axis=1).astype(float)
        mean, error = over_pairs(passed, same=True)
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_recall_is_the_share_of_a_class_that_is_right() -> None:
    assert recalls(DEFAULT[:2], LABELS)[1, 7] == pytest.approx(DEFAULT[1][LABELS == 7].mean())
