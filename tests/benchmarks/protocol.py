"""What the benchmark and the training scripts that it compares agree on: arrays in, one line out.

Each script is a process of its own, is given a folder with the four MNIST .gz files, and prints one line of JSON. Some
run in an environment that has neither the project nor TensorFlow, so this needs nothing but NumPy.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

EPOCHS = 5
BATCH = 128

# Of one training image, counting a multiplication and an addition as two. A product of (1, n) and (n, m) has n * m of
# either. Forward there are two products, 784 x 512 and 512 x 10. Backward each has one more of its size for the
# gradient of its kernel, and the second another one for the gradient of the hidden layer; nobody asks for that of the
# pixels. So 784 x 512 counts twice and 512 x 10 three times. Biases, activations and RMSprop are no products.
FLOPS_PER_IMAGE = 2 * (784 * 512 * 2 + 512 * 10 * 3)


class Arrays(NamedTuple):
    """Images uint8 (n, 784) and labels uint8 (n,)."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


class Training(NamedTuple):
    """What a script tells of its training; all times are seconds.

    `fit` is the whole of it, with whatever is traced or compiled on the way, without imports and the reading of files.
    """

    accuracy: float
    fit: float
    first_epoch: float
    epochs: tuple[float, ...]


def read(folder: Path) -> Arrays:
    """The four files; eight bytes of a header, and four more for each further dimension."""

    def file(name: str, header: int) -> Bytes:
        return np.frombuffer(gzip.decompress((folder / f"{name}.gz").read_bytes()), np.uint8, offset=header)

    return Arrays(
        file("train-images-idx3-ubyte", 16).reshape(-1, 784),
        file("train-labels-idx1-ubyte", 8),
        file("t10k-images-idx3-ubyte", 16).reshape(-1, 784),
        file("t10k-labels-idx1-ubyte", 8),
    )


def line(accuracy: float, moments: Sequence[float]) -> str:
    """What a script prints: the accuracy on the test images, and the moments at which fit and then each epoch ended.

    Args:
        accuracy: The share of test images that are right.
        moments: Of `time.perf_counter`: when the training began, then the end of each epoch.
    """
    epochs = [end - begin for begin, end in pairwise(moments)]
    return json.dumps(Training(accuracy, moments[-1] - moments[0], epochs[0], tuple(epochs))._asdict())


def parse(printed: str) -> Training:
    """The last line of what a script has printed. Raises ValueError where it is none."""
    found = json.loads(printed.strip().rpartition("\n")[2])
    return Training(found["accuracy"], found["fit"], found["first_epoch"], tuple(found["epochs"]))
