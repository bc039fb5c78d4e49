from __future__ import annotations

import numpy as np
import pytest

from tasks.rmsprop import rmsprop


def test_it_does_what_keras_optimizer_does_and_keeps_the_same_variables() -> None:
    import keras

    random = np.random.default_rng(0)
    start = [random.normal(size=shape).astype(np.float32) for shape in ((7, 5), (5,))]
    gradients = [[random.normal(size=value.shape).astype(np.float32) for value in start] for _ in range(20)]
    ends = []
    for optimizer in (rmsprop(0.01), keras.optimizers.RMSprop(0.01)):
        weights = [keras.Variable(value) for value in start]
        optimizer.build(weights)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(value) for value in gradient], weights)
        ends.append([np.asarray(variable) for variable in [*weights, *optimizer.variables]])
    ours, keras_own = ends
    assert len(ours) == len(keras_own)
    for found, expected in zip(ours, keras_own, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert np.abs(ours[0] - start[0]).min() > 0
