from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.arrays import Bytes, Probabilities
from tasks.report.calibration import calibration


def predictions(confidence: list[float], right: list[bool]) -> tuple[Probabilities, Bytes]:
    """Two classes: the model guesses 0 with this confidence, and is right or not."""
    sure = np.array(confidence, np.float32)
    return np.stack([sure, 1 - sure], axis=1), np.where(right, 0, 1).astype(np.uint8)


def test_a_small_example_worked_out_by_hand() -> None:
    """Two bins of four: |0.5 - 0.6| over 2 images and |1 - 0.95| over 2."""
    result = calibration(*predictions([0.55, 0.65, 0.9, 1.0], [True, False, True, True]), of=4)
    assert [(each.lower, each.upper, each.images, each.accuracy) for each in result.bins] == [
        (0.5, 0.75, 2, 0.5),
        (0.75, 1.0, 2, 1.0),
    ]
    assert [each.confidence for each in result.bins] == pytest.approx([0.6, 0.95], abs=1e-6)
    assert result.error == pytest.approx((2 * 0.1 + 2 * 0.05) / 4, abs=1e-6)
    assert result.of == 4


def test_a_model_that_is_right_as_often_as_it_says_has_no_error() -> None:
    assert calibration(*predictions([0.75] * 4, [True, True, True, False])).error == pytest.approx(0, abs=1e-6)
    assert calibration(*predictions([1.0] * 4, [False] * 4)).error == 1


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    (result,) = calibration(*predictions([0.75], [True]), of=4).bins
    assert (result.lower, result.upper) == (0.5, 0.75)


@given(st.lists(st.tuples(st.floats(0.5, 1, width=32), st.booleans()), min_size=1, max_size=50))
def test_every_image_is_in_the_bin_of_its_sureness(drawn: list[tuple[float, bool]]) -> None:
    result = calibration(*predictions([each for each, _ in drawn], [right for _, right in drawn]))
    assert sum(each.images for each in result.bins) == len(drawn)
    assert all(each.lower - 1e-6 <= each.confidence <= each.upper + 1e-6 for each in result.bins)
    assert 0 <= result.error <= 1


def test_probabilities_a_little_above_one_stay_in_the_last_bin() -> None:
    over = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]], np.float32)
    (result,) = calibration(over, np.zeros(1, np.uint8)).bins
    assert result.upper == 1
