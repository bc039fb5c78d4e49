from __future__ import annotations

import gzip
import io
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tasks.data import idx
from tasks.errors import DataError
from tests.mirrors import mutations

SHAPES = {"t10k-images-idx3-ubyte": (4, 28, 28), "t10k-labels-idx1-ubyte": (4,)}


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=6)))
def test_what_is_encoded_is_decoded(array: idx.Bytes) -> None:
    actual = idx.decode(idx.encode(array), "file", array.shape)
    assert actual.dtype == np.uint8
    assert np.array_equal(actual, array)


@given(st.binary(max_size=200), st.integers(1, 300))
def test_gunzip_returns_the_content_or_refuses_what_is_longer(content: bytes, limit: int) -> None:
    if len(content) <= limit:
        assert idx.gunzip(gzip.compress(content), "file", limit) == content
    else:
        with pytest.raises(DataError, match="holds more than"):
            idx.gunzip(gzip.compress(content), "file", limit)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends after 0 bytes"),
        (b"\x00\x00\x08\x01\x00\x00", "inside its header"),
        (b"\x00\x00\x0d\x01" + bytes(8), "magic number is 00000d01"),
        (b"\x00\x00\x08\x03" + bytes(20), "magic number is 00000803"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05" + bytes(5), r"shape is \(5,\) instead of \(4,\)"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x04" + bytes(3), "11 bytes instead of 12"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x04" + bytes(5), "13 bytes instead of 12"),
    ],
)
def test_each_defect_of_an_idx_file_has_its_own_words(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        idx.decode(data, "labels", (4,))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: data[:-9], "cut off"),
        (lambda data: data + b"more", "something follows"),
        (lambda data: b"<html>" + data, "not a valid gzip"),
        (lambda data: data[:20] + bytes([data[20] ^ 255]) + data[21:], "not a valid gzip|cut off"),
    ],
)
def test_each_defect_of_a_gzip_file_has_its_own_words(spoil: object, why: str) -> None:
    assert callable(spoil)
    with pytest.raises(DataError, match=why):
        idx.gunzip(spoil(gzip.compress(bytes(range(256)))), "file", 1000)


def test_a_gzip_bomb_costs_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(DataError, match="more than the 1,000 bytes"):
        idx.gunzip(bomb, "file", 1000)


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_outside_the_classes_is_named(label: int) -> None:
    with pytest.raises(DataError, match=f"label {label} of image 2"):
        idx.check_labels(np.array([0, 9, label], np.uint8), "labels", 10)


