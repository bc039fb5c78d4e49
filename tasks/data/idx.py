"""The formats of MNIST: IDX, gzip around it, and the .npz that Keras serves. Bytes in, arrays or IDX bytes out.

All input is untrusted: sizes are bounded before memory is spent, nothing is unpickled, and each defect has its own
`DataError`. An IDX file is a magic number (0, 0, type, dimensions), the big-endian uint32 sizes, and the bytes
(http://yann.lecun.com/exdb/mnist/). Called by the other modules of `tasks.data` and by the step `preprocess`.
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

# Not imported from `tasks.data.arrays`, because then an edit there would change the cache key of `download`.
Bytes = NDArray[np.uint8]

UNSIGNED_BYTE = 0x08
NEXT_STEP = "Use another mirror, or tell the owner of this one."

# The names of the arrays in the Keras archive, by IDX file.
KERAS_NAMES = {
    "train-images-idx3-ubyte": "x_train",
    "train-labels-idx1-ubyte": "y_train",
    "t10k-images-idx3-ubyte": "x_test",
    "t10k-labels-idx1-ubyte": "y_test",
}


def encode(array: Bytes) -> bytes:
    """Serialize a uint8 array as canonical IDX bytes."""
    return _header(array.shape) + array.astype(np.uint8, copy=False).tobytes()


def decode(data: bytes, name: str, shape: tuple[int, ...]) -> Bytes:
    """Parse IDX bytes into a read-only uint8 array.

    Raises:
        DataError: Wrong magic number, a shape other than the expected one, or a wrong length.
    """
    if len(data) < 4 + 4 * len(shape):
        raise DataError(f"cannot read {name}", f"it ends after {len(data)} bytes, inside its header", NEXT_STEP)
    magic = data[:4]
    if magic != bytes((0, 0, UNSIGNED_BYTE, len(shape))):
        raise DataError(
            f"cannot read {name}", f"its magic number is {magic.hex()}, not IDX of {len(shape)}-d bytes", NEXT_STEP
        )
    actual = struct.unpack(f">{len(shape)}I", data[4 : 4 + 4 * len(shape)])
    if actual != shape:
        raise DataError(f"cannot read {name}", f"its shape is {actual} instead of {shape}", NEXT_STEP)
    if len(data) != content_size(shape):
        raise DataError(
            f"cannot read {name}", f"it has {len(data):,} bytes instead of {content_size(shape):,}", NEXT_STEP
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def content_size(shape: tuple[int, ...]) -> int:
    """Size of an IDX file of this shape, in bytes."""
    return 4 + 4 * len(shape) + math.prod(shape)


def check_labels(labels: Bytes, name: str, classes: int) -> None:
    """Raise DataError for a label outside 0 … classes - 1."""
    largest = int(labels.max(initial=0))
    if largest >= classes:
        image = int(labels.argmax())
        raise DataError(
            f"cannot use {name}", f"label {largest} of image {image} is not one of 0 to {classes - 1}", NEXT_STEP
        )


def gunzip(data: bytes, name: str, limit: int) -> bytes:
    """Decompress one gzip member to at most `limit` bytes.

    Raises:
        DataError: More than `limit` bytes, a truncated file, no gzip, or data after its end.
    """
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise DataError(f"cannot decompress {name}", f"it is not a valid gzip file ({error})", NEXT_STEP) from error
    if len(content) > limit:
        raise DataError(
            f"cannot decompress {name}", f"it holds more than the {limit:,} bytes that belong there", NEXT_STEP
        )
    if not stream.eof:
        raise DataError(f"cannot decompress {name}", f"the gzip file is cut off after {len(data):,} bytes", NEXT_STEP)
    if stream.unused_data:
        raise DataError(f"cannot decompress {name}", "something follows the end of the gzip file", NEXT_STEP)
    return content


def keras_archive(data: bytes, name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, bytes]:
    """Convert the arrays of Keras' mnist.npz to canonical IDX bytes, by IDX file name.

    Raises:
        DataError: No zip archive, a missing array, or one of another dtype, shape or size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {file: _read_array(archive, name, KERAS_NAMES[file], shape) for file, shape in shapes.items()}
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted, or unknown compression
        raise DataError(f"cannot read {name}", f"it is not a valid npz archive ({error})", NEXT_STEP) from error


def _read_array(archive: zipfile.ZipFile, name: str, member: str, shape: tuple[int, ...]) -> bytes:
    failure = f"cannot read {member} of {name}"
    limit = math.prod(shape) + 4096  # the .npy header is a few hundred bytes
    try:
        with archive.open(f"{member}.npy") as file:
            # Reading stops at the limit, whatever size the archive's directory claims.
            content = file.read(limit + 1)
    except KeyError:
        raise DataError(failure, "the archive has no such array", NEXT_STEP) from None
    if len(content) > limit:
        raise DataError(failure, f"it holds more than the {math.prod(shape):,} bytes that belong there", NEXT_STEP)
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        why = "it holds a pickled object, which is never loaded" if "pickle" in str(error) else str(error)
        raise DataError(failure, why, NEXT_STEP) from error
    if array.dtype != np.uint8 or array.shape != shape:
        raise DataError(failure, f"it is {array.dtype} {array.shape} instead of uint8 {shape}", NEXT_STEP)
    return encode(array)


def _header(shape: tuple[int, ...]) -> bytes:
    return bytes((0, 0, UNSIGNED_BYTE, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
