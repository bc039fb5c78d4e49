from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.arrays import Probabilities
from tasks.gate.comparison import Said, compare

LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def saying(guesses: list[int], sureness: list[float]) -> Probabilities:
    found = np.repeat(((1 - np.array(sureness)) / 2)[:, None], 3, axis=1).astype(np.float32)
    found[np.arange(len(guesses)), guesses] = sureness
    return found


def test_won_and_lost_images_are_named_the_surest_mistakes_first() -> None:
    champion = saying([0, 1, 2, 1, 2, 0], [0.9, 0.9, 0.9, 0.6, 0.7, 0.8])
    candidate = saying([0, 2, 0, 0, 1, 0], [0.9, 0.6, 0.7, 0.5, 0.5, 0.9])
    found = compare(3, LABELS, champion, candidate)
    assert (found.champion, found.images) == (3, 6)
    assert (found.both_right, found.both_wrong, found.won.count, found.lost.count) == (1, 1, 2, 2)
    assert (found.won.per_class, found.lost.per_class) == ((1, 1, 0), (0, 1, 1))
    assert [change.image for change in found.lost.images] == [2, 1]
    assert [change.image for change in found.won.images] == [4, 3]
    first = found.lost.images[0]
    assert (first.truth, first.champion, first.candidate) == (
        2,
        Said(guess=2, probability=0.9),
        Said(guess=0, probability=0.7),
    )
    assert (found.counts.only_champion, found.counts.only_candidate, found.counts.images) == (2, 2, 6)


def test_no_more_are_named_than_asked_for() -> None:
    champion, candidate = saying([0, 1, 2, 0, 1, 2], [0.9] * 6), saying([1, 2, 0, 1, 2, 0], [0.9] * 6)
    found = compare(1, LABELS, champion, candidate, most=4)
    assert found.lost.count == 6
    assert [change.image for change in found.lost.images] == [0, 1, 2, 3]
    assert found.won.images == ()


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same images"):
        compare(1, LABELS, saying([0], [0.9]), saying([0], [0.9]))


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40))
def test_every_image_is_counted_once_and_exchanging_the_models_exchanges_won_and_lost(
    drawn: list[tuple[int, int, int]],
) -> None:
    labels = np.array([label for label, _, _ in drawn], np.uint8)
    one = saying([guess for _, guess, _ in drawn], [0.8] * len(drawn))
    other = saying([guess for _, _, guess in drawn], [0.8] * len(drawn))
    found, back = compare(1, labels, one, other), compare(1, labels, other, one)
    assert found.both_right + found.both_wrong + found.won.count + found.lost.count == found.images == len(drawn)
    assert (found.won.count, found.lost.per_class) == (back.lost.count, back.won.per_class)
    assert [change.image for change in found.won.images] == [change.image for change in back.lost.images]
