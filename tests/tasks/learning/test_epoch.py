from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.learning.epoch import epoch_model, fit_arguments, one_hot
from tests.tasks.learning.test_training import examples


def network(keras: Any) -> list[Any]:
    keras.utils.set_random_seed(1)
    digit = keras.layers.Dense(10, activation="softmax")
    return [keras.Input((784,), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Dense(16), digit]


# 70 images are two batches and a part, 64 two batches, and 20 fewer than one.
@pytest.mark.parametrize("count", [70, 64, 20])
def test_it_trains_as_plain_keras_does_on_the_same_batches(count: int) -> None:
    import keras

    split, sizes = examples(count), {"batch_size": 32}
    orders = [np.random.default_rng(number).permutation(count) for number in range(3)]
    ours, plain = epoch_model(network(keras), split, **sizes), keras.Sequential(network(keras))
    results: list[list[tuple[float, float]]] = []
    for model in (ours, plain):
        model.compile("rmsprop", "categorical_crossentropy", metrics=["accuracy"])
        results.append([])
        for order in orders:
            images, labels = split.images[order], one_hot(split.labels[order], 10)
            fit_options = fit_arguments(split, order, **sizes) if model is ours else {"x": images, "y": labels, **sizes}
            history = model.fit(**fit_options, shuffle=False, verbose=0).history
            results[-1].append((history["loss"][-1], history["accuracy"][-1]))
    assert results[0] == pytest.approx(np.array(results[1]), rel=1e-4)
    for mine, theirs in zip(ours.get_weights(), plain.get_weights(), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_labels_become_rows_of_one_1() -> None:
    assert one_hot(np.array([3, 0], np.uint8), 10).tolist() == [[0.0] * 3 + [1.0] + [0.0] * 6, [1.0] + [0.0] * 9]
