from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from tasks.data.arrays import arrays_of, from_npy, from_npz, to_npy, to_npz

SMALL = to_npy(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.uint8),
        np.float32(1) * np.ones((), np.float32),
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype="<f4").reshape(2, 3)),
        np.array([True, False]),
    ],
)
def test_an_array_comes_back(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    restored = from_npy(to_npy(array))
    assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
    assert np.array_equal(restored, array)


def with_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    return buffer.getvalue()


def claiming(what: bytes, instead: bytes) -> bytes:
    """The small array with another text in its header, of the same length."""
    assert what in SMALL
    return SMALL.replace(what, instead.ljust(len(what)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        SMALL[:-1],
        SMALL + b"\0",
        SMALL.replace(b"\x01\x00", b"\x02\x00", 1),
        claiming(b"(2, 3)", b"(9**9)"),
        claiming(b"(2, 3)", b"(2, 4)"),
        claiming(b"(2, 3)", b"(-1,)"),
        claiming(b"'shape': (2, 3), }          ", b"'shape': (99999999999999999,), }"[:28]),
        claiming(b"'descr': '|u1'", b"'descr': '|O8'"),
        claiming(b"'descr': '|u1'", b"'descr': '<f3'"),
        with_objects(),
        to_npy(np.array("text")),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - NumPy's own words, for some
        from_npy(data)


def packed(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        packed(labels=SMALL),
        packed(probabilities=SMALL, labels=SMALL),
        packed(zipfile.ZIP_DEFLATED, probabilities=to_npy(np.zeros(10**7, np.float32)), labels=SMALL),
        packed(zipfile.ZIP_LZMA, probabilities=SMALL, labels=SMALL),
        to_npz(np.ones((1, 2), np.float32), np.array([2], np.uint8)),
    ],
)
def test_what_is_no_file_of_predictions_is_refused_before_anything_of_its_size_is_allocated(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"no file of|a member is compressed|no probabilities|no class"):
        from_npz(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_every_array_of_a_file_is_read_by_name() -> None:
    assert arrays_of(packed(a=SMALL, b=SMALL)).keys() == {"a", "b"}
