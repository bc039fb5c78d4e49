from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from tasks.gate.recipes import (
    ALPHA,
    LOOKS,
    SEEDS_TO_ANSWERS,
    TIGHTENED,
    RecipeComparison,
    Right,
    Step,
    compare_recipes,
    loss_step,
    next_look,
    quantile,
    reference_limit,
)

STEPS = get_args(Step)


def answers(seeds: int, images: int = 500, accuracy: float = 0.9, deviation: float = 0.02, seed: int = 0) -> Right:
    """Right answers of seeds with accuracies that differ, on images that are not equally hard."""
    random = np.random.default_rng(seed)
    hard = random.normal(0, 0.05, images)
    chance = accuracy + random.normal(0, deviation, (seeds, 1)) + hard
    right: Right = random.random((seeds, images)) < chance
    return right


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Right, Right]:
    """Any two recipes, the degenerate ones too."""
    images = draw(st.integers(2, 12))
    cells = st.lists(st.booleans(), min_size=images, max_size=images)
    sides = [np.array(draw(st.lists(cells, min_size=1, max_size=5)), bool) for _ in range(2)]
    return sides[0], sides[1]


def test_the_estimates_are_those_of_a_two_way_analysis_of_variance() -> None:
    """Written out with loops over seeds and images, as the textbooks have it."""
    candidate, baseline = answers(3, seed=1), answers(5, seed=2)
    n, between, residual = candidate.shape[1], 0.0, 0.0
    for right in (candidate, baseline):
        for seed in range(len(right)):
            between += (right[seed].mean() - right.mean()) ** 2
            for image in range(n):
                residual += (right[seed, image] - right[seed].mean() - right[:, image].mean() + right.mean()) ** 2
    differences = baseline.mean(axis=0) - candidate.mean(axis=0)
    images = differences.var(ddof=1) / n - residual / (6 * (n - 1)) * (1 / 3 + 1 / 5) / n
    found = compare_recipes(candidate, baseline)
    assert found.loss == pytest.approx(differences.mean())
    assert found.seed_variance == pytest.approx(between / 6)
    assert found.image_variance == pytest.approx(max(images, 0), abs=1e-12)
    seeds = between / 6 * (1 / 3 + 1 / 5)
    assert found.standard_error == pytest.approx(math.sqrt(seeds + max(images, 0)))
    assert found.degrees_of_freedom == pytest.approx(6 * (seeds + max(images, 0)) ** 2 / seeds**2)
    assert found.upper(0.05) - found.loss == pytest.approx(t.ppf(0.95, found.degrees_of_freedom) * found.standard_error)


def test_images_that_only_one_recipe_gets_right_are_a_variance_of_images() -> None:
    """Seeds that all answer alike, another recipe that misses 40 of 1,000 images: the paired variance, and no more."""
    baseline = np.ones((5, 1000), bool)
    candidate = baseline.copy()
    candidate[:, :40] = False
    found = compare_recipes(candidate, baseline)
    assert found.loss == pytest.approx(0.04)
    assert found.image_variance == pytest.approx(0.04 * 0.96 / 999)
    assert found.seed_variance == pytest.approx(1e-6)  # that of one image: no seed differs


@pytest.mark.parametrize(("k", "j"), [(1, 2), (1, 5), (3, 1), (5, 5), (5, 20)])
def test_the_variances_are_unbiased_and_the_bounds_hold(k: int, j: int) -> None:
    """Against a truth that is known: both recipes the same, images drawn anew each time."""
    found = [compare_recipes(answers(k, seed=2 * i), answers(j, seed=2 * i + 1)) for i in range(600)]
    errors = np.array([each.loss for each in found])
    assert np.mean([each.standard_error**2 for each in found]) == pytest.approx(errors.var(), rel=0.2)
    assert np.mean([each.lower(0.05) <= 0 for each in found]) == pytest.approx(0.95, abs=0.03)
    assert np.mean([each.upper(0.05) >= 0 for each in found]) == pytest.approx(0.95, abs=0.03)


@given(pairs())
def test_any_two_recipes_have_an_interval(pair: tuple[Right, Right]) -> None:
    found = compare_recipes(*pair)
    n = pair[0].shape[1]
    assert found.loss == pytest.approx(pair[1].mean() - pair[0].mean())
    assert found.seed_variance >= 1 / n**2
    assert found.image_variance >= 0
    assert found.degrees_of_freedom >= 1
    assert -1 <= found.lower(0.05) <= found.loss + 1e-12
    assert found.loss - 1e-12 <= found.upper(0.05) <= 1
    assert found.lower(0.01) <= found.lower(0.05) <= found.lower(0.5) + 1e-12


