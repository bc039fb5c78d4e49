from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.arrays import from_npz, to_npz
from tasks.errors import ModelFileError, TrainingError
from tasks.learning.metrics import score
from tasks.learning.model_file import to_bytes
from tasks.learning.network import build
from tasks.learning.predictions import predict
from tasks.values import Artifact
from tests.model_files import model_of, small_model

PREDICTIONS = Artifact(sha256="0" * 64, size=1, media_type="application/x-npz")


def network(bias: float = 0.0) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    model = build((28, 28), 10)
    model.layers[-1].bias.assign(np.full(10, bias, np.float32))
    return model


def test_probabilities_are_those_of_the_model_for_scaled_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 784), np.uint8)
    model = network()
    predicted = predict(to_bytes(model), images)
    assert predicted.shape == (7, 10)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, model(images.astype(np.float32) / 255).numpy(), atol=1e-6)


def test_outputs_that_are_not_probabilities_are_an_error() -> None:
    model = network()
    model.layers[0].kernel.assign(np.full((784, 512), 3e38, np.float32))
    with pytest.raises(TrainingError, match="not probabilities"):
        predict(to_bytes(model), np.full((2, 784), 255, np.uint8))
    negative = np.array([[1, -1] + [0] * 8], np.float32).repeat(784, axis=0), np.eye(10, dtype=np.float32)[9], "linear"
    with pytest.raises(TrainingError, match="not probabilities"):
        predict(model_of(negative), np.full((2, 784), 255, np.uint8))


def test_a_model_for_other_images_is_an_error() -> None:
    with pytest.raises(ModelFileError, match="it takes 9 pixels instead of 784"):
        predict(small_model(inputs=9), np.zeros((2, 784), np.uint8))
    with pytest.raises(ModelFileError, match="a weight is not a finite number"):
        predict(to_bytes(network(math.nan)), np.zeros((2, 784), np.uint8))


def test_scores_are_counted_per_class() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], np.float32)
    evaluation = score(probabilities, np.array([0, 1, 1, 2], np.uint8), PREDICTIONS)
    assert (evaluation.images, evaluation.correct, evaluation.accuracy) == (4, 3, 0.75)
    assert evaluation.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    assert [value.recall for value in evaluation.classes] == [1.0, 0.5, 1.0]
    assert [value.precision for value in evaluation.classes] == [0.5, 1.0, 1.0]
    assert evaluation.loss == pytest.approx(-np.mean(np.log([0.8, 0.7, 0.3, 0.8])), rel=1e-6)


def test_a_class_that_is_never_guessed_and_one_that_is_never_tested_count_as_nothing() -> None:
    evaluation = score(np.array([[1, 0, 0], [1, 0, 0]], np.float32), np.array([0, 1], np.uint8), PREDICTIONS)
    assert [value.support for value in evaluation.classes] == [1, 1, 0]
    assert [value.recall for value in evaluation.classes] == [1.0, 0.0, 0.0]


@given(classes=st.integers(2, 12), images=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), sure=st.booleans())
def test_scores_are_those_of_scikit_learn(classes: int, images: int, seed: int, sure: bool) -> None:
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images, np.uint8)
    probabilities = random.dirichlet(np.full(classes, 0.01 if sure else 1.0), images).astype(np.float32)
    evaluation, known = score(probabilities, labels, PREDICTIONS), list(range(classes))
    predicted = probabilities.argmax(axis=1)
    precision, recall, _, support = precision_recall_fscore_support(labels, predicted, labels=known, zero_division=0.0)
    assert [value.precision for value in evaluation.classes] == precision.tolist()
    assert [value.recall for value in evaluation.classes] == recall.tolist()
    assert [value.support for value in evaluation.classes] == support.tolist()
    assert [list(row) for row in evaluation.confusion] == confusion_matrix(labels, predicted, labels=known).tolist()
    exact = probabilities.astype(np.float64)
    expected = log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=known)
    assert evaluation.loss == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_predictions_are_kept_for_every_image_and_reproducibly() -> None:
    probabilities = np.random.default_rng(0).random((5, 10), np.float32)
    labels = np.arange(5, dtype=np.uint8)
    data = to_npz(probabilities, labels)
    assert data == to_npz(probabilities.copy(), labels.copy())
    restored = from_npz(data)
    assert np.array_equal(restored[0], probabilities)
    assert np.array_equal(restored[1], labels)
