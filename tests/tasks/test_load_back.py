from __future__ import annotations

import numpy as np
import pytest

from tasks.data.arrays import Probabilities
from tasks.errors import LoadBackError
from tasks.load_back import compare


def probabilities(*rows: list[float]) -> Probabilities:
    return np.array(rows, np.float32)


def test_the_last_place_may_differ_and_the_class_may_not() -> None:
    evaluated = probabilities([0.5, 0.3, 0.2], [0.4999999, 0.5, 1e-7])
    assert compare(evaluated + np.float32(1e-6), evaluated).same == 2
    assert compare(probabilities([0.5, 0.3, 0.2], [0.5, 0.4999999, 1e-7]), evaluated).same == 1
    assert compare(probabilities([0.5, 0.2999, 0.2001], [0.4999999, 0.5, 1e-7]), evaluated).same == 1
    assert compare(probabilities([0.5, np.nan, 0.2], [0.4999999, 0.5, 1e-7]), evaluated).same == 1
    with pytest.raises(LoadBackError, match="it predicts 2 classes instead of 3"):
        compare(evaluated[:, :2], evaluated)
