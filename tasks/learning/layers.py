"""The layers that a model file may hold: Keras' own ones that need no code from the file.

Each is one entry of `Layer` with one class: its arguments with the values that each may have, the shapes of its weights
and the shape of its output. Shapes are those of one image, without the batch. Nothing here allocates what a file names.
Called by `tasks.learning.architecture`; imports neither Prefect nor Keras.
"""

from __future__ import annotations

import math
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

# Numbers in the output of one layer, for one image.
MAX_NUMBERS = 2**24

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Size = Annotated[int, Field(ge=1, le=MAX_NUMBERS)]
Pair = tuple[Size, Size]  # height, width
Margin = Annotated[int, Field(ge=0, le=MAX_NUMBERS)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[int, Field(ge=-1e9, le=1e9)] | Annotated[float, Field(ge=-1e9, le=1e9)]  # kept as it is written
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]

Shape = tuple[int, ...]
BatchShape = tuple[None, Size] | tuple[None, Size, Size] | tuple[None, Size, Size, Size]  # of any number of images

# Of the activations that Keras knows by name, those without state and parameters.
ActivationName = Literal[
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
    "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "tanh",
    "tanh_shrink",
]  # fmt: skip

M = TypeVar("M", bound=str)
N = TypeVar("N", bound=str)
C = TypeVar("C", bound="Described")


class ContradictionError(ValueError):
    """A layer that cannot take its input; the message follows the layer's name."""


class Described(BaseModel):
    """Exactly these keys, and no conversion of values."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Object(Described, Generic[M, N, C]):
    """What Keras builds from the arguments in `config`: a class that it has itself, not a registered one."""

    module: M
    class_name: N
    config: C
    registered_name: None


class Nothing(Described):
    """No key."""


class _Float32(Described):
    name: Literal["float32"]


DType = Object[Literal["keras"], Literal["DTypePolicy"], _Float32]


class _Seeded(Described):
    seed: Seed | None


class _Scaled(_Seeded):
    input_axes: None = None
    output_axes: None = None


class _Normal(_Seeded):
    mean: Number
    stddev: NotNegative


class _Uniform(_Seeded):
    minval: Number
    maxval: Number


class _Constant(Described):
    value: Number


_Initializer = Object[Literal["keras.initializers"], N, C]
Initializer = Annotated[
    _Initializer[Literal["Zeros", "Ones"], Nothing]
    | _Initializer[Literal["Constant"], _Constant]
    | _Initializer[Literal["RandomNormal", "TruncatedNormal"], _Normal]
    | _Initializer[Literal["RandomUniform"], _Uniform]
    | _Initializer[
        Literal["GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform"], _Scaled
    ],
    Field(discriminator="class_name"),
]


class _L1(Described):
    l1: Annotated[float, Field(ge=0, le=1e9)]  # Keras writes no integer


class _L2(Described):
    l2: Annotated[float, Field(ge=0, le=1e9)]


class _L1L2(_L1, _L2):
    pass


_Regularizer = Object[Literal["keras.regularizers"], N, C]
Regularizer = (
    Annotated[
        _Regularizer[Literal["L1"], _L1] | _Regularizer[Literal["L2"], _L2] | _Regularizer[Literal["L1L2"], _L1L2],
        Field(discriminator="class_name"),
    ]
    | None
)


class Arguments(Described):
    """The arguments of a layer. Without weights, and with an output of its input's shape, unless it says otherwise."""

    name: Name

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """The shapes of the weights, in Keras' order, for an input that `output` accepts."""
        return ()

    def output(self, inputs: Shape) -> Shape:
        """The shape of the output. Raises ContradictionError for an input that the layer cannot take."""
        return inputs


class Input(Arguments):
    """The first layer; it takes nothing and gives the images."""

    batch_shape: BatchShape
    dtype: Literal["float32"]
    sparse: Literal[False]
    ragged: Literal[False]
    optional: Literal[False] = False

    def output(self, inputs: Shape) -> Shape:
        """The shape of an image."""
        return self.batch_shape[1:]


class _Usual(Arguments):
    trainable: bool
    dtype: DType


class _Pictures(_Usual):
    data_format: Literal["channels_last"]


class _Bias(_Usual):
    use_bias: bool
    bias_initializer: Initializer
    bias_regularizer: Regularizer
    bias_constraint: None


class _Kernel(_Usual):
    kernel_initializer: Initializer
    kernel_regularizer: Regularizer
    kernel_constraint: None


class Dense(_Kernel, _Bias):
    """Of the last dimension."""

    units: Size
    activation: ActivationName
    quantization_config: None = None

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """Kernel and bias."""
        return ((inputs[-1], self.units), (self.units,))[: 1 + self.use_bias]

    def output(self, inputs: Shape) -> Shape:
        """The last dimension is the number of units."""
        return (*inputs[:-1], self.units)


