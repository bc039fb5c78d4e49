"""The protocol between the benchmark and the training scripts that it compares: arrays in, one line of JSON out.

Each script is a process of its own, takes a folder with the four MNIST .gz files, and prints one line of JSON. Some run
in an environment that has neither the project nor TensorFlow, so this module may import only NumPy.
"""

from __future__ import annotations

import argparse
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

# For one training image; a multiplication and an addition count as two. A product of (1, n) and (n, m) has n * m of
# each. The forward pass has two products, 784 x 512 and 512 x 10. The backward pass has one more of the same size for
# the gradient of each kernel, and one for the gradient of the hidden layer; the gradient of the pixels is not needed.
# So 784 x 512 counts twice and 512 x 10 three times. Biases, activations and RMSprop are left out.
FLOPS_PER_IMAGE = 2 * (784 * 512 * 2 + 512 * 10 * 3)


def options(description: str | None, *flags: str) -> argparse.Namespace:
    """The command line of a script: `folder`, `seed`, whether products are in `bf16`, and further flags."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the four MNIST .gz files")
    parser.add_argument("--seed", type=int, default=0)
    for flag in ("--bf16", *flags):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args()


class Arrays(NamedTuple):
    """Images uint8 (n, 784) and labels uint8 (n,)."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


class Training(NamedTuple):
    """The result of a training script; all times are in seconds.

    `fit` is the whole training with tracing and compiling, without imports and without reading files.
    """

    accuracy: float
    fit: float
    first_epoch: float
    epochs: tuple[float, ...]


def read(folder: Path) -> Arrays:
    """Read the four files. The IDX header has 8 bytes for labels and 16 for images."""

    def file(name: str, header: int) -> Bytes:
        return np.frombuffer(gzip.decompress((folder / f"{name}.gz").read_bytes()), np.uint8, offset=header)

    return Arrays(
        file("train-images-idx3-ubyte", 16).reshape(-1, 784),
        file("train-labels-idx1-ubyte", 8),
        file("t10k-images-idx3-ubyte", 16).reshape(-1, 784),
        file("t10k-labels-idx1-ubyte", 8),
    )


def line(accuracy: float, moments: Sequence[float]) -> str:
    """The line that a script prints.

    Args:
        accuracy: The share of test images that are right.
        moments: Seconds of `time.perf_counter`: the start of the training, then the end of each epoch.
    """
    epochs = [end - begin for begin, end in pairwise(moments)]
    return json.dumps(Training(accuracy, moments[-1] - moments[0], epochs[0], tuple(epochs))._asdict())


def parse(printed: str) -> Training:
    """The last line of a script's output. Raises ValueError if it is no JSON."""
    values = json.loads(printed.strip().rpartition("\n")[2])
    return Training(values["accuracy"], values["fit"], values["first_epoch"], tuple(values["epochs"]))
