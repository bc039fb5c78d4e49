from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import export
from tasks.caching.steps import Run
from tasks.data.arrays import Bytes
from tasks.errors import ExportError
from tasks.export import compare, export_candidate
from tasks.learning import model_file
from tasks.learning.onnx_file import ACTIVATIONS, run_onnx, to_onnx
from tasks.learning.predictions import predict
from tests.tasks.learning.test_metrics import network
from tests.tasks.report.examples import example

IMAGES: Bytes = np.random.default_rng(0).integers(0, 256, (50, 784), np.uint8)


def layers(*hidden: Any) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((784,), name="pixels"), *hidden], name="some")


def dense(units: int, **options: Any) -> Any:
    import keras

    return keras.layers.Dense(units, **options)


def test_onnxruntime_predicts_the_same_with_it_and_its_bytes_are_reproducible() -> None:
    saved = model_file.to_bytes(network())
    data = to_onnx(model_file.load(saved))
    assert data == to_onnx(model_file.load(saved))
    evaluated = predict(saved, IMAGES)
    assert compare(run_onnx(data, IMAGES), evaluated) < 1e-5
    other = network()
    other.layers[0].kernel.assign(other.layers[0].kernel.numpy()[::-1])
    with pytest.raises(ExportError, match="test images differently"):
        compare(run_onnx(to_onnx(other), IMAGES), evaluated)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("use_bias", [True, False])
def test_every_activation_that_is_known_is_written_as_keras_computes_it(activation: str, use_bias: bool) -> None:
    model = layers(
        dense(30, activation=activation, use_bias=use_bias, bias_initializer="ones", name="a"),
        dense(7, name="b"),
        dense(10, activation="softmax", name="c"),
    )
    predicted = run_onnx(to_onnx(model), IMAGES)
    np.testing.assert_allclose(predicted, model.predict(IMAGES / np.float32(255), verbose=0), atol=1e-5)


def test_whatever_else_is_refused_by_name() -> None:
    import keras

    for unsupported, why in (
        ([dense(3, activation="gelu", name="a")], "the layer a has the activation gelu"),
        ([dense(3, dtype="mixed_bfloat16", name="a")], "the layer a is not float32 alone"),
        ([dense(3, dtype="float64", name="a")], "the layer a is not float32 alone"),
        ([keras.layers.Dropout(0.5, name="a"), dense(3)], "the layer a is no plain Dense layer"),
        ([keras.layers.Reshape((28, 28)), dense(3, name="a")], "is no plain Dense layer"),
    ):
        with pytest.raises(ExportError, match=why):
            to_onnx(layers(*unsupported))
    with pytest.raises(ExportError, match="is not float32 alone"):
        to_onnx(lora())


def lora() -> Any:
    model = layers(dense(3, name="a"))
    model.layers[0].enable_lora(2)
    return model


def test_a_difference_a_class_or_a_shape_leaves_it_out() -> None:
    evaluated = np.array([[0.5, 0.3, 0.2], [0.49999, 0.5, 0.00001]], np.float32)
    assert compare(evaluated + np.float32(5e-5), evaluated) == pytest.approx(5e-5, rel=0.01)
    for predicted, why in (
        (evaluated + np.float32(2e-4), "2 of 2 test images differently"),
        (evaluated[:, ::-1], "2 of 2"),
        (np.array([[0.5, 0.3, 0.2], [0.50001, 0.5, 0]], np.float32), "1 of 2"),
        (np.full_like(evaluated, np.nan), "2 of 2"),
        (evaluated[:1], r"predicts \(1, 3\) instead of \(2, 3\)"),
    ):
        with pytest.raises(ExportError, match=why):
            compare(predicted, evaluated)
    with pytest.raises(ExportError, match="0 of 0"):
        compare(evaluated[:0], evaluated[:0])


def test_without_the_extra_nothing_is_exported_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(export, "installed", lambda name: None if name == "onnxruntime" else "1")
    exported = export_candidate(example().facts.candidate, Run(id="run", url=str(tmp_path))).exported
    assert (exported.file, exported.left_out) == (None, "onnxruntime is not installed")
    assert caplog.text.count("Install retrain-mnist[onnx] to publish one") == 1
