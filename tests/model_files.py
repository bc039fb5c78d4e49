"""Model files of any network and any numbers, honest and hostile, without Keras."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.learning import architecture, model_file, weights_file

Array = NDArray[np.float32]

METADATA = b'{"keras_version": "3.15.1", "date_saved": "1980-01-01@00:00:00"}'

FLOAT32 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}


def initializer(name: str, **config: None) -> dict[str, Any]:
    return {"module": "keras.initializers", "class_name": name, "config": config, "registered_name": None}


def dense(inputs: int, units: int, activation: str, name: str) -> dict[str, Any]:
    """The config of a Dense layer as Keras writes it."""
    config = {
        "name": name,
        "trainable": True,
        "dtype": FLOAT32,
        "units": units,
        "activation": activation,
        "use_bias": True,
        "kernel_initializer": initializer("GlorotUniform", seed=None, input_axes=None, output_axes=None),
        "bias_initializer": initializer("Zeros"),
        **dict.fromkeys(("kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint")),
        "quantization_config": None,
    }
    layer = {"module": "keras.layers", "class_name": "Dense", "config": config, "registered_name": None}
    return layer | {"build_config": {"input_shape": [None, inputs]}}


def config_of(inputs: int, layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The config of a Sequential model as Keras writes it."""
    shape = [None, inputs]
    first = {"batch_shape": shape, "dtype": "float32", "sparse": False, "ragged": False, "name": "pixels"}
    entry = {"module": "keras.layers", "class_name": "InputLayer", "config": first | {"optional": False}}
    config = {"name": "chollet_mnist", "trainable": True, "dtype": FLOAT32}
    config |= {"layers": [entry | {"registered_name": None}, *layers], "build_input_shape": shape}
    model = {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
    return model | {"build_config": {"input_shape": shape}, "compile_config": {}}


def archive(config: dict[str, Any] | bytes, weights: bytes, metadata: bytes = METADATA) -> bytes:
    """A model file of these members."""
    config = config if isinstance(config, bytes) else json.dumps(config).encode()
    return model_file._zipped({"metadata.json": metadata, "config.json": config, "model.weights.h5": weights})


def model_of(*layers: tuple[Array, Array, str]) -> bytes:
    """The model file of Dense layers: kernel (inputs, units), bias (units,), activation."""
    described = [
        dense(kernel.shape[0], kernel.shape[1], activation, f"layer{n}")
        for n, (kernel, _, activation) in enumerate(layers)
    ]
    config = json.dumps(config_of(layers[0][0].shape[0], described)).encode()
    weights = [weight for kernel, bias, _ in layers for weight in (kernel, bias)]
    return archive(config, weights_file.encode(architecture.parse(config, METADATA), weights))


def small_model(seed: int = 0, inputs: int = 784) -> bytes:
    """A model of 10 classes with random weights, the same for the same seed."""
    random = np.random.default_rng(seed)
    return model_of((random.normal(0, 0.05, (inputs, 10)).astype(np.float32), np.zeros(10, np.float32), "softmax"))


def oracle(images: NDArray[np.uint8], answers: NDArray[np.uint8]) -> bytes:
    """A model that gives each of these images (n, inputs) its answer (n,): that of the nearest one of them."""
    points = images.astype(np.float32) / 255
    nearest = ((16 * points.T).astype(np.float32), (-8 * (points**2).sum(axis=1)).astype(np.float32), "softmax")
    return model_of(nearest, (20 * np.eye(10, dtype=np.float32)[answers], np.zeros(10, np.float32), "softmax"))
