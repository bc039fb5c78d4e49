"""Converts a Keras model to ONNX, layer by layer, and predicts with onnxruntime.

Needs the extra `onnx`, imported when called. Called by the export step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.data.arrays import Bytes, Probabilities, scale
from tasks.errors import ExportError

PACKAGES = ("onnx", "onnxruntime")

# Old enough for the runtimes in use. Fixed, because the versions are part of the bytes.
OPSET, IR_VERSION = 17, 8

# ONNX operator and its attributes by the name of the Keras activation; None: no operator.
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "linear": None,
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "tanh": ("Tanh", {}),
}

INPUT, OUTPUT = "pixels", "probabilities"


def to_onnx(model: Any) -> bytes:
    """Convert a Sequential model of Dense layers to ONNX bytes; the same weights give the same bytes.

    Its input `pixels` is float32 (images, inputs) in [0, 1], its output `probabilities` float32 (images, classes).

    Raises:
        ExportError: Another layer, activation or number format.
    """
    from onnx import TensorProto, checker, helper

    nodes: list[Any] = []
    weights: list[Any] = []
    value = INPUT
    for layer in model.layers:
        operators, initializers = _dense(layer, value)
        nodes += operators
        weights += initializers
        value = operators[-1].output[0]
    nodes[-1].output[0] = OUTPUT
    ends = ((INPUT, model.input_shape[1:]), (OUTPUT, model.output_shape[1:]))
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["images", *shape]) for name, shape in ends)
    graph = helper.make_graph(nodes, model.name, [first], [last], weights)
    model_proto = helper.make_model(
        graph,
        producer_name="retrain-mnist",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model_proto, full_check=True)
    return bytes(model_proto.SerializeToString(deterministic=True))


def _dense(layer: Any, value: str) -> tuple[list[Any], list[Any]]:
    """The operators of a layer whose input is `value`, and its weights as initializers."""
    from onnx import helper, numpy_helper

    activation = _activation_of(layer)
    names = [f"{layer.name}/kernel", *([f"{layer.name}/bias"] if layer.use_bias else [])]
    initializers = [
        numpy_helper.from_array(np.asarray(weight), name)
        for name, weight in zip(names, layer.get_weights(), strict=True)
    ]
    nodes = [helper.make_node("Gemm", [value, *names], [f"{layer.name}/sum"], name=f"{layer.name}/Gemm")]
    if activation:
        kind, attributes = activation
        name = f"{layer.name}/{kind}"
        nodes.append(helper.make_node(kind, [f"{layer.name}/sum"], [name], name=name, **attributes))
    return nodes, initializers


def _activation_of(layer: Any) -> tuple[str, dict[str, Any]] | None:
    """The activation as an operator. Raises ExportError for a layer that is not a plain Dense layer in float32."""
    activation = getattr(getattr(layer, "activation", None), "__name__", "none")
    formats = {str(weight.dtype) for weight in layer.weights} | {str(layer.compute_dtype)}
    if type(layer).__name__ != "Dense" or len(layer.input.shape) != 2:
        raise left_out(f"the layer {layer.name} is no plain Dense layer")
    if formats != {"float32"} or len(layer.weights) != 1 + layer.use_bias:
        raise left_out(f"the layer {layer.name} is not float32 alone")
    if activation not in ACTIVATIONS:
        raise left_out(f"the layer {layer.name} has the activation {activation}")
    return ACTIVATIONS[activation]


def run_onnx(data: bytes, images: Bytes) -> Probabilities:
    """Predict on the CPU with onnxruntime: probabilities float32 (n, classes) for uint8 images (n, 784)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run([OUTPUT], {INPUT: scale(images)})
    return np.asarray(probabilities)


def left_out(why: str) -> ExportError:
    """The error for a model that is published without model.onnx; `why` is in its report and manifest."""
    return ExportError("model.onnx is left out", why, "Only model.keras is published.")
