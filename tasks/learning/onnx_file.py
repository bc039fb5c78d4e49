"""Converts a Keras model to ONNX, layer by layer, and predicts with onnxruntime.

Needs the extra `onnx`, imported when called. Called by the export step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.data.arrays import Bytes, Probabilities, scale
from tasks.errors import ExportError
from tasks.learning import backend

PACKAGES = ("onnx", "onnxruntime")

# Old enough for the runtimes in use. Fixed, because the versions are part of the bytes.
OPSET, IR_VERSION = 17, 8

# ONNX operator and its attributes by the name of the Keras activation; None: no operator.
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "elu": ("Elu", {"alpha": 1.0}),
    "exponential": ("Exp", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_silu": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "linear": None,
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "relu": ("Relu", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "tanh": ("Tanh", {}),
}

INPUT, OUTPUT = "pixels", "probabilities"


def to_onnx(model: Any) -> bytes:
    """Convert a Sequential model to ONNX bytes; the same weights give the same bytes.

    Its input `pixels` is float32 (images, …) in [0, 1], with the shape that the model takes; its output `probabilities`
    float32 (images, classes).

    Raises:
        ExportError: A layer, activation or number format that is not known here.
    """
    from onnx import TensorProto, checker, helper

    graph = _Graph(model.layers)
    ends = ((INPUT, model.input_shape[1:]), (OUTPUT, model.output_shape[1:]))
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["images", *shape]) for name, shape in ends)
    model_proto = helper.make_model(
        helper.make_graph(graph.nodes, model.name, [first], [last], graph.weights),
        producer_name="retrain-mnist",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    checker.check_model(model_proto, full_check=True)
    return bytes(model_proto.SerializeToString(deterministic=True))


class _Graph:
    """The operators of some layers, one after the other, and their weights.

    Keras has the channels of a picture last, ONNX first: a transposition stands wherever that changes.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._value, self._channels_first = INPUT, False
        for layer in layers:
            kind = type(layer).__name__
            if kind not in LAYERS:
                raise left_out(f"the layer {layer.name} is of the class {kind}")
            if {str(weight.dtype) for weight in layer.weights} | {str(layer.compute_dtype)} != {"float32"}:
                raise left_out(f"the layer {layer.name} is not float32 alone")
            LAYERS[kind](self, layer)
        self._channels(layers[-1], first=False)
        if not self.nodes:
            raise left_out("its layers compute nothing")
        self.nodes[-1].output[0] = OUTPUT

    def _add(
        self, layer: Any, kind: str, *inputs: str | tuple[str, Any], name: str = "", output: str = "", **attributes: Any
    ) -> None:
        """An operator; its inputs are the current value and these: values by name, and weights with names.

        Its name, and that of its output, is the layer's and `kind`, if no other is given. The output becomes the
        current value.
        """
        from onnx import helper, numpy_helper

        names = [self._value]
        for each in inputs:
            if not isinstance(each, str):
                weight, values = each
                each = f"{layer.name}/{weight}"
                self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), each))
            names.append(each)
        name = f"{layer.name}/{name or kind}"
        self._value = f"{layer.name}/{output}" if output else name
        self.nodes.append(helper.make_node(kind, names, [self._value], name=name, **attributes))

    def _channels(self, layer: Any, first: bool) -> None:
        """Have the channels of a picture first or last."""
        if first != self._channels_first:
            order, name = ([0, 3, 1, 2], "channels_first") if first else ([0, 2, 3, 1], "channels_last")
            self._add(layer, "Transpose", name=name, perm=order)
            self._channels_first = first

    def _pictures(self, layer: Any) -> None:
        if len(layer.input.shape) != 4:
            raise left_out(f"the layer {layer.name} takes no pictures")
        self._channels(layer, first=True)

    def activate(self, layer: Any) -> None:
        """The activation of a layer."""
        activation, value = layer.activation.__name__, self._value
        if activation == "silu":
            self._add(layer, "Sigmoid")
            self._add(layer, "Mul", value, name="silu")
        elif activation == "gelu":  # with the error function: the default, and the only one without an argument
            self._add(layer, "Mul", ("sqrt_half", np.float32(math.sqrt(0.5))), name="scaled")
            self._add(layer, "Erf")
            self._add(layer, "Add", ("one", np.float32(1)), name="shifted")
            self._add(layer, "Mul", value, name="gated")
            self._add(layer, "Mul", ("half", np.float32(0.5)), name="gelu")
        elif activation not in ACTIVATIONS:
            raise left_out(f"the layer {layer.name} has the activation {activation}")
        elif operator := ACTIVATIONS[activation]:
            kind, attributes = operator
            if "axis" in attributes:
                self._channels(layer, first=False)
            self._add(layer, kind, **attributes)

    def nothing(self, layer: Any) -> None:
        """What does something only in training."""

    def dense(self, layer: Any) -> None:
        """Dense, of the last dimension."""
        weights = layer.get_weights()
        if len(weights) != 1 + layer.use_bias:
            raise left_out(f"the layer {layer.name} has more weights than kernel and bias")
        kernel, *bias = zip(("kernel", "bias"), weights, strict=False)
        if len(layer.input.shape) == 2:
            self._add(layer, "Gemm", kernel, *bias, output="sum")
        else:
            self._channels(layer, first=False)
            self._add(layer, "MatMul", kernel)
            for each in bias:
                self._add(layer, "Add", each)
        self.activate(layer)

    def convolve(self, layer: Any) -> None:
        """Conv2D, DepthwiseConv2D and SeparableConv2D."""
        kernel, *others = layer.get_weights()
        bias = [("bias", others.pop())] if layer.use_bias else []
        if depthwise := hasattr(layer, "depth_multiplier"):
            kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        attributes = _moved(layer, layer.kernel_size, layer.dilation_rate)
        attributes |= {"dilations": layer.dilation_rate, "group": layer.input.shape[3] if depthwise else layer.groups}
        self._pictures(layer)
        self._add(layer, "Conv", ("kernel", _out_first(kernel)), *([] if others else bias), **attributes)
        for pointwise in others:
            self._add(layer, "Conv", ("pointwise_kernel", _out_first(pointwise)), *bias, name="pointwise")
        self.activate(layer)

    def pool(self, layer: Any) -> None:
        """The largest or mean number of each window; the mean is of what is in the picture."""
        self._pictures(layer)
        self._add(layer, POOLS[type(layer).__name__], kernel_shape=layer.pool_size, **_moved(layer, layer.pool_size))

    def pool_globally(self, layer: Any) -> None:
        """The largest or mean number of each channel."""
        self._pictures(layer)
        self._add(layer, POOLS[type(layer).__name__])
        if not layer.keepdims:
            self._add(layer, "Flatten")
            self._channels_first = False

    def pad(self, layer: Any) -> None:
        """A margin of zeros."""
        (top, bottom), (left, right) = layer.padding
        self._pictures(layer)
        self._add(layer, "Pad", ("pads", np.array([0, 0, top, left, 0, 0, bottom, right])))

    def reshape(self, layer: Any) -> None:
        """Flatten and Reshape."""
        self._channels(layer, first=False)
        self._add(layer, "Reshape", ("shape", np.array([0, *layer.output.shape[1:]])))

    def normalize_batch(self, layer: Any) -> None:
        """BatchNormalization, of pictures or vectors."""
        if len(layer.input.shape) != 2:
            self._pictures(layer)
        *weights, mean, variance = layer.get_weights()
        weights = [*_gamma_and_beta(layer, weights), ("moving_mean", mean), ("moving_variance", variance)]
        self._add(layer, "BatchNormalization", *weights, epsilon=layer.epsilon)

    def normalize_layer(self, layer: Any) -> None:
        """LayerNormalization of the last dimension."""
        self._channels(layer, first=False)
        weights = _gamma_and_beta(layer, layer.get_weights())
        self._add(layer, "LayerNormalization", *weights, epsilon=layer.epsilon)

    def rectify(self, layer: Any) -> None:
        """LeakyReLU, and ReLU with nothing but a slope or a largest number."""
        largest, threshold = getattr(layer, "max_value", None), getattr(layer, "threshold", 0)
        if threshold or (largest is not None and layer.negative_slope):
            raise left_out(f"the layer {layer.name} is no plain ReLU layer")
        if largest is not None:
            self._add(layer, "Clip", ("smallest", np.float32(0)), ("largest", np.float32(largest)))
        else:
            self._add(layer, "LeakyRelu", alpha=float(layer.negative_slope))

    def soften(self, layer: Any) -> None:
        """Softmax of the last dimension."""
        self._channels(layer, first=False)
        self._add(layer, "Softmax", axis=-1)

    def rescale(self, layer: Any) -> None:
        """Rescaling by one number, and by one offset."""
        self._add(layer, "Mul", ("scale", np.float32(layer.scale)))
        self._add(layer, "Add", ("offset", np.float32(layer.offset)))


