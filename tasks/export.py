"""The export step: the trained network as model.onnx, published beside model.keras only where it predicts the same.

The graph is written out layer by layer from the model file that is published, for the layers that `tasks.model_file`
lets in, and refused for anything else; converters of whole TensorFlow graphs (tf2onnx) hold NumPy back. onnxruntime
then predicts every test image with it. Needs the extra `onnx`; without it nothing is exported.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from tasks import model_file
from tasks.arrays import Bytes, Probabilities, from_npy, from_npz, scale
from tasks.caching.keys import installed
from tasks.caching.steps import Run, step
from tasks.errors import ExportError
from tasks.values import Artifact, Examples, Export

LOG = logging.getLogger("retrain.export")

PACKAGES = ("onnx", "onnxruntime")

# Old enough for the runtimes that are in use, and fixed: the versions are part of the bytes.
OPSET, IR_VERSION = 17, 8

# Keras' activations by the name of their function, as ONNX operators with their attributes; None: nothing to compute.
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "linear": None,
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "tanh": ("Tanh", {}),
}

# How far a probability may be from the evaluated one; no image's class may differ.
TOLERANCE = 1e-4

INPUT, OUTPUT = "pixels", "probabilities"


def to_onnx(model: Any) -> bytes:
    """A Sequential model of Dense layers as ONNX bytes; the same weights give the same bytes.

    Its input `pixels` is float32 (images, inputs) in [0, 1], its output `probabilities` float32 (images, classes).

    Raises ExportError for any other layer, activation or number format.
    """
    from onnx import TensorProto, checker, helper

    nodes: list[Any] = []
    weights: list[Any] = []
    value = INPUT
    for layer in model.layers:
        made, held = _dense(layer, value)
        nodes += made
        weights += held
        value = made[-1].output[0]
    nodes[-1].output[0] = OUTPUT
    ends = ((INPUT, model.input_shape[1:]), (OUTPUT, model.output_shape[1:]))
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["images", *shape]) for name, shape in ends)
    graph = helper.make_graph(nodes, model.name, [first], [last], weights)
    made = helper.make_model(
        graph,
        producer_name="retrain-mnist",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def _dense(layer: Any, value: str) -> tuple[list[Any], list[Any]]:
    """The operators of one layer, after `value`, and its weights."""
    from onnx import helper, numpy_helper

    operator = _require_plain(layer)
    names = [f"{layer.name}/kernel", *([f"{layer.name}/bias"] if layer.use_bias else [])]
    held = [
        numpy_helper.from_array(np.asarray(weight), name)
        for name, weight in zip(names, layer.get_weights(), strict=True)
    ]
    nodes = [helper.make_node("Gemm", [value, *names], [f"{layer.name}/sum"], name=f"{layer.name}/Gemm")]
    if operator:
        kind, attributes = operator
        name = f"{layer.name}/{kind}"
        nodes.append(helper.make_node(kind, [f"{layer.name}/sum"], [name], name=name, **attributes))
    return nodes, held


def _require_plain(layer: Any) -> tuple[str, dict[str, Any]] | None:
    """Its activation as an operator. Raises ExportError unless it is a Dense layer that computes in float32."""
    activation = getattr(getattr(layer, "activation", None), "__name__", "none")
    formats = {str(weight.dtype) for weight in layer.weights} | {str(layer.compute_dtype)}
    if type(layer).__name__ != "Dense" or len(layer.input.shape) != 2:
        raise _left_out(f"the layer {layer.name} is no plain Dense layer")
    if formats != {"float32"} or len(layer.weights) != 1 + layer.use_bias:
        raise _left_out(f"the layer {layer.name} is not float32 alone")
    if activation not in ACTIVATIONS:
        raise _left_out(f"the layer {layer.name} has the activation {activation}")
    return ACTIVATIONS[activation]


def run_onnx(data: bytes, images: Bytes) -> Probabilities:
    """What onnxruntime predicts on the CPU for uint8 images (n, 784): float32 (n, classes)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: scale(images)})
    return np.asarray(found)


def compare(found: Probabilities, evaluated: Probabilities) -> float:
    """The largest difference of any probability; ExportError where it is too large or any image's class differs."""
    if found.shape != evaluated.shape:
        raise _left_out(f"it predicts {found.shape} instead of {evaluated.shape}")
    apart = np.abs(found.astype(np.float64) - evaluated).max(axis=1, initial=0.0)
    differs = ~(apart <= TOLERANCE) | (found.argmax(axis=1) != evaluated.argmax(axis=1))
    if differs.any() or not len(evaluated):
        raise _left_out(f"it predicts {int(differs.sum()):,} of {len(evaluated):,} test images differently")
    return float(apart.max())


@step(packages=["keras", "numpy", *PACKAGES, "tensorflow"])
def export(model: Artifact, test: Examples, evaluated: Artifact, run: Run) -> Export:
    """Export the model file, and compare what onnxruntime predicts with the evaluated predictions."""
    published, images = run.artifacts.get(model), from_npy(run.artifacts.get(test.images))
    probabilities, _ = from_npz(run.artifacts.get(evaluated))
    try:
        data = to_onnx(model_file.load(published))
        largest = compare(run_onnx(data, images), probabilities)
    except ExportError:
        raise
    except Exception as error:  # whatever the two packages raise costs this file, not the model
        raise _left_out(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    LOG.info("export: onnxruntime predicts the same, to within %.1g", largest)
    return Export(file=run.artifacts.put(data, "application/onnx"), largest_difference=largest)


def exported(model: Artifact, test: Examples, evaluated: Artifact, run: Run) -> Export:
    """The checked model.onnx, or why there is none; that never stops a publish."""
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        LOG.info("export: no model.onnx, %s is not installed. Install retrain-mnist[onnx] to publish one.", missing[0])
        return Export(left_out=f"{missing[0]} is not installed")
    try:
        return export(model, test, evaluated, run)
    except ExportError as error:
        LOG.warning("export: %s", error)
        return Export(left_out=error.why)


def _left_out(why: str) -> ExportError:
    return ExportError("model.onnx is left out", why, "Only model.keras is published.")
