"""Arrays of images, labels and predictions: their types, the scale of pixels, their bytes in the store.

Pure NumPy; any room from `tasks.data` on may import it.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

SCALE = 1 / 255


class Split(NamedTuple):
    """Images uint8 (n, 784) and their labels uint8 (n,)."""

    images: Bytes
    labels: Bytes


def scale(images: Bytes) -> NDArray[np.float32]:
    """Pixels as the model takes them: float32 in [0, 1], of the same shape."""
    return np.multiply(images, np.float32(SCALE), dtype=np.float32)


def to_npy(array: NDArray[Any]) -> bytes:
    """Serialize an array as .npy; the same array gives the same bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> Bytes:
    """The array that `to_npy` serialized: read-only, and a view of `data` instead of a copy."""
    header = io.BytesIO(data)
    version = np.lib.format.read_magic(header)
    assert version == (1, 0), version
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    return np.frombuffer(data, dtype, offset=header.tell()).reshape(shape)


def to_npz(probabilities: Probabilities, labels: Bytes) -> bytes:
    """Serialize the predictions for each image as .npz; the same arrays give the same bytes.

    Args:
        probabilities: float32 (n, classes), stored with the predicted class, `predicted` uint8 (n,).
        labels: uint8 (n,).
    """
    buffer = io.BytesIO()
    np.savez(
        buffer, probabilities=probabilities, predicted=probabilities.argmax(axis=1).astype(np.uint8), labels=labels
    )
    return buffer.getvalue()


def from_npz(data: bytes) -> tuple[Probabilities, Bytes]:
    """Probabilities float32 (n, classes) and labels uint8 (n,) that `to_npz` serialized. Unpickles nothing."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return archive["probabilities"], archive["labels"]
