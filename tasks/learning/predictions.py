"""Predicts with a model file: as a function for the evaluate step, as a program for `tasks.learning.isolated`.

Imports no Prefect; Keras when it predicts. The program imports Keras and waits for a byte on standard input. Then it
reads `model.keras` and `images.npy` from its folder and writes `probabilities.npy`, or the reason of a failure as one
line on standard error; it exits with REFUSED if the reason is the file. See
`tasks.running.caller` for how it ends with its caller.

    python -m tasks.learning.predictions BYTES_OF_MEMORY
"""

from __future__ import annotations

from pathlib import Path

if __name__ == "__main__":  # before the imports below, which take a second
    from tasks.running.caller import follow

    asked = follow(Path.cwd())

import math
import os
import sys
import threading

import numpy as np

from tasks.data.arrays import Bytes, Probabilities, from_npy, scale, to_npy
from tasks.errors import ModelFileError, RetrainError, TrainingError
from tasks.learning import backend, model_file

MODEL, IMAGES, PROBABILITIES = "model.keras", "images.npy", "probabilities.npy"

# Exit code for a file that cannot be used on any machine.
REFUSED = 3

# The most images of one batch, and the most numbers that it gives in the largest layer: 10,000 × 784 for MNIST.
MOST_IMAGES, MOST_NUMBERS = 10_000, 7_840_000


def predict(model: bytes, images: Bytes) -> Probabilities:
    """The model's probabilities, float32 (n, classes), for uint8 images (n, pixels).

    Always on the CPU, so that any machine can repeat it: a GPU multiplies with mantissas of 10 bits (TF32).

    Raises:
        ModelFileError: The file is unsafe or damaged, or its network is not one for these images.
        TrainingError: An output is negative or not finite, or the outputs of an image do not add up to 1.
    """
    with backend.keras().device("cpu:0"):
        loaded = model_file.load(model)
        pixels, shape = images.shape[1], loaded.input_shape[1:]
        if math.prod(shape) != pixels:
            raise ModelFileError(
                "cannot evaluate the model",
                f"it takes {math.prod(shape):,} pixels instead of {pixels:,}",
                "Fetch the model again, and ask who changed it.",
            )
        largest = max(math.prod(layer.output.shape[1:]) for layer in loaded.layers)
        batch_size = max(1, min(MOST_IMAGES, MOST_NUMBERS // max(largest, pixels)))
        probabilities: Probabilities = loaded.predict(
            scale(images.reshape(-1, *shape)), batch_size=batch_size, verbose=0
        )
    if not (probabilities >= 0).all() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise TrainingError(
            "cannot evaluate the model", "its outputs are not probabilities", "Use a lower --learning-rate."
        )
    return probabilities


def main(asked: threading.Event) -> int:
    """Predict from the files in this folder once a byte has come on standard input."""
    _limit_memory(int(sys.argv[1]))
    try:
        backend.keras()
        asked.wait()
        probabilities = predict(Path(MODEL).read_bytes(), from_npy(Path(IMAGES).read_bytes()))
    except (ModelFileError, TrainingError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except (RetrainError, MemoryError) as error:
        print(str(error) or "memory ran out", file=sys.stderr)
        return 1
    Path(PROBABILITIES).write_bytes(to_npy(probabilities))
    return 0


def _limit_memory(limit: int) -> None:
    """Limit the data memory (RLIMIT_DATA), in bytes, unless a lower limit is set: that may not be raised.

    TensorFlow reserves far more address space than it uses.
    """
    if os.name == "posix":
        import resource

        lowest = min(each for each in (limit, *resource.getrlimit(resource.RLIMIT_DATA)) if each >= 0)  # -1: none
        resource.setrlimit(resource.RLIMIT_DATA, (lowest, lowest))


if __name__ == "__main__":
    sys.exit(main(asked))