def archive(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_the_keras_archive_gives_the_same_bytes_as_the_idx_files() -> None:
    images, labels = np.full((4, 28, 28), 7, np.uint8), np.arange(4, dtype=np.uint8)
    actual = idx.keras_archive(archive(x_test=images, y_test=labels), "mnist.npz", SHAPES)
    assert actual == {"t10k-images-idx3-ubyte": idx.encode(images), "t10k-labels-idx1-ubyte": idx.encode(labels)}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"no archive", "not a valid npz"),
        (archive(x_test=np.zeros((4, 28, 28), np.uint8)), "has no such array"),
        (archive(x_test=np.zeros((4, 28, 28), np.uint8), y_test=np.array([{}] * 4)), "pickled object"),
        (archive(x_test=np.zeros((4, 28, 28)), y_test=np.zeros(4)), "more than the 3,136 bytes"),
        (archive(x_test=np.zeros((3, 28, 28), np.uint8), y_test=np.zeros(4)), r"uint8 \(3, 28, 28\) instead of"),
        (archive(x_test=np.zeros((9999, 999), np.uint8), y_test=np.zeros(4)), "more than the 3,136 bytes"),
    ],
)
def test_each_defect_of_a_keras_archive_has_its_own_words(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        idx.keras_archive(data, "mnist.npz", SHAPES)


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"])
def test_an_archive_that_cannot_be_unpacked_is_refused(offset: int, value: int) -> None:
    data = bytearray(archive(x_test=np.zeros((4, 28, 28), np.uint8), y_test=np.zeros(4, np.uint8)))
    start = 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:  # every entry of the central directory
        data[start + offset] = value
        start += 1
    with pytest.raises(DataError, match="not a valid npz"):
        idx.keras_archive(bytes(data), "mnist.npz", SHAPES)


def test_a_damaged_archive_member_is_refused() -> None:
    data = bytearray(archive(x_test=np.zeros((4, 28, 28), np.uint8), y_test=np.zeros(4, np.uint8)))
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        start = opened.infolist()[0].header_offset
    data[start + 60] ^= 255
    with pytest.raises(DataError, match=r"not a valid npz|cannot read x_test"):
        idx.keras_archive(bytes(data), "mnist.npz", SHAPES)


IMAGES, LABELS = np.arange(4 * 28 * 28).reshape(4, 28, 28).astype(np.uint8), np.arange(4, dtype=np.uint8)
RIGHT = {"t10k-images-idx3-ubyte": idx.encode(IMAGES), "t10k-labels-idx1-ubyte": idx.encode(LABELS)}


def npy(array: idx.Bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def with_header(header: str, version: int = 1, length: int | None = None, rest: bytes = LABELS.tobytes()) -> bytes:
    """A .npy of the labels with this header, or with one that claims another length."""
    data = header.encode("latin-1")
    size = len(data) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + data + rest


def members(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for name, data in files:
            opened.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def with_labels(labels: bytes) -> bytes:
    return members(("x_test.npy", npy(IMAGES)), ("y_test.npy", labels))


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Every record of a zip archive that begins with the signature, with a value written into it."""
    changed, start = bytearray(data), 0
    while (start := changed.find(signature, start)) >= 0:
        changed[start + offset : start + offset + len(value)] = value
        start += 1
    return bytes(changed)


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
WHOLE = with_labels(npy(LABELS))


@contextmanager
def little(seconds: float = 5.0, peak: int = 20_000_000) -> Iterator[None]:
    """What happens inside takes little time and memory."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < seconds


def header(descr: str = "'|u1'", fortran: str = "False", shape: str = "(4,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        with_labels(npy(LABELS, (2, 0))),
        with_labels(npy(LABELS, (3, 0))),
        members(("x_test.npy", npy(np.asfortranarray(IMAGES))), ("y_test.npy", npy(LABELS))),
        members(("x_test.npy", npy(IMAGES)), ("y_test.npy", npy(LABELS)), method=zipfile.ZIP_STORED),
        b"something before it" + WHOLE,
        members(("../../x", b""), ("/etc/passwd", b""), ("x_test.npy", npy(IMAGES)), ("y_test.npy", npy(LABELS))),
        patched(WHOLE, CENTRAL, 20, b"\xff" * 8),
    ],
    ids=["plain", "version 2", "version 3", "Fortran order", "stored", "a prefix", "other members", "sizes of 4 GB"],
)
def test_an_archive_in_another_form_gives_the_same_bytes(data: bytes) -> None:
    assert idx.keras_archive(data, "mnist.npz", SHAPES) == RIGHT


HEADERS = {
    "terabytes": header(shape="(1099511627776,)"),
    "terabytes in two sizes": header(shape="(4294967296, 4294967296)"),
    "a size of 4,000 digits": header(shape="(" + "9" * 4000 + ",)"),
    "negative": header(shape="(-4,)"),
    "text for a size": header(shape="('4',)"),
    "a number for the shape": header(shape="4"),
    "a list for the shape": header(shape="[4]"),
    "no shape": header(shape="()"),
    "ten dimensions": header(shape="(1, 1, 1, 1, 1, 1, 1, 1, 1, 4)"),
    "a structure": header(descr="[('a', '|u1')]"),
    "a pair": header(descr="('|u1', (2,))"),
    "signed": header(descr="'|i1'"),
    "an unknown type": header(descr="'|Z9'"),
    "a type of gigabytes": header(descr="'|V4294967296'"),
    "text": header(descr="'<U1'"),
    "a comma type": header(descr="'u1,u1'"),
    "a call": header(descr="__import__('os').system('false')"),
    "no boolean": header(fortran="0"),
    "nothing": "",
    "no literal": "import os\n",
    "parentheses": "(" * 4000,
    "braces": "{" * 4000,
    "minus signs": "-" * 4000 + "1",
    "an escape": "'\\d'\n",
    "NUL": "\0" * 100,
    "long spaces": header()[:-1] + " " * 4000,
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("version", [1, 2, 3, 0, 4, 255])
def test_a_header_that_was_made_to_harm_is_refused(kind: str, version: int) -> None:
    with little(), pytest.raises(DataError, match=r"cannot read y_test of mnist\.npz"):
        idx.keras_archive(with_labels(with_header(HEADERS[kind], version)), "mnist.npz", SHAPES)


@pytest.mark.parametrize(
    "labels",
    [
        b"",
        b"\x93NUMPY",
        with_header(header(), length=0),
        with_header(header(), length=65535),
        with_header(header(), 2, length=2**32 - 1),
        with_header(header(), rest=b""),
        with_header(header(), rest=bytes(3)),
        with_header(header(), rest=bytes(5)),
    ],
)
def test_an_array_of_another_length_is_refused(labels: bytes) -> None:
    with little(), pytest.raises(DataError, match=r"cannot read y_test of mnist\.npz"):
        idx.keras_archive(with_labels(labels), "mnist.npz", SHAPES)


BOMB = ("y_test.npy", npy(LABELS) + bytes(30_000_000))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        END + bytes(18),
        WHOLE + WHOLE[-22:][:10],
        WHOLE[: len(WHOLE) // 2],
        members(("x_test.npy", npy(IMAGES)), ("y_test.npy", npy(LABELS)), method=zipfile.ZIP_LZMA),
        members(("x_test.npy", npy(IMAGES)), ("y_test.npy", npy(LABELS)), method=zipfile.ZIP_BZIP2),
        members(BOMB, ("x_test.npy", npy(IMAGES)), method=zipfile.ZIP_LZMA),
        members(BOMB, ("x_test.npy", npy(IMAGES)), method=zipfile.ZIP_BZIP2),
        members(BOMB, ("x_test.npy", npy(IMAGES))),
        members(("a/x_test.npy", npy(IMAGES)), ("y_test.npy", npy(LABELS))),
        *(patched(WHOLE, CENTRAL, 10, struct.pack("<H", method)) for method in (1, 9, 12, 14, 93, 95, 97, 99, 65535)),
        *(patched(WHOLE, CENTRAL, 8, struct.pack("<H", flags)) for flags in (1, 0x20, 0x40, 0x2001)),
        *(patched(WHOLE, CENTRAL, 6, bytes([version])) for version in (64, 255)),
        patched(WHOLE, CENTRAL, 46, b"\xff\xfe"),  # not the name that the member itself has
        patched(patched(WHOLE, CENTRAL, 46, b"\xff\xfe"), CENTRAL, 8, struct.pack("<H", 0x800)),
        *(patched(WHOLE, CENTRAL, offset, b"\xff" * 4) for offset in (16, 28, 32, 42)),
        *(patched(WHOLE, LOCAL, offset, b"\xff" * 4) for offset in (0, 26)),
        *(patched(WHOLE, END, offset, b"\xff" * 4) for offset in (12, 16)),
        patched(WHOLE, CENTRAL, 20, bytes(4)),
        patched(WHOLE, CENTRAL, 24, bytes(4)),
        b"PK\x06\x06" + b"\xff" * 52 + b"PK\x06\x07" + bytes(16) + patched(WHOLE, END, 12, b"\xff" * 8)[-22:],
    ],
)
def test_an_archive_that_was_made_to_harm_is_refused(data: bytes) -> None:
    with little(), pytest.raises(DataError, match=r"cannot read .*mnist\.npz") as error:
        idx.keras_archive(data, "mnist.npz", SHAPES)
    assert str(error.value).isprintable()


def test_an_archive_of_many_members_is_refused() -> None:
    """Made here: it takes a second, which whoever only collects the tests would pay too."""
    test_an_archive_that_was_made_to_harm_is_refused(members(*((f"{number}", b"") for number in range(30_000))))


@settings(max_examples=200, deadline=None)
@given(mutations(WHOLE))
def test_a_changed_archive_gives_the_right_bytes_or_is_refused(data: bytes) -> None:
    with suppress(DataError):
        assert idx.keras_archive(data, "mnist.npz", SHAPES) == RIGHT


@settings(max_examples=200, deadline=None)
@given(mutations(npy(LABELS)))
def test_a_changed_array_has_the_right_shape_or_is_refused(data: bytes) -> None:
    with suppress(DataError):
        (actual,) = idx.keras_archive(with_labels(data), "mnist.npz", {"t10k-labels-idx1-ubyte": (4,)}).values()
        assert idx.decode(actual, "labels", (4,)).shape == (4,)


@settings(max_examples=200, deadline=None)
@given(mutations(gzip.compress(RIGHT["t10k-images-idx3-ubyte"])))
def test_a_changed_gzip_file_gives_the_right_bytes_or_is_refused(data: bytes) -> None:
    right = RIGHT["t10k-images-idx3-ubyte"]
    with suppress(DataError):
        assert idx.gunzip(data, "file", len(right)) == right


@settings(max_examples=200, deadline=None)
@given(mutations(RIGHT["t10k-images-idx3-ubyte"]))
def test_a_changed_idx_file_has_the_right_header_or_is_refused(data: bytes) -> None:
    with suppress(DataError):
        assert idx.encode(idx.decode(data, "file", (4, 28, 28))) == data
