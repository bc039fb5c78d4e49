"""The preprocess step: IDX files become flat uint8 arrays, with the statistics of the data checked and kept.

What training sees is float32 in [0, 1] of shape (n, 784): `scale` makes it. What is stored is the uint8 behind it,
47 MB instead of 188.
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
