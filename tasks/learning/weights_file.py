"""The weights in a model file: `model.weights.h5`, written and read without trusting HDF5.

HDF5's own reader must not see a hostile file: it crashes on some, and allocates what others name. So nothing is parsed.
The shapes are known from the architecture, and a file of these shapes has exactly one layout, Keras' own: a template
with zeros is written, and the file must equal it byte for byte, except for the numbers. The layout is that of the
oldest format version, which HDF5 1.14.2 to 2.0.0 write alike. Called by `tasks.learning.model_file`; imports neither
Prefect nor Keras.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.learning.architecture import Architecture, refused
from tasks.learning.layers import Shape

Weights = list[NDArray[np.float32]]


def encode(architecture: Architecture, weights: Sequence[NDArray[np.float32]]) -> bytes:
    """The weights, in the model's order, as Keras lays them out: the same weights give the same bytes."""
    data, offsets = _template(architecture)
    for weight, offset in zip(weights, offsets, strict=True):
        data[offset : offset + weight.nbytes] = np.ascontiguousarray(weight, "<f4").tobytes()
    return bytes(data)


def decode(architecture: Architecture, data: bytes) -> Weights:
    """The weights float32 in the model's order, as views of `data`.

    Raises:
        ModelFileError: They are not laid out as `encode` does it, or one is not finite.
    """
    shapes = _shapes(architecture)
    if 4 * sum(map(math.prod, shapes)) > len(data):  # before anything of that size is allocated
        raise refused("its weights have not the size that its config.json says")
    template, offsets = _template(architecture)
    layout = bytearray(data)
    for shape, offset in zip(shapes, offsets, strict=True):
        layout[offset : offset + 4 * math.prod(shape)] = bytes(4 * math.prod(shape))
    if len(data) != len(template) or layout != template:  # a slice beyond the end has made `layout` longer
        import h5py

        raise refused(
            f"its weights are not laid out as HDF5 {h5py.version.hdf5_version} lays them out here",
            "They were altered, or written by another program or version of HDF5: publish the model again",
        )
    numbers = [
        np.frombuffer(data, "<f4", math.prod(shape), offset) for shape, offset in zip(shapes, offsets, strict=True)
    ]
    if not all(np.isfinite(each).all() for each in numbers):
        raise refused("a weight is not a finite number", "Train with a lower --learning-rate, or fetch the model again")
    return [each.reshape(shape) for each, shape in zip(numbers, shapes, strict=True)]


def _shapes(architecture: Architecture) -> list[Shape]:
    return [shape for group in architecture.groups for shape in group.shapes]


def _template(architecture: Architecture) -> tuple[bytearray, list[int]]:
    """The file with zeros for all weights, and the offset of each weight in it."""
    import h5py

    buffer = io.BytesIO()
    datasets = []
    with h5py.File(buffer, "w", libver="earliest") as file:
        file.create_group("vars").attrs["name"] = architecture.name
        for group in architecture.groups:
            folder = file.create_group(f"{group.path}/vars")
            folder.attrs["name"] = group.name
            for number, shape in enumerate(group.shapes):
                folder[str(number)] = np.zeros(shape, "<f4")
                datasets.append(folder[str(number)])
        offsets = [dataset.id.get_offset() for dataset in datasets]
    return bytearray(buffer.getbuffer()), offsets
