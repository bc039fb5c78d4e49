from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.arrays import Probabilities
from tasks.gate.comparison import Prediction, compare

LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def predictions(guesses: list[int], confidence: list[float]) -> Probabilities:
    probabilities = np.repeat(((1 - np.array(confidence)) / 2)[:, None], 3, axis=1).astype(np.float32)
    probabilities[np.arange(len(guesses)), guesses] = confidence
    return probabilities


def test_won_and_lost_images_are_named_the_surest_mistakes_first() -> None:
    champion = predictions([0, 1, 2, 1, 2, 0], [0.9, 0.9, 0.9, 0.6, 0.7, 0.8])
    candidate = predictions([0, 2, 0, 0, 1, 0], [0.9, 0.6, 0.7, 0.5, 0.5, 0.9])
    comparison = compare(3, LABELS, champion, candidate)
    assert (comparison.champion, comparison.images) == (3, 6)
    assert (comparison.both_right, comparison.both_wrong, comparison.won.count, comparison.lost.count) == (1, 1, 2, 2)
    assert (comparison.won.per_class, comparison.lost.per_class) == ((1, 1, 0), (0, 1, 1))
    assert [change.image for change in comparison.lost.images] == [2, 1]
    assert [change.image for change in comparison.won.images] == [4, 3]
    first = comparison.lost.images[0]
    assert (first.truth, first.champion, first.candidate) == (
        2,
        Prediction(guess=2, probability=0.9),
        Prediction(guess=0, probability=0.7),
    )
    assert (comparison.counts.only_champion, comparison.counts.only_candidate, comparison.counts.images) == (2, 2, 6)


def test_no_more_are_named_than_asked_for() -> None:
    champion, candidate = predictions([0, 1, 2, 0, 1, 2], [0.9] * 6), predictions([1, 2, 0, 1, 2, 0], [0.9] * 6)
    comparison = compare(1, LABELS, champion, candidate, limit=4)
    assert comparison.lost.count == 6
    assert [change.image for change in comparison.lost.images] == [0, 1, 2, 3]
    assert comparison.won.images == ()


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same images"):
        compare(1, LABELS, predictions([0], [0.9]), predictions([0], [0.9]))


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40))
def test_every_image_is_counted_once_and_exchanging_the_models_exchanges_won_and_lost(
    drawn: list[tuple[int, int, int]],
) -> None:
    labels = np.array([label for label, _, _ in drawn], np.uint8)
    one = predictions([guess for _, guess, _ in drawn], [0.8] * len(drawn))
    other = predictions([guess for _, _, guess in drawn], [0.8] * len(drawn))
    result, back = compare(1, labels, one, other), compare(1, labels, other, one)
    assert result.both_right + result.both_wrong + result.won.count + result.lost.count == result.images == len(drawn)
    assert (result.won.count, result.lost.per_class) == (back.lost.count, back.won.per_class)
    assert [change.image for change in result.won.images] == [change.image for change in back.lost.images]
