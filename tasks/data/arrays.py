"""Arrays of images, labels and predictions: their types, the scale of pixels, their bytes in the store.

Pure NumPy; any room from `tasks.data` on may import it.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.content import Bytes, Labels, Split
from tasks.values import NPY, Artifact, Examples

__all__ = ["Bytes", "Labels", "Split"]

Probabilities = NDArray[np.float32]

SCALE = 1 / 255

# How an array of numbers begins as `to_npy` writes it. NumPy's own reader evaluates the text as Python, and allocates
# what it says.
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([<|][biuf]\d)', 'fortran_order': (False|True), 'shape': \(([\d, ]{0,200})\), \} *\n",
    re.DOTALL,
)


def label_type(classes: int) -> type[np.uint8] | type[np.uint16]:
    """The type of labels in canonical form."""
    return np.uint8 if classes <= 256 else np.uint16


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a label; its number in documents of earlier versions, which have no names."""
    return classes[label] if classes else str(label)


def scale(images: Bytes) -> NDArray[np.float32]:
    """Pixels as the model takes them: float32 in [0, 1], of the same shape."""
    return np.multiply(images, np.float32(SCALE), dtype=np.float32)


def read_split(examples: Examples, read: Callable[[Artifact], bytes]) -> Split:
    """The arrays of a split; `read` returns the bytes of an artifact."""
    return Split(from_npy(read(examples.images)), from_npy(read(examples.labels)))


def store_split(split: Split, put: Callable[[bytes, str], Artifact]) -> Examples:
    """A split as artifacts; `put` stores bytes of a media type."""
    images, labels = (put(to_npy(array), NPY) for array in split)
    return Examples(images=images, labels=labels)


def require_split(split: Split, shape: Sequence[int], classes: int) -> None:
    """Raise ValueError unless these are images uint8 (n, *shape) and the labels (n,) of so many classes, n ≥ 1."""
    images, labels = split
    if not len(labels) or labels.shape != (len(labels),) or labels.dtype != label_type(classes):
        raise ValueError("it has no labels")
    if images.shape != (len(labels), *shape) or images.dtype != np.uint8:
        raise ValueError("its images do not fit its labels")
    if labels.max() >= classes:
        raise ValueError("a label is no class")


def to_npy(array: NDArray[Any]) -> bytes:
    """Serialize an array as .npy; the same array gives the same bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> Bytes:
    """The array that `to_npy` serialized: read-only, and a view of `data` instead of a copy.

    Raises:
        ValueError: The bytes are something else, also if they were made to harm.
    """
    match = NPY_HEADER.match(data)
    if match is None or int.from_bytes(match[1], "little") != match.end() - 10:
        raise ValueError("it is no array of numbers")
    _, kind, fortran, sizes = match.groups()
    try:
        dtype, shape = np.dtype(kind.decode()), tuple(int(size) for size in sizes.split(b",") if size.strip())
        array = np.frombuffer(data, dtype, offset=match.end()).reshape(shape, order="F" if fortran == b"True" else "C")
    except (TypeError, OverflowError) as error:
        raise ValueError("it is no array of numbers") from error
    return array


def to_npz(probabilities: Probabilities, labels: Labels) -> bytes:
    """Serialize the predictions for each image as .npz; the same arrays give the same bytes.

    Args:
        probabilities: float32 (n, classes), stored with the predicted class, `predicted` (n,) of the labels' type.
        labels: uint8 or uint16 (n,).
    """
    buffer = io.BytesIO()
    predicted = probabilities.argmax(axis=1).astype(labels.dtype)
    np.savez(buffer, probabilities=probabilities, predicted=predicted, labels=labels)
    return buffer.getvalue()


def from_npz(data: bytes) -> tuple[Probabilities, Labels]:
    """Probabilities float32 (n, classes) and labels uint8 or uint16 (n,) that `to_npz` serialized.

    Raises:
        ValueError: The bytes are something else, also if they were made to harm.
    """
    arrays = arrays_of(data)
    if not {"probabilities", "labels"} <= arrays.keys():
        raise ValueError("it is no file of predictions")
    probabilities, labels = arrays["probabilities"], arrays["labels"]
    whole = probabilities.ndim == 2 and labels.shape == probabilities.shape[:1]
    if not whole or probabilities.dtype != np.float32 or labels.dtype != label_type(probabilities.shape[1]):
        raise ValueError("it holds no probabilities with labels")
    if labels.max(initial=0) >= probabilities.shape[1]:
        raise ValueError("a label is no class")
    return probabilities.view(np.float32), labels


def answers(files: Iterable[bytes]) -> tuple[Labels, Labels]:
    """The classes that models predict, (models, n), and the labels (n,), from what `to_npz` serialized for each.

    Raises:
        ValueError: The bytes are something else, or of other images; or there are none.
    """
    arrays = [from_npz(data) for data in files]
    labels = arrays[0][1] if arrays else np.empty(0, np.uint8)
    if not arrays or any(not np.array_equal(other, labels) for _, other in arrays):
        raise ValueError("not the predictions of models for the same images")
    return np.stack([probabilities.argmax(axis=1).astype(labels.dtype) for probabilities, _ in arrays]), labels


def answers_to_npz(predicted: Labels, labels: Labels) -> bytes:
    """Serialize the classes that models predict, (models, n), and the labels (n,), both of the labels' type."""
    buffer = io.BytesIO()
    np.savez(buffer, predicted=predicted, labels=labels)
    return buffer.getvalue()


def answers_from_npz(data: bytes) -> tuple[Labels, Labels]:
    """The predicted classes (models, n) and the labels (n,) that `answers_to_npz` serialized.

    Raises:
        ValueError: The bytes are something else, also if they were made to harm.
    """
    arrays = arrays_of(data)
    if arrays.keys() != {"predicted", "labels"}:
        raise ValueError("it is no file of answers")
    predicted, labels = arrays["predicted"], arrays["labels"]
    whole = predicted.ndim == 2 and predicted.shape[0] > 0 and predicted.shape[1:] == labels.shape
    if not whole or predicted.dtype != labels.dtype or labels.dtype not in (np.uint8, np.uint16):
        raise ValueError("it holds no answers with labels")
    return predicted, labels


def arrays_of(data: bytes) -> dict[str, Bytes]:
    """The arrays in an .npz by name, as `np.savez` writes it. Unpickles nothing, and reads no more than the bytes hold.

    Raises:
        ValueError: The bytes are something else, also if they were made to harm.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if any(member.compress_type for member in members) or sum(each.file_size for each in members) > len(data):
                raise ValueError("a member is compressed")
            return {member.filename.removesuffix(".npy"): from_npy(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, EOFError, OSError, OverflowError, RuntimeError, struct.error) as error:
        raise ValueError(f"it is no file of arrays ({type(error).__name__})") from error
