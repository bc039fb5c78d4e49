"""Labelled images by their content: one order for them, a test split, and images that two splits share.

Own data have no order that every format keeps, so the SHA-256 of an image's pixels decides its place and its split.
Called by `tasks.data.sources` and the steps `download` and `preprocess`; pure NumPy, imports no other module.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Labels = NDArray[Any]  # uint8 or uint16

# The share of the images that becomes the test split of a source without one.
TEST_SHARE = 0.15


class Split(NamedTuple):
    """Labelled images: uint8 (n, height, width), (n, height, width, 3) or (n, pixels); labels (n,) from 0 on.

    The labels are uint8, or uint16 for more than 256 classes.
    """

    images: Bytes
    labels: Labels


def digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 16 bytes of the SHA-256 of each image's pixels, as two numbers: uint64 (n, 2)."""
    if not len(images):
        return np.empty((0, 2), np.uint64)
    rows, size = np.ascontiguousarray(images).data.cast("B"), images[0].nbytes
    result = bytearray(16 * len(images))
    for image in range(len(images)):
        digest = hashlib.sha256(rows[image * size : (image + 1) * size]).digest()
        result[image * 16 : (image + 1) * 16] = digest[:16]
    return np.frombuffer(result, ">u8").astype(np.uint64).reshape(-1, 2)


def sort_by_content(images: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Sort C-contiguous images, at least one, and their labels in place, by the images' digests, then by label.

    In place, because a sorted copy would take the memory of the images again.
    """
    keys = digests(images)
    order = np.lexsort((labels, keys[:, 1], keys[:, 0]))
    labels[:] = labels[order]
    rows, size, source = images.data.cast("B"), images[0].nbytes, order.data
    for start in range(len(images)):
        if source[start] < 0:  # moved already
            continue
        first, place = bytes(rows[start * size : (start + 1) * size]), start
        while (other := source[place]) != start:
            rows[place * size : (place + 1) * size] = rows[other * size : (other + 1) * size]
            source[place], place = -1, other
        rows[place * size : (place + 1) * size] = first
        source[place] = -1


def split_by_content(everything: Split, share: float = TEST_SHARE) -> tuple[Split, Split]:
    """Split into (training, test) by the images' digests; both keep the order.

    So a test image stays one whatever is added later or removed, equal images are on one side, and a larger share only
    adds test images. `share` is that of all possible images; the one of a small set, or of a small class, varies.
    """
    test = digests(everything.images)[:, 0] < np.uint64(min(int(share * 2**64), 2**64 - 1))
    training, testing = (Split(*(array[rows] for array in everything)) for rows in (~test, test))
    return training, testing


def leaks(train: Split, test: Split) -> NDArray[np.intp]:
    """The indices of the training images that stand in the test split too, pixel for pixel, under whatever label."""
    pairs = np.dtype([("high", np.uint64), ("low", np.uint64)])
    train_keys, test_keys = (digests(split.images).view(pairs).ravel() for split in (train, test))
    return np.flatnonzero(np.isin(train_keys, test_keys))
