"""Training, validation and test images as flat arrays, with their statistics. Called by the preprocess step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.data import idx
from tasks.data.arrays import SCALE, Bytes, Split
from tasks.errors import DataError
from tasks.values import Statistics


def flatten(images: Bytes, labels: Bytes) -> Split:
    """Images (n, height, width) as rows. Raises DataError where the labels are fewer or more."""
    if len(images) != len(labels):
        raise DataError(
            "cannot pair images and labels", f"{len(images):,} images, {len(labels):,} labels", idx.ASK_AGAIN
        )
    return Split(images.reshape(len(images), -1), labels)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split into (training, validation), each class in proportion, in the original order, chosen by the seed.

    Raises DataError where so few images cannot hold every class.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(split.labels))
    try:
        rest, held = train_test_split(rows, test_size=fraction, random_state=seed, stratify=split.labels)
    except ValueError as error:
        raise DataError(
            "cannot hold out a validation split", str(error), "Set validation_fraction to 0 or to more."
        ) from error
    return _take(split, np.sort(rest)), _take(split, np.sort(held))


def _take(split: Split, rows: NDArray[np.intp]) -> Split:
    return Split(split.images[rows], split.labels[rows])


def statistics(split: Split, classes: int, name: str) -> Statistics:
    """Images per class; mean, minimum and maximum of the scaled pixels.

    Raises DataError where a class has no image or all pixels are the same: nothing could be learned from that.
    """
    per_class = np.bincount(split.labels, minlength=classes)
    if (per_class == 0).any():
        raise DataError(f"cannot use the {name} images", f"class {int(per_class.argmin())} has none", idx.ASK_AGAIN)
    minimum, maximum = int(split.images.min()), int(split.images.max())
    if minimum == maximum:
        raise DataError(f"cannot use the {name} images", f"every pixel is {minimum}", idx.ASK_AGAIN)
    return Statistics(
        images=len(split.labels),
        per_class=tuple(int(count) for count in per_class),
        mean=round(float(split.images.mean(dtype=np.float64)) * SCALE, 6),
        minimum=minimum * SCALE,
        maximum=maximum * SCALE,
    )
