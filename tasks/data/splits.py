"""Training, validation and test images as flat arrays, and their statistics. Called by the preprocess step.

Imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.data import idx
from tasks.data.arrays import SCALE, Bytes, Split
from tasks.errors import DataError
from tasks.values import Statistics


def flatten(images: Bytes, labels: Bytes) -> Split:
    """Images uint8 (n, height, width) as rows (n, height · width), with labels uint8 (n,).

    Raises:
        DataError: The number of labels differs from the number of images.
    """
    if len(images) != len(labels):
        raise DataError(
            "cannot pair images and labels", f"{len(images):,} images, {len(labels):,} labels", idx.NEXT_STEP
        )
    return Split(images.reshape(len(images), -1), labels)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split into (training, validation) at random: stratified by class, reproducible by seed, in the original order.

    Raises:
        DataError: The share is too small for one image of every class.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(split.labels))
    try:
        training, validation = train_test_split(rows, test_size=fraction, random_state=seed, stratify=split.labels)
    except ValueError as error:
        raise DataError(
            "cannot hold out a validation split", str(error), "Set validation_fraction to 0 or to more."
        ) from error
    return _select(split, np.sort(training)), _select(split, np.sort(validation))


def _select(split: Split, rows: NDArray[np.intp]) -> Split:
    return Split(split.images[rows], split.labels[rows])


def statistics(split: Split, classes: int, name: str) -> Statistics:
    """Images per class; mean, minimum and maximum of the pixels, scaled to [0, 1].

    Raises:
        DataError: A class has no image, or all pixels are the same: a model cannot learn from either.
    """
    per_class = np.bincount(split.labels, minlength=classes)
    if (per_class == 0).any():
        raise DataError(f"cannot use the {name} images", f"class {int(per_class.argmin())} has none", idx.NEXT_STEP)
    minimum, maximum = int(split.images.min()), int(split.images.max())
    if minimum == maximum:
        raise DataError(f"cannot use the {name} images", f"every pixel is {minimum}", idx.NEXT_STEP)
    return Statistics(
        images=len(split.labels),
        per_class=tuple(int(count) for count in per_class),
        mean=round(float(split.images.mean(dtype=np.float64)) * SCALE, 6),
        minimum=minimum * SCALE,
        maximum=maximum * SCALE,
    )
