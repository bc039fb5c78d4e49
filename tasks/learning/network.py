"""The network: the first one of Chollet's *Deep Learning with Python*. Called by `tasks.learning.training`."""

from __future__ import annotations

from typing import Any

from tasks.learning import backend, epoch


def build(inputs: int) -> Any:
    """The network, not compiled: float32 in [0, 1] of shape (n, inputs) to probabilities float32 (n, 10).

    Layers have fixed names, because the default names count up within a process and get into the model file.
    """
    keras = backend.keras()
    return keras.Sequential(
        [
            keras.Input((inputs,), dtype="float32", name="pixels"),
            keras.layers.Dense(512, activation="relu", name="hidden"),
            keras.layers.Dense(epoch.CLASSES, activation="softmax", name="digit"),
        ],
        name="chollet_mnist",
    )
