"""NumPy's .npz: arrays of images and labels under Keras' names, or `images` and `labels`. Nothing is unpickled.

An array `classes` of text may name the classes, by label.
"""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.sources.interface import (
    AS_BATCHES,
    MOST_BYTES,
    MOST_CLASSES,
    MOST_IMAGES,
    Part,
    Parts,
    Progress,
    Tree,
    allocate,
    fill,
    left_out,
    shown,
    unreadable,
    without_channel,
)

NAME = "npz"
FILES = "one .npz file"

# (images, labels) of the training split and of the test split; a source without a test split has only the first.
SPELLINGS = (
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("images", "labels"), ("test_images", "test_labels")),
    (("x", "y"), ("x_test", "y_test")),
)

NUMBERS = "Save the number of each image's class; of one-hot rows the argmax. An array `classes` may name the numbers."

# What deflate makes of one byte at most, and what an archive has beside its content.
LARGEST_RATIO, OVERHEAD = 1032, 1 << 16
LONGEST_CLASSES = MOST_CLASSES * 4 * 256 + 4096


def fits(names: Sequence[str]) -> bool:
    """See `Format`."""
    return any(name.lower().endswith(".npz") for name in names)


def read(tree: Tree, names: Sequence[str], progress: Progress) -> Parts:
    """See `Format`."""
    archives = [name for name in names if name.lower().endswith(".npz")]
    if len(archives) > 1:
        raise unreadable(tree.where, f"it has {len(archives)} .npz files", "Keep one of them." + AS_BATCHES)
    name = archives[0]
    try:
        with tree.open(name, MOST_BYTES) as file, zipfile.ZipFile(file) as archive:
            return _parts(archive, name, progress)
    # NotImplementedError and RuntimeError: an unknown compression, or encrypted.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError, OverflowError) as error:
        raise unreadable(name, f"it is not a valid .npz archive ({type(error).__name__})") from error
    except OSError as error:
        raise unreadable(name, error.strerror or type(error).__name__) from error


def _parts(archive: zipfile.ZipFile, name: str, progress: Progress) -> Parts:
    members = {member.removesuffix(".npy") for member in archive.namelist()}
    for train, test in SPELLINGS:
        if members.issuperset(train):
            classes = _classes(archive, name) if "classes" in members else None
            has_test = not members.isdisjoint(test)
            parts = Parts(
                _part(archive, name, *train, progress),
                _part(archive, name, *test, progress) if has_test else None,
                classes,
            )
            if classes and len(classes) > 256 and parts.train.labels.dtype.itemsize == 1:
                why = f"its labels are {parts.train.labels.dtype}, which tells no {len(classes)} classes apart"
                raise unreadable(parts.train.where, why, "Save the labels as int64.")
            left_out([member for member in members if member.startswith(("x_val", "val_"))], name)
            return parts
    found = ", ".join(sorted(map(shown, members))[:8]) or "nothing"
    wanted = " or ".join(f"{images} with {labels}" for (images, labels), _ in SPELLINGS)
    raise unreadable(name, f"it holds {found} instead of {wanted}")


def _part(archive: zipfile.ZipFile, name: str, images: str, labels: str, progress: Progress) -> Part:
    pixels = _images(archive, f"{images} of {name}", images, progress)
    return Part(pixels, _labels(archive, f"{labels} of {name}", labels), f"{labels} of {name}")


def _images(archive: zipfile.ZipFile, where: str, member: str, progress: Progress) -> NDArray[np.uint8]:
    with _opened(archive, where, member) as file:
        shape, dtype = _header(file, where)
        if dtype != np.uint8:
            next_step = "Save uint8 from 0 to 255; multiply what goes to 1 by 255."
            raise unreadable(where, f"its pixels are {dtype} instead of uint8", next_step)
        _require_plausible(archive, where, member, math.prod(shape))
        array = allocate(without_channel(shape), where)
        fill(file, array, where, progress)
    return array


def _labels(archive: zipfile.ZipFile, where: str, member: str) -> NDArray[Any]:
    with _opened(archive, where, member) as file:
        shape, dtype = _header(file, where)
        if dtype.kind not in "iu":
            raise unreadable(where, f"its labels are {dtype} instead of whole numbers", NUMBERS)
        if len(shape) not in {1, 2} or shape[1:] not in {(), (1,)} or shape[0] > MOST_IMAGES:
            raise unreadable(where, f"its labels have the shape {shape} instead of (n,) or (n, 1)", NUMBERS)
        _require_plausible(archive, where, member, math.prod(shape) * dtype.itemsize)
        array = np.empty(shape[0], dtype)
        fill(file, array, where)
    return array


def _classes(archive: zipfile.ZipFile, name: str) -> tuple[str, ...]:
    where = f"classes of {name}"
    with _opened(archive, where, "classes") as file:
        shape, dtype = _header(file, where)
        if dtype.kind != "U" or len(shape) != 1:
            raise unreadable(where, f"it is {dtype} {shape} instead of a list of text")
        if (size := math.prod(shape) * dtype.itemsize) > LONGEST_CLASSES:
            raise unreadable(where, f"it has {size:,} bytes, and {LONGEST_CLASSES:,} are enough for all names")
        array = np.empty(shape, dtype)
        fill(file, array, where)
    try:
        return tuple(map(str, array))
    except ValueError as error:
        raise unreadable(where, "it holds what is no character") from error


def _opened(archive: zipfile.ZipFile, where: str, member: str) -> IO[bytes]:
    try:
        return archive.open(f"{member}.npy")
    except KeyError:
        raise unreadable(where, "the archive has no such array") from None


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array; refuses pickled objects and columns first."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"version {version}")
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header that Python 2 wrote
            shape, columns_first, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise unreadable(where, "it is no .npy array") from error
    if dtype.hasobject:
        raise unreadable(where, "it holds a pickled object, which is never loaded")
    if columns_first and len(shape) > 1:
        raise unreadable(where, "its columns come first (Fortran's order)", "Save np.ascontiguousarray of it.")
    if any(length < 0 for length in shape):
        raise unreadable(where, f"its shape is {shape}")
    return shape, dtype


def _require_plausible(archive: zipfile.ZipFile, where: str, member: str, size: int) -> None:
    """Refuse a header that claims more than the archive can hold, before memory is spent on it."""
    packed = archive.getinfo(f"{member}.npy").compress_size
    if size > packed * LARGEST_RATIO + OVERHEAD:
        raise unreadable(where, f"its header tells of {size:,} bytes, and the archive has {packed:,} for them")