@given(pairs(), st.randoms())
def test_neither_order_nor_side_matters(pair: tuple[Right, Right], random: object) -> None:
    candidate, baseline = pair
    found, other = compare_recipes(candidate, baseline), compare_recipes(baseline, candidate)
    assert [other.loss, other.standard_error] == pytest.approx([-found.loss, found.standard_error])
    images, seeds = list(range(candidate.shape[1])), list(range(len(candidate)))
    random.shuffle(images)  # type: ignore[attr-defined]
    random.shuffle(seeds)  # type: ignore[attr-defined]
    shuffled = compare_recipes(candidate[seeds][:, images], baseline[:, images])
    assert [shuffled.loss, shuffled.standard_error] == pytest.approx([found.loss, found.standard_error])


def test_one_seed_against_one_takes_the_prior_and_is_wider_than_more_seeds() -> None:
    candidate, baseline = answers(5, images=10_000, seed=3), answers(5, images=10_000, seed=4)
    alone = compare_recipes(candidate[:1], baseline[:1])
    differ = (candidate[0].astype(int) - baseline[0]).var(ddof=1)
    assert alone.standard_error == pytest.approx(math.sqrt(differ * (1 / 10_000 + SEEDS_TO_ANSWERS)))
    reach = [
        found.upper(0.05) - found.loss
        for found in (alone, compare_recipes(candidate[:1], baseline), compare_recipes(candidate, baseline))
    ]
    assert reach[0] > reach[1] > reach[2]


@pytest.mark.parametrize(
    ("candidate", "baseline"),
    [
        (np.ones((1, 3), bool), np.ones((1, 4), bool)),
        (np.ones((0, 3), bool), np.ones((1, 3), bool)),
        (np.ones((1, 3), bool), np.ones((0, 3), bool)),
        (np.ones((1, 1), bool), np.ones((1, 1), bool)),
        (np.ones((1, 0), bool), np.ones((1, 0), bool)),
        (np.ones(3, bool), np.ones((1, 3), bool)),
        (np.ones((1, 3)), np.ones((1, 3), bool)),
    ],
    ids=["other images", "no candidate", "no baseline", "one image", "no image", "flat", "not boolean"],
)
def test_what_cannot_be_compared_is_an_error(candidate: Right, baseline: Right) -> None:
    with pytest.raises(ValueError, match="images"):
        compare_recipes(candidate, baseline)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 0.51, math.nan])
def test_no_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match="no alpha"):
        quantile(alpha, np.float64(4))


@given(pairs(), st.floats(0, 1), st.booleans())
def test_a_step_says_what_the_interval_does(pair: tuple[Right, Right], limit: float, seeds_left: bool) -> None:
    found = compare_recipes(*pair)
    step = loss_step(found, limit, seeds_left)
    if not seeds_left:
        assert step == ("publish" if found.loss <= limit else "reject")
    elif step == "publish":
        assert found.loss <= limit
    elif step == "reject":
        assert found.loss > limit
    else:
        assert found.lower(0.01) <= limit < found.upper(0.01)


@given(pairs(), st.floats(0, 0.5), st.floats(0, 0.5), st.booleans())
def test_a_smaller_limit_never_turns_a_rejection_into_anything_else(
    pair: tuple[Right, Right], one: float, other: float, seeds_left: bool
) -> None:
    found = compare_recipes(*pair)
    order = ("reject", "more", "publish")
    low, high = (order.index(loss_step(found, limit, seeds_left)) for limit in sorted((one, other)))
    assert low <= high


def test_a_number_that_is_none_publishes_nothing() -> None:
    found = RecipeComparison(math.nan, 1e-6, 0.0, 4, 1, 5, 100)
    assert loss_step(found, 0.1, seeds_left=True) == "more"
    assert loss_step(found, 0.1, seeds_left=False) == "reject"
    good = RecipeComparison(0.0, 1e-6, 0.0, 4, 1, 5, 100)
    assert loss_step(good, math.nan, seeds_left=False) == "reject"


def test_every_early_look_has_alphas() -> None:
    assert tuple(ALPHA) == LOOKS[:-1]
    found = compare_recipes(answers(2, seed=5), answers(5, seed=6))
    assert loss_step(found, 0.5, seeds_left=True) == "publish"  # two seeds are looked at as one is


@given(st.lists(st.sampled_from(STEPS), max_size=3), st.booleans(), st.booleans())
def test_the_next_look(losses: list[Step], rows_pass: bool, seeds_left: bool) -> None:
    step = next_look(losses, rows_pass, seeds_left)
    if "reject" in losses:
        assert step == "reject"
    elif "more" not in losses and rows_pass:
        assert step == "publish"
    else:
        assert step == ("more" if seeds_left else "reject")


def test_retries_are_held_to_a_tighter_limit() -> None:
    assert [reference_limit(0.003, retries) for retries in (0, 1, 500)] == [0.003, TIGHTENED * 0.003, TIGHTENED * 0.003]
    with pytest.raises(ValueError, match="fewer than no retries"):
        reference_limit(0.003, -1)
