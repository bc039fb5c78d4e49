"""The preprocess step: turns IDX files into flat uint8 arrays, and checks and records the statistics of the data.

A model takes float32 in [0, 1] of shape (n, 784): see `tasks.data.arrays.scale`. The store has the uint8 pixels, which
take 47 MB instead of 188. Called by the flow; imports no TensorFlow.
"""

from __future__ import annotations

import logging

from tasks.caching.steps import Run, step
from tasks.data import idx
from tasks.data.arrays import Split, to_npy
from tasks.data.datasets import DATASETS, Spec
from tasks.data.splits import flatten, hold_out, statistics
from tasks.values import Examples, Files, Prepared

LOG = logging.getLogger("retrain.preprocess")


@step(packages=["numpy", "scikit-learn"])
def preprocess(files: Files, validation_fraction: float, split_seed: int, run: Run) -> Prepared:
    """Turn the four IDX files into one pair of arrays per split: images uint8 (n, 784), labels uint8 (n,).

    Raises:
        DataError: A file is not what its pin says, or a model cannot learn from the data.
    """
    spec = DATASETS[files.dataset]
    splits = {"train": _read(files, spec, "train", run), "test": _read(files, spec, "test", run)}
    if validation_fraction:
        splits["train"], splits["validation"] = hold_out(splits["train"], validation_fraction, split_seed)
    summary = {name: statistics(split, spec.classes, name) for name, split in splits.items()}
    LOG.info("preprocess: %s", ", ".join(f"{value.images:,} {name} images" for name, value in summary.items()))
    return Prepared(
        dataset=files.dataset, statistics=summary, **{name: _store(split, run) for name, split in splits.items()}
    )


def _read(files: Files, spec: Spec, split: str, run: Run) -> Split:
    names = (f"{split}_images", f"{split}_labels")
    images, labels = (
        idx.decode(run.artifacts.get(getattr(files, name)), spec.files[name].name, spec.files[name].shape)
        for name in names
    )
    return flatten(images, labels)


def _store(split: Split, run: Run) -> Examples:
    images, labels = (run.artifacts.put(to_npy(array), "application/x-npy") for array in split)
    return Examples(images=images, labels=labels)
