"""The baseline: Chollet's script, plain Keras on the same arrays, and nothing else. No check, no report, no publish.

python -m tests.benchmarks.reference FOLDER    # a folder with the four MNIST .gz files
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Train, evaluate, print the accuracy."""

    def read(name: str, header: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return np.frombuffer(gzip.decompress((folder / f"{name}.gz").read_bytes()), np.uint8, offset=header)

    train_images = read("train-images-idx3-ubyte", 16).reshape(-1, 784).astype("float32") / 255
    test_images = read("t10k-images-idx3-ubyte", 16).reshape(-1, 784).astype("float32") / 255
    train_labels, test_labels = read("train-labels-idx1-ubyte", 8), read("t10k-labels-idx1-ubyte", 8)

    import keras

    model = keras.Sequential([keras.layers.Dense(512, activation="relu"), keras.layers.Dense(10, activation="softmax")])
    model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train_images, train_labels, epochs=5, batch_size=128, verbose=0)
    _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
    print(accuracy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
