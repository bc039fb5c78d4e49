"""The network in a model file: a frozen description of what its `config.json` and `metadata.json` may say.

What it does not describe is refused, so Keras never sees it. The layers are in `tasks.learning.layers`. Called by
`tasks.learning.model_file`; imports neither Prefect nor Keras.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import reduce
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import Field, ValidationError

from tasks.errors import ModelFileError
from tasks.learning import layers
from tasks.learning.layers import (
    BatchShape,
    BuildConfig,
    ContradictionError,
    Described,
    DType,
    Layer,
    Name,
    Nothing,
    Shape,
)

MAX_LAYERS = 64


class Group(NamedTuple):
    """The weights of one layer: their path and the shapes, in the file's order; `name` is the layer's."""

    path: str
    name: str
    shapes: tuple[Shape, ...]


T = TypeVar("T", bound=Described)


class Metadata(Described):
    """`metadata.json`: the version of Keras, and a date that is always the same."""

    keras_version: Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]{0,39}$")]
    date_saved: Literal["1980-01-01@00:00:00"]


class _SequentialConfig(Described):
    name: Name
    trainable: bool
    dtype: DType
    layers: Annotated[tuple[Layer, ...], Field(min_length=2, max_length=MAX_LAYERS)]
    build_input_shape: BatchShape


class Architecture(Described):
    """`config.json`: a Sequential model, not compiled."""

    module: Literal["keras"]
    class_name: Literal["Sequential"]
    config: _SequentialConfig
    registered_name: None
    build_config: BuildConfig
    compile_config: Nothing = Nothing()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.config.name

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """The shape that it takes, and the one that it returns, for one image."""
        first, *others = self.config.layers
        taken = layers.output(first, ())
        return taken, reduce(lambda shape, layer: layers.output(layer, shape), others, taken)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The weights of each layer, under the paths that Keras gives them: class name and number."""
        counts: Counter[str] = Counter()
        groups = []
        first, *others = self.config.layers
        shape = layers.output(first, ())
        for layer in others:
            kind = _snake_case(layer.class_name)
            number = f"_{counts[kind]}" if counts[kind] else ""
            counts[kind] += 1
            groups.append(Group(f"layers/{kind}{number}", layer.config.name, layer.config.weights(shape)))
            shape = layers.output(layer, shape)
        return tuple(groups)


def _snake_case(name: str) -> str:
    """As Keras does it: MaxPooling2D is max_pooling2d, ReLU is re_lu."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def parse(config: bytes, metadata: bytes) -> Architecture:
    """The network that the two members of a model file describe. Allocates nothing of the sizes that they name.

    Raises:
        ModelFileError: One of them says something that is not described here.
    """
    _parse(Metadata, metadata, "metadata.json")
    architecture = _parse(Architecture, config, "config.json")
    if problem := _contradiction(architecture):
        raise refused(f"its config.json contradicts itself: {problem}")
    return architecture


def _parse(kind: type[T], data: bytes, name: str) -> T:
    try:
        value = kind.model_validate_json(data)
    except ValidationError as error:
        raise refused(f"its {name} {_reason(error)}") from error
    # Also refuses a key that is there twice, of which two readers may take different ones.
    said, understood = json.loads(data), value.model_dump(mode="json", exclude_unset=True)
    # The second refuses a value that was taken for an equal one: 0 for false, or an integer for a float.
    if json.dumps(said).encode() != data or json.dumps(said, sort_keys=True) != json.dumps(understood, sort_keys=True):
        raise refused(f"its {name} is not written as Keras writes it")
    return value


def _contradiction(architecture: Architecture) -> str:
    first, *others = architecture.config.layers
    if first.class_name != "InputLayer" or any(layer.class_name == "InputLayer" for layer in others):
        return "an InputLayer has to be the first layer, and no other"
    names = [layer.config.name for layer in architecture.config.layers]
    if len(set(names)) < len(names):
        return "two layers have the same name"
    shape: Shape = ()
    for layer in architecture.config.layers:
        try:
            shape = layers.output(layer, shape)
        except ContradictionError as error:
            return f"the layer {layer.config.name} {error}"
        if layer is first and {architecture.config.build_input_shape, architecture.build_config.input_shape} != {
            (None, *shape)
        }:
            return "the input has two shapes"
    return ""


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, as one short line in which nothing of the file is left as it is."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "union_tag_invalid":
        return f"holds the class {_plain(first['ctx']['tag'])}, which is not known to be harmless"
    place = ".".join(str(part) for part in first["loc"])
    return _plain(f"is not the description of a known network: {place + ': ' if place else ''}{first['msg']}")


def _plain(text: str) -> str:
    return ascii(text)[1:-1][:300]


def refused(why: str, next_step: str = "Fetch the model again, and ask who changed it") -> ModelFileError:
    """The error for a model file that is not loaded."""
    return ModelFileError("cannot load the model file", why, f"{next_step}.")