class _Convolution(_Pictures, _Bias):
    kernel_size: Pair
    strides: Pair
    padding: Literal["valid", "same"]
    dilation_rate: Pair
    activation: ActivationName
    activity_regularizer: None

    def moved(self, inputs: Shape) -> Pair:
        """Height and width of the output."""
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ContradictionError("has strides and a dilation")
        return _moved(inputs, self.kernel_size, self.strides, self.padding, self.dilation_rate)


class Conv2D(_Convolution, _Kernel):
    """Pictures to pictures with one channel per filter."""

    filters: Size
    groups: Size

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """Kernel and bias."""
        kernel = (*self.kernel_size, inputs[-1] // self.groups, self.filters)
        return (kernel, (self.filters,))[: 1 + self.use_bias]

    def output(self, inputs: Shape) -> Shape:
        """Height, width, filters."""
        size = self.moved(inputs)
        if inputs[-1] % self.groups or self.filters % self.groups:
            raise ContradictionError("has groups of different sizes")
        return (*size, self.filters)


class _Depthwise(_Convolution):
    depth_multiplier: Size
    depthwise_initializer: Initializer
    depthwise_regularizer: Regularizer
    depthwise_constraint: None

    def moved(self, inputs: Shape) -> Pair:
        """Height and width of the output."""
        if len(set(self.strides)) > 1:
            raise ContradictionError("has two strides, which TensorFlow has no operation for")
        height, width = super().moved(inputs)
        _require_bounded((height, width, inputs[-1] * self.depth_multiplier))  # for the output of its first half
        return height, width


class DepthwiseConv2D(_Depthwise):
    """Each channel to as many as `depth_multiplier` says."""

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """Kernel and bias."""
        kernel = (*self.kernel_size, inputs[-1], self.depth_multiplier)
        return (kernel, (inputs[-1] * self.depth_multiplier,))[: 1 + self.use_bias]

    def output(self, inputs: Shape) -> Shape:
        """Height, width, channels times the multiplier."""
        return (*self.moved(inputs), inputs[-1] * self.depth_multiplier)


class SeparableConv2D(_Depthwise):
    """A convolution of each channel, then a mixture of the channels."""

    filters: Size
    pointwise_initializer: Initializer
    pointwise_regularizer: Regularizer
    pointwise_constraint: None

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """The two kernels, and the bias."""
        depthwise = (*self.kernel_size, inputs[-1], self.depth_multiplier)
        pointwise = (1, 1, inputs[-1] * self.depth_multiplier, self.filters)
        return (depthwise, pointwise, (self.filters,))[: 2 + self.use_bias]

    def output(self, inputs: Shape) -> Shape:
        """Height, width, filters."""
        return (*self.moved(inputs), self.filters)


class Pooling2D(_Pictures):
    """Largest or mean number of each window."""

    pool_size: Pair
    strides: Pair
    padding: Literal["valid", "same"]

    def output(self, inputs: Shape) -> Shape:
        """Height, width, channels."""
        return (*_moved(inputs, self.pool_size, self.strides, self.padding), inputs[-1])


class GlobalPooling2D(_Pictures):
    """Largest or mean number of each channel."""

    keepdims: bool

    def output(self, inputs: Shape) -> Shape:
        """Channels, or 1, 1, channels."""
        *_, channels = _picture(inputs)
        return (1, 1, channels) if self.keepdims else (channels,)


class ZeroPadding2D(_Pictures):
    """A margin of zeros: ((top, bottom), (left, right))."""

    padding: tuple[tuple[Margin, Margin], tuple[Margin, Margin]]

    def output(self, inputs: Shape) -> Shape:
        """Height, width, channels."""
        height, width, channels = _picture(inputs)
        return height + sum(self.padding[0]), width + sum(self.padding[1]), channels


class Flatten(_Pictures):
    """All numbers in a row."""

    def output(self, inputs: Shape) -> Shape:
        """Their number."""
        return (math.prod(inputs),)


class Reshape(_Usual):
    """The same numbers in another shape; one of its sizes may be -1."""

    target_shape: Annotated[tuple[Size | Literal[-1], ...], Field(min_length=1, max_length=3)]

    def output(self, inputs: Shape) -> Shape:
        """The shape, with the size that -1 stands for."""
        rest, missing = divmod(math.prod(inputs), math.prod(size for size in self.target_shape if size > 0))
        unknown = self.target_shape.count(-1)
        if missing or unknown > 1 or (not unknown and rest > 1) or not rest:
            raise ContradictionError("has another number of numbers than its input")
        return tuple(rest if size == -1 else size for size in self.target_shape)


class Dropout(_Usual):
    """Nothing, but in training."""

    rate: Fraction
    seed: Seed | None
    noise_shape: None


class SpatialDropout2D(Arguments):
    """Nothing, but in training. Keras leaves out two of the usual arguments."""

    rate: Fraction
    seed: Seed | None
    dtype: Literal["float32"]
    data_format: Literal["channels_last"]

    def output(self, inputs: Shape) -> Shape:
        """The same."""
        return _picture(inputs)


class _Normalization(_Usual):
    epsilon: Annotated[Number, Field(gt=0, le=1)]
    center: bool
    scale: bool
    beta_initializer: Initializer
    gamma_initializer: Initializer
    beta_regularizer: Regularizer
    gamma_regularizer: Regularizer
    beta_constraint: None
    gamma_constraint: None

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """Gamma if it scales, and beta if it centers."""
        return ((inputs[-1],),) * (self.scale + self.center)


class BatchNormalization(_Normalization):
    """Of each channel, with mean and variance from the training."""

    axis: Literal[-1]
    momentum: Annotated[float, Field(ge=0, le=1)]  # Keras writes no integer
    moving_mean_initializer: Initializer
    moving_variance_initializer: Initializer
    synchronized: Literal[False]
    renorm: Literal[False]
    renorm_clipping: None
    renorm_momentum: Number

    def weights(self, inputs: Shape) -> tuple[Shape, ...]:
        """Gamma, beta, moving mean and moving variance."""
        return (*super().weights(inputs), (inputs[-1],), (inputs[-1],))


class LayerNormalization(_Normalization):
    """Over the channels, for each place of each image."""

    axis: tuple[Literal[-1]]
    rms_scaling: Literal[False]


class Activation(_Usual):
    """An activation by name."""

    activation: ActivationName


class ReLU(_Usual):
    """The rectifier with its options."""

    max_value: NotNegative | None
    negative_slope: NotNegative
    threshold: NotNegative


class LeakyReLU(_Usual):
    """The rectifier with a slope for negative numbers."""

    negative_slope: NotNegative


class Softmax(_Usual):
    """Over the last dimension."""

    axis: Literal[-1]


class Rescaling(_Usual):
    """Times `scale`, plus `offset`."""

    scale: Number
    offset: Number


class BuildConfig(Described):
    """The shape from which Keras builds a layer or model."""

    input_shape: BatchShape


_Plain = Object[Literal["keras.layers"], N, C]


class _Built(_Plain[N, C], Generic[N, C]):
    """A layer for which Keras also writes its input's shape."""

    build_config: BuildConfig


Layer = Annotated[
    _Plain[Literal["InputLayer"], Input]
    | _Built[Literal["Dense"], Dense]
    | _Built[Literal["Conv2D"], Conv2D]
    | _Built[Literal["DepthwiseConv2D"], DepthwiseConv2D]
    | _Built[Literal["SeparableConv2D"], SeparableConv2D]
    | _Plain[Literal["MaxPooling2D", "AveragePooling2D"], Pooling2D]
    | _Plain[Literal["GlobalMaxPooling2D", "GlobalAveragePooling2D"], GlobalPooling2D]
    | _Built[Literal["ZeroPadding2D"], ZeroPadding2D]
    | _Built[Literal["Flatten"], Flatten]
    | _Plain[Literal["Reshape"], Reshape]
    | _Plain[Literal["Dropout"], Dropout]
    | _Plain[Literal["SpatialDropout2D"], SpatialDropout2D]
    | _Built[Literal["BatchNormalization"], BatchNormalization]
    | _Built[Literal["LayerNormalization"], LayerNormalization]
    | _Plain[Literal["Activation"], Activation]
    | _Plain[Literal["ReLU"], ReLU]
    | _Plain[Literal["LeakyReLU"], LeakyReLU]
    | _Plain[Literal["Softmax"], Softmax]
    | _Built[Literal["Rescaling"], Rescaling],
    Field(discriminator="class_name"),
]


def output(layer: Layer, inputs: Shape) -> Shape:
    """The shape of what the layer gives for an input of this shape.

    Raises:
        ContradictionError: It cannot take such an input, says that it is built for another, or gives too much.
    """
    if isinstance(layer, _Built) and layer.build_config.input_shape != (None, *inputs):
        raise ContradictionError("does not take what the layer before it gives")
    return _require_bounded(layer.config.output(inputs))


def _require_bounded(shape: Shape) -> Shape:
    if math.prod(shape) > MAX_NUMBERS:
        raise ContradictionError(f"gives more than {MAX_NUMBERS:,} numbers per image")
    return shape


def _picture(inputs: Shape) -> tuple[int, int, int]:
    if len(inputs) != 3:
        raise ContradictionError("takes pictures of height, width and channels, and gets something else")
    height, width, channels = inputs
    return height, width, channels


def _moved(inputs: Shape, window: Pair, strides: Pair, padding: str, dilation: Pair = (1, 1)) -> Pair:
    """Height and width of what a window gives that moves over a picture."""
    height, width, _ = _picture(inputs)
    axes = zip((height, width), window, strides, dilation, strict=True)
    rows, columns = (_steps(*axis, padding) for axis in axes)
    return rows, columns


def _steps(size: int, window: int, stride: int, dilation: int, padding: str) -> int:
    reach = dilation * (window - 1) + 1
    # With padding, what reaches farther sees nothing but zeros, and costs memory.
    if dilation > size or reach > (2 * size + 1 if padding == "same" else size):
        raise ContradictionError("has a window that is larger than the picture")
    return -(-size // stride) if padding == "same" else (size - reach) // stride + 1
