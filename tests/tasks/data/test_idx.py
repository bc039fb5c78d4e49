from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tasks.data import idx
from tasks.errors import DataError

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
