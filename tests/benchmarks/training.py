"""The job's own training, `tasks.learning.training.fit`, without the rest of the job.

    python -m tests.benchmarks.training FOLDER [--seed 0]   # the recipe
    python -m tests.benchmarks.training FOLDER --images N   # one epoch on N images

Beyond 60,000 images the set is repeated, each time shifted by other few pixels.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import product
from pathlib import Path

import numpy as np

from tasks.data.arrays import Bytes, Labels, Split, scale
from tasks.learning import backend, compiled
from tasks.learning.training import fit
from tasks.settings import Recipe
from tests.benchmarks import protocol

# (down, right) in pixels, by distance, (0, 0) first: 121 different sets.
SHIFTS = sorted(product(range(-5, 6), repeat=2), key=lambda shift: abs(shift[0]) + abs(shift[1]))


def shifted(images: Bytes, labels: Labels, count: int) -> Split:
    """`count` images: the given ones, repeated and shifted. Only one set at a time is held twice in memory."""
    split = Split(np.empty((count, images.shape[1]), np.uint8), np.empty(count, np.uint8))
    side = math.isqrt(images.shape[1])
    for number, start in enumerate(range(0, count, len(labels))):
        size = min(len(labels), count - start)
        moved = np.roll(images[:size].reshape(size, side, side), SHIFTS[number % len(SHIFTS)], axis=(1, 2))
        split.images[start : start + size] = moved.reshape(size, -1)
        split.labels[start : start + size] = labels[:size]
    return split


def prepare(folder: Path, count: int | None) -> tuple[Split, Split]:
    """The training and the test split."""
    arrays = protocol.read(folder)
    train, test = Split(*arrays[:2]), Split(*arrays[2:])
    return shifted(train.images, train.labels, count) if count else train, test


def main(folder: Path, count: int | None = None, seed: int = 0) -> None:
    """Train, test, print the line."""
    train, test = prepare(folder, count)
    backend.keras(compiled.folder())  # so that the import is not measured
    moments = [time.perf_counter()]
    recipe = Recipe(epochs=1 if count else protocol.EPOCHS, seed=seed)
    fitted = fit(train, recipe, on_epoch=lambda *_: moments.append(time.perf_counter()))
    predicted = fitted.model.predict(scale(test.images), verbose=0).argmax(axis=1)
    print(protocol.line(float((predicted == test.labels).mean()), moments))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.folder, options.images, options.seed)
