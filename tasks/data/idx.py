"""The formats of MNIST: IDX, gzip around it, and the .npz that Keras serves. Bytes in, arrays or IDX bytes out.

All input is untrusted: sizes are bounded before memory is spent, nothing is unpickled, and each defect has its own
`DataError`. An IDX file is a magic number (0, 0, type, dimensions), the big-endian uint32 sizes, and the bytes
(http://yann.lecun.com/exdb/mnist/). Called by the other modules of `tasks.data` and by the step `preprocess`.
"""

from __future__ import annotations

import io
import math
import re
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

# Bytes beyond its content that a .npy may have, and the members that an archive may have.
NPY_HEADER = 4096
MOST_MEMBERS = 100

# The header of a .npy with a plain dtype: its length in 2 bytes, from version 2 in 4, then a Python literal.
NPY = re.compile(
    rb"\x93NUMPY(?:\x01\x00(?P<short>..)|[\x02\x03]\x00(?P<long>....))"
    rb"\{'descr': '(?P<dtype>[|<>=]?[A-Za-z][0-9]{0,9})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,19}, ?){0,9}(?:[0-9]{1,19})?)\),? ?\} *\n",
    re.DOTALL,
)

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
    return {
        file: encode(_array(_member(data, name, KERAS_NAMES[file], shape), name, KERAS_NAMES[file], shape))
        for file, shape in shapes.items()
    }


def _member(data: bytes, name: str, member: str, shape: tuple[int, ...]) -> bytes:
    """The .npy of one array, no larger than an array of this shape needs."""
    failure, limit = f"cannot read {member} of {name}", math.prod(shape) + NPY_HEADER
    if data.count(b"PK\x01\x02") > MOST_MEMBERS:  # each costs half a kilobyte before any is read
        raise DataError(failure, f"the archive has more than {MOST_MEMBERS} members", NEXT_STEP)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entry = archive.getinfo(f"{member}.npy")
            if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # only these stop at the limit
                raise NotImplementedError(f"compression method {entry.compress_type}")
            with archive.open(entry) as file:
                # Reading stops at the limit, whatever size the archive's directory claims.
                content = file.read(limit + 1)
    except KeyError:
        raise DataError(failure, "the archive has no such array", NEXT_STEP) from None
    except Exception as error:  # zipfile promises no set of errors for a file that was made to harm
        why = f"it is not a valid npz archive ({_printable(error)})"
        raise DataError(f"cannot read {name}", why, NEXT_STEP) from error
    if len(content) > limit:
        raise DataError(failure, f"it holds more than the {math.prod(shape):,} bytes that belong there", NEXT_STEP)
    return content


def _array(content: bytes, name: str, member: str, shape: tuple[int, ...]) -> Bytes:
    """Parse a .npy of any version. NumPy's own reader evaluates the header as Python, which can exhaust the stack."""
    failure = f"cannot read {member} of {name}"
    match = NPY.match(content)
    if not match:
        raise DataError(failure, "it does not begin with the header of an array", NEXT_STEP)
    dtype, sizes = match["dtype"].decode().lstrip("|<>="), match["shape"].decode()
    if dtype == "O":
        raise DataError(failure, "it holds a pickled object, which is never loaded", NEXT_STEP)
    actual = tuple(int(size) for size in sizes.split(",") if size.strip())
    if dtype != "u1" or actual != shape:
        kind = "uint8" if dtype == "u1" else dtype
        raise DataError(failure, f"it is {kind} {actual} instead of uint8 {shape}", NEXT_STEP)
    field = "short" if match["short"] else "long"
    start, size = match.end(field) + int.from_bytes(match[field], "little"), math.prod(shape)
    if start != match.end() or len(content) != start + size:
        why = f"header and array have {len(content):,} bytes instead of {start + size:,}"
        raise DataError(failure, why, NEXT_STEP)
    return np.frombuffer(content, np.uint8, size, start).reshape(
        shape, order="F" if match["fortran"] == b"True" else "C"
    )


def _printable(error: Exception) -> str:
    """An error of zipfile; it may repeat names of members, which are the mirror's to choose."""
    text = str(error) or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text[:100])


def _header(shape: tuple[int, ...]) -> bytes:
    return bytes((0, 0, UNSIGNED_BYTE, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
