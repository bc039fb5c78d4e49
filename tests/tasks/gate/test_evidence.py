from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gate.evidence import median, spread_of
from tasks.report import formatting, markdown
from tasks.values import SeedScore
from tests.tasks.report.examples import example


def scores(*accuracies: float) -> list[SeedScore]:
    return [SeedScore(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate(accuracies, 5)]


@pytest.mark.parametrize(
    ("accuracies", "seed"),
    [
        ((0.97,), 5),
        ((0.99, 0.97, 0.98), 7),
        ((0.99, 0.97), 6),  # the lower of two
        ((0.99, 0.96, 0.98, 0.97), 8),
        ((0.98, 0.97, 0.98, 0.98, 0.99), 5),  # of equal ones the smallest seed
    ],
)
def test_the_median_is_chosen(accuracies: tuple[float, ...], seed: int) -> None:
    drawn = scores(*accuracies)
    assert drawn[median(drawn)].seed == seed


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.randoms())
def test_their_order_does_not_matter_and_it_is_the_low_median(accuracies: list[float], random: object) -> None:
    drawn = scores(*accuracies)
    chosen = drawn[median(drawn)]
    assert chosen.accuracy == statistics.median_low(accuracies)
    random.shuffle(drawn)  # type: ignore[attr-defined]
    assert drawn[median(drawn)] == chosen


def test_the_spread_is_told_in_words_and_on_the_page() -> None:
    spread = spread_of(scores(0.99, 0.97, 0.98), 2)
    assert [spread.mean, spread.deviation] == pytest.approx([0.98, 0.01])
    assert formatting.spread_line(spread) == (
        "3 seeds: mean accuracy 0.9800, standard deviation 0.0100, 0.9700 to 0.9900. The median, seed 7, is judged."
    )
    shown = example()
    drawn = shown.with_candidate(spread=spread)
    assert "| 7    | 0.9800   | the median: judged |" in markdown.markdown(drawn.document)
    page = drawn.page()
    assert ">0.9700</td>" in page
    assert formatting.spread_line(spread) in page
    assert "Seeds" not in markdown.markdown(shown.document)
