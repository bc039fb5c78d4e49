"""Training, validation and test splits of labelled images, and their statistics. Called by the preprocess step.

Imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import SCALE, Split
from tasks.data.content import TEST_SHARE, leaks, split_by_content
from tasks.errors import DataError
from tasks.values import Statistics

NEXT_STEP = "Correct the data, or use another source."

# Images of a class of which fewer than one in a thousand times none is a test image: 0.85 ** 43 = 0.0009.
ENOUGH = 43


class Splits(NamedTuple):
    """Training and test images; `leaked` training images were left out, as they are test images too."""

    train: Split
    test: Split
    leaked: int


def divide(train: Split, test: Split | None, classes: Sequence[str]) -> Splits:
    """Training images and test images, which have none in common.

    Without a test split of the source, the content of an image decides whether it is a test image.

    Raises:
        DataError: A class has no image in one of the two, or has none left.
    """
    if test is None:
        parts = split_by_content(train)
        for part, name in zip(parts, ("training", "test"), strict=True):
            _require_all_classes(part, train, classes, name)
        return Splits(*parts, 0)
    leaked = leaks(train, test)
    if not len(leaked):
        return Splits(train, test, 0)
    kept = Split(np.delete(train.images, leaked, axis=0), np.delete(train.labels, leaked))
    if len(missing := _missing(kept, classes)):
        why = f"each training image of class {classes[missing[0]]} stands in the test split too, and is left out"
        raise DataError("cannot use the training images", why, "Add other images of it, or take these from the test.")
    return Splits(kept, test, len(leaked))


def _require_all_classes(part: Split, everything: Split, classes: Sequence[str], name: str) -> None:
    """Raise DataError if the split by content leaves a class of few images without one."""
    missing = _missing(part, classes)
    if not len(missing):
        return
    images = int((everything.labels == missing[0]).sum())
    others = f"; {len(missing):,} classes have none" if len(missing) > 1 else ""
    raise DataError(
        f"cannot make a test split for class {classes[missing[0]]}",
        f"the content of an image decides whether it is a test image, as {TEST_SHARE:.0%} are, and none of its "
        f"{images:,} is a {name} image{others}",
        f"Add images of it ({ENOUGH} are nearly always enough), or give a test split of your own, which is used as it "
        "is: test/<class>/, test.csv, x_test.",
    )


def _missing(split: Split, classes: Sequence[str]) -> NDArray[np.intp]:
    """The labels that no image has."""
    return np.flatnonzero(np.bincount(split.labels, minlength=len(classes)) == 0)


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


def statistics(split: Split, classes: Sequence[str], name: str) -> Statistics:
    """Images per class; mean, minimum and maximum of the pixels, scaled to [0, 1].

    Raises:
        DataError: A class has no image, or all pixels are the same: a model cannot learn from either.
    """
    per_class = np.bincount(split.labels, minlength=len(classes))
    if (per_class == 0).any():
        empty = classes[int(per_class.argmin())]
        raise DataError(f"cannot use the {name} images", f"class {empty} has none", f"Add {name} images of it.")
    minimum, maximum = int(split.images.min()), int(split.images.max())
    if minimum == maximum:
        raise DataError(f"cannot use the {name} images", f"every pixel is {minimum}", NEXT_STEP)
    return Statistics(
        images=len(split.labels),
        per_class=tuple(int(count) for count in per_class),
        mean=round(float(split.images.mean(dtype=np.float64)) * SCALE, 6),
        minimum=minimum * SCALE,
        maximum=maximum * SCALE,
    )
