"""The preprocess step: the splits as flat uint8 arrays, without leaks, with the statistics of each. Called by the flow.

A model takes float32 in [0, 1]: see `tasks.data.arrays.scale`. The store has the uint8 pixels, which take a quarter of
the memory. Imports no TensorFlow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np

from tasks.caching.steps import Run, step
from tasks.data.arrays import Split, read_split, require_split, store_split
from tasks.data.splits import divide, hold_out, statistics
from tasks.values import Artifact, Dataset, Examples, Prepared

LOG = logging.getLogger("retrain.preprocess")


def _fits(
    result: Prepared, read: Callable[[Artifact], bytes], data: Dataset, validation_fraction: float, *_: object
) -> None:
    splits = {"train": result.train, "test": result.test}
    if result.validation:
        splits["validation"] = result.validation
    described = (result.dataset, result.shape, result.classes, result.batches, bool(result.validation))
    if described != (data.dataset, data.shape, data.classes, data.batches, bool(validation_fraction)):
        raise ValueError("it is of other data")
    if result.statistics.keys() != splits.keys():
        raise ValueError("it has no statistics of each split")
    for name, examples in splits.items():
        split = read_split(examples, read)
        require_split(split, (math.prod(data.shape),), len(data.classes))
        if result.statistics[name].per_class != tuple(np.bincount(split.labels, minlength=len(data.classes))):
            raise ValueError(f"its statistics are not those of the {name} images")


@step(packages=["numpy", "scikit-learn"], fits=_fits)
def preprocess(data: Dataset, validation_fraction: float, split_seed: int, run: Run) -> Prepared:
    """Turn canonical images into one pair of arrays per split: images uint8 (n, pixels), labels (n,).

    Without a test split of the source, the content of an image decides whether it is a test image. An image that is in
    both splits is left out of training.

    Raises:
        DataError: A model cannot learn from the data.
    """
    test_split = _flat(data.test, run) if data.test else None
    train, test, leaked = divide(_flat(data.train, run), test_split, data.classes)
    if leaked:
        LOG.warning("preprocess: %s of the training images are test images too, and are left out", f"{leaked:,}")
    splits = {"train": train, "test": test}
    if validation_fraction:
        splits["train"], splits["validation"] = hold_out(splits["train"], validation_fraction, split_seed)
    summary = {name: statistics(each, data.classes, name) for name, each in splits.items()}
    LOG.info("preprocess: %s", ", ".join(f"{value.images:,} {name} images" for name, value in summary.items()))
    return Prepared(
        dataset=data.dataset,
        shape=data.shape,
        classes=data.classes,
        leaked=leaked,
        batches=data.batches,
        statistics=summary,
        **{name: store_split(each, run.artifacts.put) for name, each in splits.items()},
    )


def _flat(examples: Examples, run: Run) -> Split:
    images, labels = read_split(examples, run.artifacts.get)
    return Split(images.reshape(len(images), -1), labels)