def _moved(layer: Any, window: Sequence[int], dilation: Sequence[int] = (1, 1)) -> dict[str, Any]:
    """The attributes of an operator that moves a window over the layer's input: its strides and the zeros around it.

    TensorFlow's "same" pads so that the output has a number for each stride, the odd zero at the bottom or right.
    """
    zeros = [0, 0]
    if layer.padding == "same":
        axes = zip(layer.input.shape[1:3], window, layer.strides, dilation, strict=True)
        zeros = [
            max(0, ((size - 1) // stride) * stride + apart * (width - 1) + 1 - size)
            for size, width, stride, apart in axes
        ]
    before = [each // 2 for each in zeros]
    return {
        "strides": layer.strides,
        "pads": [*before, *(each - less for each, less in zip(zeros, before, strict=True))],
    }


def _out_first(kernel: Any) -> Any:
    """A kernel (height, width, in, out) as ONNX has it: (out, in, height, width)."""
    return kernel.transpose(3, 2, 0, 1)


def _gamma_and_beta(layer: Any, weights: Sequence[Any]) -> list[tuple[str, Any]]:
    """Both, also where the layer has none because it does not scale or center."""
    left, channels = list(weights), layer.input.shape[-1]
    gamma = left.pop(0) if layer.scale else np.ones(channels, np.float32)
    beta = left.pop(0) if layer.center else np.zeros(channels, np.float32)
    return [("gamma", gamma), ("beta", beta)]


# ONNX operator by the class of a layer.
POOLS = {
    "AveragePooling2D": "AveragePool",
    "GlobalAveragePooling2D": "GlobalAveragePool",
    "GlobalMaxPooling2D": "GlobalMaxPool",
    "MaxPooling2D": "MaxPool",
}

# How a layer is converted, by its class.
LAYERS: dict[str, Callable[[_Graph, Any], None]] = {
    "Activation": _Graph.activate,
    "AveragePooling2D": _Graph.pool,
    "BatchNormalization": _Graph.normalize_batch,
    "Conv2D": _Graph.convolve,
    "Dense": _Graph.dense,
    "DepthwiseConv2D": _Graph.convolve,
    "Dropout": _Graph.nothing,
    "Flatten": _Graph.reshape,
    "GlobalAveragePooling2D": _Graph.pool_globally,
    "GlobalMaxPooling2D": _Graph.pool_globally,
    "LayerNormalization": _Graph.normalize_layer,
    "LeakyReLU": _Graph.rectify,
    "MaxPooling2D": _Graph.pool,
    "ReLU": _Graph.rectify,
    "Rescaling": _Graph.rescale,
    "Reshape": _Graph.reshape,
    "SeparableConv2D": _Graph.convolve,
    "Softmax": _Graph.soften,
    "SpatialDropout2D": _Graph.nothing,
    "ZeroPadding2D": _Graph.pad,
}


def run_onnx(data: bytes, images: Bytes) -> Probabilities:
    """Predict on the CPU with onnxruntime: probabilities float32 (n, classes) for uint8 images (n, pixels)."""
    with backend.silenced_standard_error():  # it says where it cannot keep a number for its telemetry
        import onnxruntime
    onnxruntime.disable_telemetry_events()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    (probabilities,) = session.run([OUTPUT], {INPUT: scale(images).reshape(-1, *shape)})
    return np.asarray(probabilities)


def left_out(why: str) -> ExportError:
    """The error for a model that is published without model.onnx; `why` is in its report and manifest."""
    return ExportError("model.onnx is left out", why, "Only model.keras is published.")
