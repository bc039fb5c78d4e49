from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tasks.gate.recipes import REFERENCE_SEEDS, TIGHTENED, RecipeComparison, loss_step
from tests.operating.characteristics import IMAGES, load
from tests.operating.lives import (
    JSON,
    LIMIT,
    MARKDOWN,
    POLICIES,
    WORLDS,
    Baseline,
    live,
    markdown,
    medians,
    row,
    verdicts,
)

ACCURACY = load()[1]["default"].mean(axis=1)
PRODUCTS = f"{REFERENCE_SEEDS} seeds, tightened after a rejection"


@pytest.fixture(scope="module")
def saved() -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["reference"], each["world"]): each for each in json.loads(JSON.read_text())}


def test_every_policy_and_world_is_there(saved: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert list(saved) == [(policy, world) for policy in POLICIES for world in WORLDS]
    assert POLICIES[PRODUCTS] == (REFERENCE_SEEDS, TIGHTENED)
    assert markdown(list(saved.values())) == MARKDOWN.read_text()


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_promised_of_a_life(saved: dict[tuple[str, str], dict[str, Any]], world: str) -> None:
    figures = saved[PRODUCTS, world]
    assert figures["bad lives"] <= 0.05
    assert math.isnan(figures["healthy rejected"]) == (world == "creep")
    assert not figures["healthy rejected"] > 0.01


def test_why_twenty_seeds_and_a_tighter_limit(saved: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert saved["5 seeds, tightened after a rejection", "same"]["healthy rejected"] > 0.01
    assert saved[f"{REFERENCE_SEEDS} seeds, one limit", "jump"]["bad lives"] > 0.2


@pytest.mark.parametrize("world", ["same", "creep"])
def test_shorter_lives_agree_with_the_kept_ones(saved: dict[tuple[str, str], dict[str, Any]], world: str) -> None:
    found = live(world, REFERENCE_SEEDS, TIGHTENED, ACCURACY, lives=1500, weeks=25)
    kept = saved[PRODUCTS, world]
    assert found["bad lives"] == pytest.approx(kept["bad lives"], abs=0.02)
    if world == "same":
        assert found["healthy rejected"] == pytest.approx(kept["healthy rejected"], abs=0.003)
        assert found["trainings"] == pytest.approx(kept["trainings"], abs=0.1)


@pytest.mark.parametrize("seeds", [5, REFERENCE_SEEDS])
@pytest.mark.parametrize(("k", "seeds_left"), [(1, True), (3, True), (5, False)])
def test_a_row_here_is_the_products(k: int, seeds: int, seeds_left: bool) -> None:
    random, lives = np.random.default_rng(k), 300
    lost = random.uniform(0, 0.012, lives)
    candidate = Baseline(random.choice(ACCURACY, (lives, k)) - lost[:, None], lost)
    baseline = Baseline(random.choice(ACCURACY, (lives, seeds)), np.zeros(lives))
    good, bad = row(candidate, baseline, LIMIT, seeds_left)
    steps = set()
    for life in range(lives):
        ours, theirs, degrees = candidate.accuracy[life], baseline.accuracy[life], k + seeds - 2
        variance = (((ours - ours.mean()) ** 2).sum() + ((theirs - theirs.mean()) ** 2).sum()) / degrees
        images = lost[life] / IMAGES
        degrees *= (1 + images / (variance * (1 / k + 1 / seeds))) ** 2
        found = RecipeComparison(theirs.mean() - ours.mean(), variance, images, degrees, k, seeds, IMAGES)
        step = loss_step(found, LIMIT, seeds_left)
        steps.add(step)
        assert (good[life], bad[life]) == (step == "publish", step == "reject")
    assert steps == ({"publish", "reject", "more"} if seeds_left else {"publish", "reject"})


def test_verdicts_end_where_a_row_rejects_or_all_publish() -> None:
    def of(*accuracies: float) -> Baseline:
        return Baseline(np.array([accuracies]), np.zeros(1))

    good, bad = of(0.97, 0.971, 0.969, 0.97, 0.97), of(0.99, 0.991, 0.989, 0.99, 0.99)
    same = of(0.98, 0.981, 0.979, 0.98, 0.98)
    for rows, expected in (((good, good), (True, 1)), ((good, bad), (False, 1)), ((bad, bad), (False, 1))):
        published, used = verdicts(same, [(each, LIMIT) for each in rows])
        assert (published[0], used[0]) == expected


def test_the_median_is_over_the_seeds_that_were_used() -> None:
    accuracy = np.array([[5.0, 1, 2, 3, 4]] * 3)
    assert medians(accuracy, np.array([1, 3, 5])).tolist() == [5, 2, 3]


def test_the_readme_quotes_the_table() -> None:
    readme = (MARKDOWN.parents[2] / "tasks/gate/README.md").read_text()
    rows = [line for line in MARKDOWN.read_text().splitlines() if line.startswith(f"| {PRODUCTS} ")]
    assert len(rows) == len(WORLDS)
    assert "\n".join(f"|{row.removeprefix(f'| {PRODUCTS} |')}" for row in rows) in readme
