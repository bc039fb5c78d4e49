"""What a model file predicts, here or in a process of its own that has nothing but the file's bytes and the images.

Called by the evaluate step and by `tasks.learning.isolated`. No Prefect; Keras when it predicts. As a program it
imports Keras, waits for a line on its standard input, and then, from `model.keras` and `images.npy` in its folder,
writes `probabilities.npy`, or says in one line why not:

    python -m tasks.learning.predictions BYTES_OF_MEMORY
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from tasks.data.arrays import Bytes, Probabilities, from_npy, scale, to_npy
from tasks.errors import RetrainError, TrainingError
from tasks.learning import backend, model_file

MODEL, IMAGES, FOUND = "model.keras", "images.npy", "probabilities.npy"

# What Keras imports where it is there, for uses that are not this program's: a third of its import.
UNUSED = ("matplotlib", "sklearn")


def predict(model: bytes, images: Bytes) -> Probabilities:
    """The model's probabilities, float32 (n, classes), for uint8 images (n, 784).

    On the CPU wherever the model was trained, so that any machine can repeat it: GPUs round products to 10 bits (TF32).

    Raises ModelFileError for an unsafe file, TrainingError for probabilities that are none.
    """
    with backend.keras().device("cpu:0"):
        found: Probabilities = model_file.load(model).predict(scale(images), batch_size=10_000, verbose=0)
    if not np.isfinite(found).all() or not np.allclose(found.sum(axis=1), 1, atol=1e-3):
        raise TrainingError(
            "cannot evaluate the model", "its outputs are no probabilities", "Use a lower --learning-rate."
        )
    return found


def main() -> int:
    """Predict from the files of this folder, once they are there; do nothing where whoever started this is gone."""
    _limit_memory(int(sys.argv[1]))
    sys.modules |= dict.fromkeys(UNUSED)  # type: ignore[arg-type] # None: cannot be imported
    try:
        backend.keras()
        if not sys.stdin.readline():
            return 0
        found = predict(Path(MODEL).read_bytes(), from_npy(Path(IMAGES).read_bytes()))
    except (RetrainError, MemoryError) as error:
        print(str(error) or "memory ran out", file=sys.stderr)
        return 1
    Path(FOUND).write_bytes(to_npy(found))
    return 0


def _limit_memory(most: int) -> None:
    """Of what this process writes to; its address space alone says nothing, TensorFlow reserves a lot of it."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    sys.exit(main())
