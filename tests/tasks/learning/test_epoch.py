from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.data.arrays import Split
from tasks.learning import epoch
from tasks.learning.epoch import epoch_model, fit_arguments, one_hot
from tests.tasks.learning.test_training import examples

STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def network(keras: Any) -> list[Any]:
    keras.utils.set_random_seed(1)
    digit = keras.layers.Dense(10, activation="softmax")
    return [keras.Input((784,), dtype="uint8"), keras.layers.Rescaling(1 / 255), keras.layers.Dense(16), digit]


# 70 images are two batches and a part, 64 two batches, and 20 fewer than one; 166 are five batches, two in each call.
@pytest.mark.parametrize(("count", "in_call"), [(70, 99), (64, 99), (20, 99), (64, 1), (166, 2)])
def test_it_trains_as_plain_keras_does_on_the_same_batches(
    count: int, in_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setattr(epoch, "CALL", in_call * 32 * 784)
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


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc")
def test_a_cpu_reads_the_images_where_they_are() -> None:
    import keras

    # Zeros that were never written take no memory, so what the process grows by is what the training takes.
    split = Split(np.zeros((400_000, 784), np.uint8), np.arange(400_000, dtype=np.uint32).astype(np.uint8) % 10)
    before = resident_bytes()
    model = epoch_model(network(keras), split, batch_size=8192)
    model.compile("rmsprop", "categorical_crossentropy")
    history = model.fit(**fit_arguments(split, np.arange(400_000), 8192), shuffle=False, verbose=0).history
    assert history["loss"][-1] > 0
    assert resident_bytes() - before < split.images.nbytes / 2


def test_labels_become_rows_of_one_1() -> None:
    assert one_hot(np.array([3, 0], np.uint8), 10).tolist() == [[0.0] * 3 + [1.0] + [0.0] * 6, [1.0] + [0.0] * 9]
