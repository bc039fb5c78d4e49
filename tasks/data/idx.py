"""The formats MNIST comes in: IDX, gzip around it, and the .npz that Keras serves.

Everything here treats its input as hostile: sizes are bounded before memory is spent, nothing is unpickled, and each
defect has its own `DataError`. Bytes in, arrays or canonical IDX bytes out; called by `tasks.download` and
`tasks.preprocess`. An IDX file is a magic
number (0, 0, type, dimensions), the big-endian sizes, and the bytes.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError

Bytes = NDArray[np.uint8]

UNSIGNED_BYTE = 0x08
ASK_AGAIN = "Use another mirror, or tell this one's owner."

# The arrays inside the Keras archive, by the IDX file that each stands for.
KERAS_NAMES = {
    "train-images-idx3-ubyte": "x_train",
    "train-labels-idx1-ubyte": "y_train",
    "t10k-images-idx3-ubyte": "x_test",
    "t10k-labels-idx1-ubyte": "y_test",
}


def encode(array: Bytes) -> bytes:
    """An array of uint8 as canonical IDX bytes."""
    return _header(array.shape) + array.astype(np.uint8, copy=False).tobytes()


def decode(data: bytes, name: str, shape: tuple[int, ...]) -> Bytes:
    """IDX bytes as a read-only uint8 array of the expected shape. Raises DataError."""
    if len(data) < 4 + 4 * len(shape):
        raise DataError(f"cannot read {name}", f"it ends after {len(data)} bytes, inside its header", ASK_AGAIN)
    magic = data[:4]
    if magic != bytes((0, 0, UNSIGNED_BYTE, len(shape))):
        raise DataError(
            f"cannot read {name}", f"its magic number is {magic.hex()}, not IDX of {len(shape)}-d bytes", ASK_AGAIN
        )
    found = struct.unpack(f">{len(shape)}I", data[4 : 4 + 4 * len(shape)])
    if found != shape:
        raise DataError(f"cannot read {name}", f"its shape is {found} instead of {shape}", ASK_AGAIN)
    if len(data) != content_size(shape):
        raise DataError(
            f"cannot read {name}", f"it has {len(data):,} bytes instead of {content_size(shape):,}", ASK_AGAIN
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def content_size(shape: tuple[int, ...]) -> int:
    """Bytes of an IDX file of this shape."""
    return 4 + 4 * len(shape) + math.prod(shape)


def check_labels(labels: Bytes, name: str, classes: int) -> None:
    """Raise DataError for a label outside 0 … classes - 1."""
    worst = int(labels.max(initial=0))
    if worst >= classes:
        where = int(labels.argmax())
        raise DataError(
            f"cannot use {name}", f"label {worst} of image {where} is not one of 0 to {classes - 1}", ASK_AGAIN
        )


def gunzip(data: bytes, name: str, limit: int) -> bytes:
    """Decompress one gzip member of at most `limit` bytes. Raises DataError for a bomb, a truncation, or garbage."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise DataError(f"cannot decompress {name}", f"it is no sound gzip file ({error})", ASK_AGAIN) from error
    if len(content) > limit:
        raise DataError(
            f"cannot decompress {name}", f"it holds more than the {limit:,} bytes that belong there", ASK_AGAIN
        )
    if not stream.eof:
        raise DataError(f"cannot decompress {name}", f"the gzip file is cut off after {len(data):,} bytes", ASK_AGAIN)
    if stream.unused_data:
        raise DataError(f"cannot decompress {name}", "something follows the end of the gzip file", ASK_AGAIN)
    return content


def keras_archive(data: bytes, name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, bytes]:
    """The arrays of Keras' mnist.npz as canonical IDX bytes, by IDX file name. Raises DataError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {file: _member(archive, name, KERAS_NAMES[file], shape) for file, shape in shapes.items()}
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: encrypted, or compressed oddly
        raise DataError(f"cannot read {name}", f"it is no sound npz archive ({error})", ASK_AGAIN) from error


def _member(archive: zipfile.ZipFile, name: str, member: str, shape: tuple[int, ...]) -> bytes:
    what = f"cannot read {member} of {name}"
    limit = math.prod(shape) + 4096  # the .npy header is a few hundred bytes
    try:
        with archive.open(f"{member}.npy") as file:
            # Not the size that the archive claims: only so much is ever decompressed.
            content = file.read(limit + 1)
    except KeyError:
        raise DataError(what, "the archive has no such array", ASK_AGAIN) from None
    if len(content) > limit:
        raise DataError(what, f"it holds more than the {math.prod(shape):,} bytes that belong there", ASK_AGAIN)
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        why = "it holds a pickled object, which is never loaded" if "pickle" in str(error) else str(error)
        raise DataError(what, why, ASK_AGAIN) from error
    if array.dtype != np.uint8 or array.shape != shape:
        raise DataError(what, f"it is {array.dtype} {array.shape} instead of uint8 {shape}", ASK_AGAIN)
    return encode(array)


def _header(shape: tuple[int, ...]) -> bytes:
    return bytes((0, 0, UNSIGNED_BYTE, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
