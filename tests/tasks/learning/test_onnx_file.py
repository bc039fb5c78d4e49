from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import export
from tasks.caching.steps import Run
from tasks.data.arrays import Bytes
from tasks.errors import ExportError
from tasks.export import compare, export_candidate, with_classes
from tasks.learning import model_file
from tasks.learning.network import build
from tasks.learning.onnx_file import ACTIVATIONS, run_onnx, to_onnx
from tasks.learning.predictions import predict
from tasks.registry.documents import sha256
from tests.tasks.learning.test_layers import EXAMPLES, SHAPE, convolutional
from tests.tasks.learning.test_layers import network as picture_network
from tests.tasks.learning.test_metrics import network
from tests.tasks.report.examples import example

IMAGES: Bytes = np.random.default_rng(0).integers(0, 256, (50, 784), np.uint8)
PICTURES = IMAGES[:, : 7 * 6 * 4]


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


def test_it_names_the_classes_and_predicts_the_same() -> None:
    import onnxruntime

    data = to_onnx(model_file.load(model_file.to_bytes(network())))
    names = ("naïve \U0001fae0", '"', *map(str, range(8)))
    named = with_classes(data, names)
    assert named == with_classes(data, names)
    session = onnxruntime.InferenceSession(named, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(names)
    np.testing.assert_array_equal(run_onnx(named, IMAGES), run_onnx(data, IMAGES))


@pytest.mark.parametrize("activation", ["gelu", "silu", *sorted(ACTIVATIONS)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_every_activation_that_is_known_is_written_as_keras_computes_it(activation: str, use_bias: bool) -> None:
    model = layers(
        dense(30, activation=activation, use_bias=use_bias, bias_initializer="ones", name="a"),
        dense(7, name="b"),
        dense(10, activation="softmax", name="c"),
    )
    predicted = run_onnx(to_onnx(model), IMAGES)
    np.testing.assert_allclose(predicted, model.predict(IMAGES / np.float32(255), verbose=0), atol=1e-5)


def test_the_bytes_of_the_default_network_are_those_of_every_version_that_is_published() -> None:
    model = build((28, 28), 10)
    model.set_weights([np.arange(each.shape.num_elements()).reshape(each.shape) / 1e6 for each in model.weights])
    assert sha256(to_onnx(model)) == "e891d9b3032d1c730bc6456368248a919adf90c4088e7e507bc53959cf90348b"


@pytest.mark.parametrize(
    ("kind", "number"),
    [(kind, number) for kind, several in EXAMPLES.items() for number in range(len(several)) if kind != "Activation"],
)
def test_every_layer_of_pictures_is_written_as_keras_computes_it(kind: str, number: int) -> None:
    """On numbers from -1 to 1; a convolution follows, so that the channels have to be where they belong."""
    import keras

    arguments = EXAMPLES[kind][number]
    if arguments.get("threshold"):
        return
    layer = getattr(keras.layers, kind)(**arguments, name="a")
    signed, row = keras.layers.Rescaling(2, offset=-1, name="signed"), keras.layers.Reshape((1, 1, -1), name="row")
    after = [keras.layers.Conv2D(4, 1, name="mixed"), keras.layers.Flatten(name="flat")]
    model = picture_network(signed, layer, row, *after)
    images = PICTURES.reshape(-1, *model.input_shape[1:]) / np.float32(255)
    expected = model.predict_on_batch(images)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(run_onnx(to_onnx(model), PICTURES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D"])
def test_windows_are_padded_where_tensorflow_pads_them(kind: str, size: int) -> None:
    import keras

    pools = kind.endswith("Pooling2D")
    for window in {1, 2, 3} & set(range(1, 2 * size + 2)):
        for stride in (1, 2, 3):
            sizes = {"pool_size": window} if pools else {"kernel_size": (window, 1)}
            some = {"filters": 3} if kind == "Conv2D" else {}
            layer = getattr(keras.layers, kind)(**sizes, **some, strides=stride, padding="same", name="a")
            model = picture_network(layer, keras.layers.Flatten(name="b"), shape=(size, size, 2))
            flat = PICTURES[:, : size * size * 2]
            expected = model.predict_on_batch(flat.reshape(-1, size, size, 2) / np.float32(255))
            np.testing.assert_allclose(run_onnx(to_onnx(model), flat), expected, rtol=1e-4, atol=1e-5)


def test_a_small_network_for_pictures_is_written_as_keras_computes_it() -> None:
    saved = model_file.to_bytes(convolutional())
    data = to_onnx(model_file.load(saved))
    assert data == to_onnx(model_file.load(saved))
    images = PICTURES.reshape(-1, *SHAPE) / np.float32(255)
    assert compare(run_onnx(data, PICTURES), model_file.load(saved).predict_on_batch(images)) < 1e-5


def test_whatever_else_is_refused_by_name() -> None:
    import keras

    for unsupported, why in (
        ([dense(3, activation="mish", name="a")], "the layer a has the activation mish"),
        ([dense(3, dtype="mixed_bfloat16", name="a")], "the layer a is not float32 alone"),
        ([dense(3, dtype="float64", name="a")], "the layer a is not float32 alone"),
        ([keras.layers.GaussianNoise(0.5, name="a"), dense(3)], "the layer a is of the class GaussianNoise"),
        ([keras.layers.ReLU(threshold=1, name="a")], "the layer a is no plain ReLU layer"),
        ([keras.layers.ReLU(max_value=1, negative_slope=1, name="a")], "the layer a is no plain ReLU layer"),
        ([keras.layers.Reshape((28, 28)), keras.layers.BatchNormalization(name="a")], "the layer a takes no pictures"),
        ([keras.layers.Dropout(0.5, name="a")], "its layers compute nothing"),
    ):
        with pytest.raises(ExportError, match=why):
            to_onnx(layers(*unsupported))
    with pytest.raises(ExportError, match="the layer a has more weights than kernel and bias"):
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
    assert caplog.text.count("pip install -e '.[onnx]' in the checkout adds it") == 1
    assert [record.levelname for record in caplog.records] == ["INFO"]
