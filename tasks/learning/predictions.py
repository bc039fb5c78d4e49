"""Predicts with a model file: as a function for the evaluate step, as a program for `tasks.learning.isolated`.

Imports no Prefect; Keras when it predicts. The program imports Keras and waits for a line on standard input. Then it
reads `model.keras` and `images.npy` from its folder and writes `probabilities.npy`, or the reason of a failure as one
line on standard error:

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

MODEL, IMAGES, PROBABILITIES = "model.keras", "images.npy", "probabilities.npy"

# Optional imports of Keras that this program does not use; they take a third of its import.
UNUSED = ("matplotlib", "sklearn")


def predict(model: bytes, images: Bytes) -> Probabilities:
    """The model's probabilities, float32 (n, classes), for uint8 images (n, 784).

    Always on the CPU, so that any machine can repeat it: a GPU multiplies with mantissas of 10 bits (TF32).

    Raises:
        ModelFileError: The file is unsafe or damaged.
        TrainingError: An output is not finite, or the outputs of an image do not add up to 1.
    """
    with backend.keras().device("cpu:0"):
        probabilities: Probabilities = model_file.load(model).predict(scale(images), batch_size=10_000, verbose=0)
    if not np.isfinite(probabilities).all() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise TrainingError(
            "cannot evaluate the model", "its outputs are not probabilities", "Use a lower --learning-rate."
        )
    return probabilities


def main() -> int:
    """Predict from the files in this folder after a line on standard input; end quietly if it closes without one."""
    _limit_memory(int(sys.argv[1]))
    sys.modules |= dict.fromkeys(UNUSED)  # type: ignore[arg-type] # None: cannot be imported
    try:
        backend.keras()
        if not sys.stdin.readline():
            return 0
        probabilities = predict(Path(MODEL).read_bytes(), from_npy(Path(IMAGES).read_bytes()))
    except (RetrainError, MemoryError) as error:
        print(str(error) or "memory ran out", file=sys.stderr)
        return 1
    Path(PROBABILITIES).write_bytes(to_npy(probabilities))
    return 0


def _limit_memory(limit: int) -> None:
    """Limit the data memory (RLIMIT_DATA), in bytes. TensorFlow reserves far more address space than it uses."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
