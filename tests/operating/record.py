"""Trains the default recipe with many seeds and records which test images each model gets wrong.

python -m tests.operating.record --mirror file:///data/mnist    # 8 s a seed on 2 cores; continues after an interruption

Besides the default recipe, four recipes that are worse for a real reason: 2 epochs, 3 epochs, half of the training
images, shuffled labels. `seeds.json` has one training a line and the packages that computed it, so that
`characteristics.py` can compute its tables without training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.caching.keys import installed
from tasks.data import idx
from tasks.data.arrays import Split
from tasks.data.datasets import MNIST
from tasks.data.mirrors import fetch
from tasks.learning.device import device_kind
from tasks.learning.model_file import to_bytes
from tasks.learning.predictions import predict
from tasks.learning.training import fit
from tasks.settings import Recipe
from tasks.train import PACKAGES

SEEDS = Path(__file__).with_name("seeds.json")


def shuffled(split: Split) -> Split:
    """Every image has the label of some other image."""
    return Split(split.images, np.random.default_rng(0).permutation(split.labels))


def half(split: Split) -> Split:
    """The first half of the images, as if a download had been cut and nobody noticed."""
    return Split(split.images[: len(split.labels) // 2], split.labels[: len(split.labels) // 2])


class Kind(NamedTuple):
    """A recipe: how many seeds of it are trained, for how many epochs, on what of the training set."""

    seeds: int
    epochs: int = Recipe().epochs
    data: Callable[[Split], Split] = lambda split: split


KINDS = {
    "half the images": Kind(10, data=half),
    "2 epochs": Kind(10, epochs=2),
    "3 epochs": Kind(10, epochs=3),
    "shuffled labels": Kind(1, data=shuffled),
    "default": Kind(100),
}


def trainings(mirror: str, done: set[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Train what is not done yet; yield the kind, the seed, and which test images the model gets wrong.

    Those are stored as the first index and the differences to the next: half as long as the indices.
    """
    train, test = splits(mirror)
    for name, kind in KINDS.items():
        for seed in range(kind.seeds):
            if (name, seed) not in done:
                model = fit(kind.data(train), Recipe(seed=seed, epochs=kind.epochs)).model
                predicted = predict(to_bytes(model), test.images).argmax(axis=1)
                wrong = np.flatnonzero(predicted != test.labels)
                yield {"kind": name, "seed": seed, "wrong": np.diff(wrong, prepend=0).tolist()}


def splits(mirror: str) -> tuple[Split, Split]:
    """MNIST's training and test images."""
    contents = fetch(MNIST, (mirror,)).contents
    arrays = {field: idx.decode(contents[field], file.name, file.shape) for field, file in MNIST.files.items()}
    return (
        Split(arrays["train_images"].reshape(-1, 784), arrays["train_labels"]),
        Split(arrays["test_images"].reshape(-1, 784), arrays["test_labels"]),
    )


def main(mirror: str, path: Path) -> None:
    """Train, and write after each training."""
    environment = {
        "packages": {name: installed(name) for name in PACKAGES},
        "arithmetic": device_kind("cpu").arithmetic,
        "labels": "".join(map(str, splits(mirror)[1].labels)),
    }
    saved = json.loads(path.read_text()) if path.exists() else {}
    runs = saved.pop("runs") if {key: saved.get(key) for key in environment} == environment else []
    for run in trainings(mirror, {(run["kind"], run["seed"]) for run in runs}):
        runs.append(run)
        write(path, {**environment, "runs": runs})
        print(f"{run['kind']}, seed {run['seed']}: {len(run['wrong'])} wrong", flush=True)


def write(path: Path, content: dict[str, Any]) -> None:
    """As JSON, one training a line."""
    head = json.dumps({name: value for name, value in content.items() if name != "runs"}, indent=1)
    runs = ",\n".join(json.dumps(run, separators=(",", ":")) for run in content["runs"])
    path.write_text(f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror", required=True, help="where MNIST comes from: https://, file:// or s3://")
    parser.add_argument("--output", type=Path, default=SEEDS)
    arguments = parser.parse_args()
    main(arguments.mirror, arguments.output)
