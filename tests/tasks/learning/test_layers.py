"""The layers that a model file may hold: each as Keras writes and reads it, and nothing else."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ModelFileError
from tasks.learning import layers, model_file
from tests.model_files import archive
from tests.tasks.learning.test_model_file import JSON, MISSING, Path_, places

ROOT = Path(__file__).parents[3]
KINDS = [
    kind
    for each in get_args(get_args(layers.Layer)[0])
    for kind in get_args(each.model_fields["class_name"].annotation)
]

# Of Keras' layers by class, with the arguments of one or more layers in a row. The input is a picture of (7, 6, 4).
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "Activation": [{"activation": name} for name in get_args(layers.ActivationName)],
    "AveragePooling2D": [{"pool_size": 2, "padding": "same"}, {"pool_size": (3, 2), "strides": 1}],
    "BatchNormalization": [{}, {"scale": False, "trainable": False}, {"center": False, "beta_regularizer": "l1"}],
    "Conv2D": [
        {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2, "activation": "relu", "groups": 2},
        {"filters": 5, "kernel_size": (2, 3), "dilation_rate": (2, 1), "use_bias": False, "padding": "same"},
        {"filters": 3, "kernel_size": (3, 1), "kernel_initializer": "he_normal", "kernel_regularizer": "l2"},
    ],
    "Dense": [
        {"units": 5, "kernel_initializer": "random_uniform", "bias_initializer": "ones", "bias_regularizer": "L1L2"},
        {"units": 3, "use_bias": False, "kernel_initializer": "truncated_normal"},
    ],
    "DepthwiseConv2D": [
        {"kernel_size": 3, "depth_multiplier": 2, "strides": 2, "padding": "same"},
        {"kernel_size": (1, 2), "dilation_rate": (1, 2), "use_bias": False, "activation": "gelu"},
    ],
    "Dropout": [{"rate": 0.5}, {"rate": 0, "seed": 3}],
    "Flatten": [{}, {}],
    "GlobalAveragePooling2D": [{"keepdims": True}, {}],
    "GlobalMaxPooling2D": [{"keepdims": True}, {}],
    "LayerNormalization": [{}, {"scale": False}, {"center": False}],
    "LeakyReLU": [{}, {"negative_slope": 1}],
    "MaxPooling2D": [{"padding": "same", "strides": (1, 2)}, {"pool_size": 3}],
    "ReLU": [{}, {"negative_slope": 0.1, "threshold": 0.2}, {"max_value": 0.5}],
    "Rescaling": [{"scale": 2}, {"scale": 0.5, "offset": -1}],
    "Reshape": [{"target_shape": (14, 12)}, {"target_shape": (-1,)}, {"target_shape": (2, -1, 3)}],
    "SeparableConv2D": [
        {"filters": 5, "kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        {"filters": 3, "kernel_size": 2, "use_bias": False, "strides": 2, "activation": "silu"},
    ],
    "Softmax": [{}, {}],
    "SpatialDropout2D": [{"rate": 0.5}, {"rate": 0.1, "seed": 3}],
    "ZeroPadding2D": [{"padding": ((1, 0), (2, 3))}, {"padding": 1}],
}  # fmt: skip
SHAPE = (7, 6, 4)
IMAGES = np.random.default_rng(0).random((3, *SHAPE), np.float32)


def network(*hidden: Any, shape: tuple[int, ...] = SHAPE) -> Any:
    """A model of these layers with random weights; a variance is positive."""
    import keras

    model = keras.Sequential([keras.Input(shape, name="pixels"), *hidden], name="some")
    random = np.random.default_rng(1)
    weights = [random.uniform(-1, 1, weight.shape).astype(np.float32) for weight in model.weights]
    positive = [weight.path.endswith("variance") for weight in model.weights]
    model.set_weights([abs(values) + 0.1 if each else values for values, each in zip(weights, positive, strict=True)])
    return model


def example(kind: str) -> Any:
    import keras

    return network(*(getattr(keras.layers, kind)(**each, name=f"a{n}") for n, each in enumerate(EXAMPLES[kind])))


def convolutional() -> Any:
    """A small network for pictures, as users build them."""
    import keras

    l = keras.layers  # noqa: E741
    return network(
        l.Rescaling(2.0, offset=-1.0, name="scaled"),
        l.Conv2D(6, 3, padding="same", activation="relu", name="conv"),
        l.BatchNormalization(name="norm"),
        l.MaxPooling2D(name="pool"),
        l.SpatialDropout2D(0.2, name="drop"),
        l.Conv2D(4, 2, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-4), name="conv2"),
        l.ReLU(name="relu"),
        l.Flatten(name="flat"),
        l.Dropout(0.5, seed=7, name="drop2"),
        l.Dense(3, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(0, 0.1), name="digit"),
    )


@pytest.fixture(scope="module")
def predicted_by_keras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Keras alone, in a process of its own, predicts with each file."""
    folder = tmp_path_factory.mktemp("keras")
    for kind in ("", *EXAMPLES):
        (folder / f"_{kind}.keras").write_bytes(written(kind))
    np.save(folder / "images.npy", IMAGES)
    code = (
        "import keras, numpy as np; from pathlib import Path; images = np.load('images.npy'); predicted = {path.stem: "
        "keras.saving.load_model(path).predict_on_batch(images) for path in Path().glob('*.keras')}; "
        "np.savez('predicted.npz', **predicted)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    with np.load(folder / "predicted.npz") as predicted:
        return {name[1:]: predicted[name] for name in predicted}


def test_each_layer_has_an_example_and_stands_in_the_readme() -> None:
    assert sorted(["InputLayer", *EXAMPLES]) == sorted(KINDS)
    readme = (ROOT / "tasks/learning/README.md").read_text()
    (listed,) = re.findall(r"<!-- layers -->\n(.*?)\n\n", readme, re.DOTALL)
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(KINDS)


@pytest.mark.parametrize("kind", ["", *EXAMPLES])
def test_a_loaded_file_is_the_same_model(kind: str, predicted_by_keras: dict[str, Any]) -> None:
    model = example(kind) if kind else convolutional()
    loaded = model_file.load(written(kind))
    assert model_file.to_bytes(loaded) == written(kind) == model_file.to_bytes(model)
    assert model_file.weights_digest(loaded) == model_file.weights_digest(model_file.load(written(kind)))
    expected = model.predict_on_batch(IMAGES)
    assert np.isfinite(expected).all()
    assert np.array_equal(loaded.predict_on_batch(IMAGES), expected)
    assert np.array_equal(predicted_by_keras[kind], expected)


@pytest.mark.parametrize("kind", ["", *EXAMPLES])
def test_the_file_is_the_one_that_keras_writes(kind: str, tmp_path: Path) -> None:
    model_file.load(written(kind)).save(tmp_path / "model.keras")
    (tmp_path / "ours.keras").write_bytes(written(kind))
    with zipfile.ZipFile(tmp_path / "model.keras") as theirs, zipfile.ZipFile(tmp_path / "ours.keras") as ours:
        for name in ("config.json", "model.weights.h5"):
            assert theirs.read(name) == ours.read(name)


def test_every_initializer_and_activation_is_written_as_keras_writes_it() -> None:
    import keras

    names = [
        n
        for each in get_args(get_args(layers.Initializer)[0])
        for n in get_args(each.model_fields["class_name"].annotation)
    ]
    assert len(names) == 12
    for n, name in enumerate(names):
        seed = {"seed": 5} if n % 2 and name not in {"Zeros", "Ones", "Constant"} else {}
        dense = keras.layers.Dense(2, kernel_initializer=getattr(keras.initializers, name)(**seed), name="a")
        data = model_file.to_bytes(network(dense, shape=(3,)))
        assert model_file.to_bytes(model_file.load(data)) == data


def test_what_is_not_trained_is_in_file_and_digest() -> None:
    """The moving mean and variance of BatchNormalization, also where the layer is frozen."""
    model = example("BatchNormalization")
    data, digest = model_file.to_bytes(model), model_file.weights_digest(model)
    for variable in model.non_trainable_variables:
        before = variable.numpy()
        variable.assign(before + 1)
        assert model_file.weights_digest(model) != digest
        assert not model_file.same_weights(model_file.to_bytes(model), data)
        variable.assign(before)
    assert len(model.non_trainable_variables) == 7
    assert (model_file.to_bytes(model), model_file.weights_digest(model)) == (data, digest)


def test_a_file_does_not_depend_on_the_state_of_a_random_generator() -> None:
    model = convolutional()
    data, weights = model_file.to_bytes(model), model.get_weights()
    states = [variable.numpy() for variable in model.variables if "seed_generator" in variable.path]
    model(IMAGES, training=True)
    model.set_weights(weights)  # it has moved mean and variance
    after = [variable.numpy() for variable in model.variables if "seed_generator" in variable.path]
    assert len(states) == 2
    assert not np.array_equal(states, after)
    assert model_file.to_bytes(model) == data


def test_a_network_of_many_layers_has_the_layout_of_keras(tmp_path: Path) -> None:
    import keras

    kinds = [keras.layers.ReLU, lambda **named: keras.layers.Dense(2, **named), keras.layers.Dropout]
    model = network(
        *(kinds[n % 3](**({"rate": 0.1} if n % 3 == 2 else {}), name=f"a{n}") for n in range(63)), shape=(2,)
    )
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as theirs:
        weights = theirs.read("model.weights.h5")
    data = model_file.to_bytes(model)
    assert model_file._unzipped(data)["model.weights.h5"] == weights
    model_file.check(data)


def other_classes() -> list[str]:
    import keras

    classes = {name: each for name, each in vars(keras.layers).items() if inspect.isclass(each)}
    return sorted(name for name, each in classes.items() if name not in KINDS)


def test_every_other_class_of_keras_is_refused() -> None:
    """Also other names of the accepted ones, which Keras never writes."""
    others = other_classes()
    assert len(others) > 100
    for name in [*others, "Sequential", "Functional", "Custom>Dense"]:
        config, weights = described("")
        config["config"]["layers"][2]["class_name"] = name
        with pytest.raises(ModelFileError) as error:
            model_file.check(archive(config, weights))
        assert f"its config.json holds the class {name}, which is not known to be harmless" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_model_that_is_not_sequential_is_not_written() -> None:
    import keras

    inputs = keras.Input((3,))
    one = keras.layers.Dense(3, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Add(name="sum")([one, inputs]))
    with pytest.raises(ModelFileError, match="Functional"):
        model_file.to_bytes(model)


@cache
def written(kind: str) -> bytes:
    """The model file of an example, or (without a class) of the small network."""
    return model_file.to_bytes(example(kind) if kind else convolutional())


def described(kind: str) -> tuple[dict[str, Any], bytes]:
    """The config of an example, to be altered, and its weights."""
    members = model_file._unzipped(written(kind))
    return json.loads(members["config.json"]), members["model.weights.h5"]


def altered(kind: str, path: Path_, value: Any) -> bytes:
    """An example with one value of its config set, or (MISSING) left out."""
    config, weights = described(kind)
    *parents, last = path
    target: Any = config
    for step in parents:
        target = target[step]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return archive(config, weights)


NOT_KNOWN = "is not the description of a known network"


@pytest.mark.parametrize(
    ("kind", "layer", "argument", "value", "why"),
    [
        ("Conv2D", 1, "filters", 3_000_000, "a0 gives more than 16,777,216 numbers per image"),
        ("Conv2D", 1, "filters", 0, NOT_KNOWN),
        ("Conv2D", 1, "filters", 7, "a0 has groups of different sizes"),
        ("Conv2D", 1, "groups", 3, "a0 has groups of different sizes"),
        ("Conv2D", 1, "groups", 0, NOT_KNOWN),
        ("Conv2D", 1, "kernel_size", [10**9, 3], NOT_KNOWN),
        ("Conv2D", 1, "kernel_size", [10**5, 3], "a0 has a window that is larger than the picture"),
        ("Conv2D", 1, "kernel_size", [3], NOT_KNOWN),
        ("Conv2D", 1, "kernel_size", [3, 3, 3], NOT_KNOWN),
        ("Conv2D", 1, "kernel_size", [3.0, 3], NOT_KNOWN),
        ("Conv2D", 1, "kernel_size", [-3, 3], NOT_KNOWN),
        ("Conv2D", 1, "strides", [0, 2], NOT_KNOWN),
        ("Conv2D", 1, "dilation_rate", [2, 1], "a0 has strides and a dilation"),
        ("Conv2D", 1, "data_format", "channels_first", NOT_KNOWN),
        ("Conv2D", 1, "padding", "causal", NOT_KNOWN),
        ("Conv2D", 1, "activity_regularizer", "l2", NOT_KNOWN),
        ("Conv2D", 2, "dilation_rate", [10**6, 1], "a1 has a window that is larger than the picture"),
        ("Conv2D", 3, "kernel_size", [5, 1], "a2 has a window that is larger than the picture"),
        ("Conv2D", 3, "kernel_regularizer", {"l2": 1}, NOT_KNOWN),
        ("Dense", 0, "sparse", 0, "is not written as Keras writes it"),
        ("Softmax", 1, "axis", -1.0, "is not written as Keras writes it|" + NOT_KNOWN),
        ("DepthwiseConv2D", 1, "strides", [2, 1], "a0 has two strides"),
        ("DepthwiseConv2D", 1, "depth_multiplier", 10**7, "a0 gives more than 16,777,216 numbers"),
        ("SeparableConv2D", 1, "depth_multiplier", 10**7, "a0 gives more than 16,777,216 numbers"),
        ("SeparableConv2D", 1, "depth_multiplier", 3, "its weights have not the size|are not laid out"),
        ("MaxPooling2D", 1, "pool_size", [10**9, 1], NOT_KNOWN),
        ("MaxPooling2D", 1, "pool_size", [100, 1], "a0 has a window that is larger than the picture"),
        ("MaxPooling2D", 1, "strides", None, NOT_KNOWN),
        ("ZeroPadding2D", 1, "padding", [[-1, 0], [0, 0]], NOT_KNOWN),
        ("ZeroPadding2D", 1, "padding", [[10**7, 0], [0, 0]], "a0 gives more than 16,777,216 numbers"),
        ("ZeroPadding2D", 1, "padding", [[2, 0], [2, 3]], "a1 does not take what the layer before it gives"),
        ("Reshape", 1, "target_shape", [14, 13], "a0 has another number of numbers than its input"),
        ("Reshape", 1, "target_shape", [14, 6], "a0 has another number of numbers than its input"),
        ("Reshape", 1, "target_shape", [-1, -1], "a0 has another number of numbers than its input"),
        ("Reshape", 1, "target_shape", [-1, 1000], "a0 has another number of numbers than its input"),
        ("Reshape", 1, "target_shape", [14, 12, 1, 1], NOT_KNOWN),
        ("Reshape", 1, "target_shape", [], NOT_KNOWN),
        ("Reshape", 1, "target_shape", [-2, -84], NOT_KNOWN),
        ("Dropout", 1, "rate", 1.5, NOT_KNOWN),
        ("Dropout", 1, "rate", float("nan"), NOT_KNOWN),
        ("Dropout", 1, "seed", -1, NOT_KNOWN),
        ("Dropout", 1, "seed", 2**31, NOT_KNOWN),
        ("Dropout", 1, "noise_shape", [1], NOT_KNOWN),
        ("Rescaling", 1, "scale", float("inf"), NOT_KNOWN),
        ("Rescaling", 1, "scale", float("nan"), NOT_KNOWN),
        ("Rescaling", 1, "scale", 10**30, NOT_KNOWN),
        ("Rescaling", 1, "scale", [1.0], NOT_KNOWN),
        ("Rescaling", 1, "scale", True, NOT_KNOWN),
        ("BatchNormalization", 1, "axis", 1, NOT_KNOWN),
        ("BatchNormalization", 1, "epsilon", 0, NOT_KNOWN),
        ("BatchNormalization", 1, "renorm", True, NOT_KNOWN),
        ("BatchNormalization", 1, "center", False, "its weights are not laid out"),
        ("LayerNormalization", 1, "axis", [1, 2], NOT_KNOWN),
        ("LayerNormalization", 1, "rms_scaling", True, NOT_KNOWN),
        ("Activation", 1, "activation", "evil", NOT_KNOWN),
        ("LeakyReLU", 1, "negative_slope", -1, NOT_KNOWN),
        ("Softmax", 1, "axis", 0, NOT_KNOWN),
        ("Flatten", 2, "name", "a0", "two layers have the same name"),
        ("Dense", 0, "batch_shape", [None, 2**12, 2**12, 2], "pixels gives more than 16,777,216 numbers"),
        ("Dense", 0, "batch_shape", [None, 2**30, 1, 1], NOT_KNOWN),
        ("Dense", 0, "batch_shape", [None, 7, 6, 4, 1], NOT_KNOWN),
        ("Dense", 0, "batch_shape", [None], NOT_KNOWN),
        ("Dense", 0, "batch_shape", [None, None, 6, 4], NOT_KNOWN),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_is_refused(kind: str, layer: int, argument: str, value: Any, why: str) -> None:
    data = altered(kind, ("config", "layers", layer, "config", argument), value)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=why) as error:
        model_file.check(data)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert len(str(error.value)) < 600


def test_a_layer_for_pictures_takes_nothing_else() -> None:
    for kind in (
        "Conv2D",
        "MaxPooling2D",
        "GlobalMaxPooling2D",
        "SpatialDropout2D",
        "ZeroPadding2D",
        "SeparableConv2D",
    ):
        config, weights = described(kind)
        for place in (config["config"]["layers"][0]["config"], config["config"], config):
            place |= {key: [None, 24] for key in ("batch_shape", "build_input_shape") if key in place}
        config["build_config"]["input_shape"] = [None, 24]
        first = config["config"]["layers"][1]
        if "build_config" in first:
            first["build_config"]["input_shape"] = [None, 24]
        with pytest.raises(ModelFileError, match="a0 takes pictures of height, width and channels"):
            model_file.check(archive(config, weights))


def test_two_thousand_layers_are_refused() -> None:
    config, weights = described("Softmax")
    config["config"]["layers"] += [config["config"]["layers"][1]] * 2000
    with pytest.raises(ModelFileError, match="at most 64 items"):
        model_file.check(archive(config, weights))


SIZES = st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 7, 8, 14, 42, 168, 1000, 3_000_000, 10**9, 2**63])
SCALARS = st.sampled_from([0, -0.5, 0.5, 1, 1.0, 1e-30, 1e30, float("nan"), float("inf"), True, None])
NAMES = st.sampled_from(["valid", "same", "relu", "softmax", "channels_first", "Dropout", "Flatten", "a1"])
VALUES = SIZES | SCALARS | NAMES | st.lists(SIZES, min_size=1, max_size=4) | JSON | st.just(MISSING)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["", *EXAMPLES]), st.data())
def test_whatever_a_config_says_is_refused_or_is_a_file_that_this_project_writes(
    kind: str, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(places(described(kind)[0])[1:]))
    value = data.draw(VALUES)
    tampered = altered(kind, path, value)
    try:
        model_file.check(tampered)
    except ModelFileError:
        return
    loaded = model_file.load(tampered)
    loaded.predict_on_batch(IMAGES)
    if value is not MISSING:
        assert model_file.to_bytes(loaded) == tampered
