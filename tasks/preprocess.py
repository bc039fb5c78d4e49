"""The preprocess step: IDX files become flat uint8 arrays, with the statistics of the data checked and kept.

What training sees is float32 in [0, 1] of shape (n, 784): `scale` makes it. What is stored is the uint8 behind it,
47 MB instead of 188.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from tasks import idx
from tasks.arrays import SCALE, Bytes, Split, to_npy
from tasks.caching.steps import Run, step
from tasks.datasets import DATASETS, Spec
from tasks.errors import DataError
from tasks.values import Examples, Files, Prepared, Statistics

LOG = logging.getLogger("retrain.preprocess")


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


@step(packages=["numpy", "scikit-learn"])
def preprocess(files: Files, validation_fraction: float, split_seed: int, run: Run) -> Prepared:
    """Turn the four IDX files into the arrays that training and evaluation read."""
    spec = DATASETS[files.dataset]
    splits = {"train": _read(files, spec, "train", run), "test": _read(files, spec, "test", run)}
    if validation_fraction:
        splits["train"], splits["validation"] = hold_out(splits["train"], validation_fraction, split_seed)
    found = {name: statistics(split, spec.classes, name) for name, split in splits.items()}
    LOG.info("preprocess: %s", ", ".join(f"{value.images:,} {name} images" for name, value in found.items()))
    return Prepared(
        dataset=files.dataset, statistics=found, **{name: _keep(split, run) for name, split in splits.items()}
    )


def _read(files: Files, spec: Spec, split: str, run: Run) -> Split:
    names = (f"{split}_images", f"{split}_labels")
    images, labels = (
        idx.decode(run.artifacts.get(getattr(files, name)), spec.files[name].name, spec.files[name].shape)
        for name in names
    )
    return flatten(images, labels)


def _keep(split: Split, run: Run) -> Examples:
    images, labels = (run.artifacts.put(to_npy(array), "application/x-npy") for array in split)
    return Examples(images=images, labels=labels)
