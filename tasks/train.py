"""The train step: Chollet's first network, plain Keras, the same weights every time.

Dense(512, relu) → Dense(10, softmax) on 784 float32 in [0, 1], RMSprop, categorical cross-entropy: the opening example
of *Deep Learning with Python*. It trains on every training image and chooses nothing: a validation split is only
watched. Same inputs, seed, device kind and package versions give the same weights, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from tasks import backend
from tasks.arrays import SCALE, Split, from_npy
from tasks.caching.keys import installed
from tasks.caching.steps import Run, step
from tasks.device import Kind, describe
from tasks.errors import TrainingError
from tasks.model_file import to_bytes, weights_digest
from tasks.page import Progress
from tasks.settings import Recipe
from tasks.values import Epoch, Examples, Trained

LOG = logging.getLogger("retrain.train")

PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-cpu")

CLASSES = 10


class Fitted(NamedTuple):
    """A trained Keras model and what each epoch came to."""

    model: Any
    history: tuple[Epoch, ...]


def build(inputs: int) -> Any:
    """The network, not compiled: float32 in [0, 1] of shape (n, inputs) to probabilities (n, 10).

    Layers have fixed names: a default one counts up within a process and would get into the model file.
    """
    keras = backend.keras()
    return keras.Sequential(
        [
            keras.Input((inputs,), dtype="float32", name="pixels"),
            keras.layers.Dense(512, activation="relu", name="hidden"),
            keras.layers.Dense(CLASSES, activation="softmax", name="digit"),
        ],
        name="chollet_mnist",
    )


def learner(model: Any, recipe: Recipe, steps: int) -> Any:
    """The network's own layers behind their scale, compiled; `steps` batches make one call to the device.

    It takes uint8: the same weights to the bit as with images scaled beforehand, from a quarter of the memory
    (870 MB instead of 1.4 GB at its peak on MNIST) and in less time.
    """
    keras = backend.keras()
    pixels = keras.Input(model.input_shape[1:], dtype="uint8")
    learning = keras.Sequential([pixels, keras.layers.Rescaling(SCALE), *model.layers])
    learning.compile(
        optimizer=keras.optimizers.RMSprop(recipe.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
    return learning


def fit(
    train: Split,
    recipe: Recipe,
    kind: Kind = "cpu",
    validation: Split | None = None,
    on_epoch: Callable[[int, Epoch], None] = lambda *_: None,
) -> Fitted:
    """Train the network.

    Args:
        train: uint8 images (n, 784) and labels (n,).
        recipe: Epochs, batch size, learning rate and seed.
        kind: The device to train on.
        validation: Watched after each epoch, never learned from.
        on_epoch: Called with (number from 1, what it came to) after each epoch.

    Raises:
        TrainingError: The loss is no longer a number, or memory ran out.
    """
    keras = _deterministic_keras(recipe.seed)
    history = []
    with keras.device(f"{kind}:0"):
        model = build(train.images.shape[1])
        learning = learner(model, recipe, math.ceil(len(train.labels) / recipe.batch_size))
        for number in range(recipe.epochs):
            history.append(_fit_epoch(learning, train, recipe, number, validation))
            on_epoch(number + 1, history[-1])
    return Fitted(model, tuple(history))


def _fit_epoch(learning: Any, train: Split, recipe: Recipe, number: int, watched: Split | None) -> Epoch:
    start = time.perf_counter()
    # A function of seed and epoch, not of a generator's state: a resumed training sees the same order.
    order = np.random.default_rng([recipe.seed, number]).permutation(len(train.labels))
    try:
        logs = learning.fit(
            train.images[order],
            train.labels[order],
            batch_size=recipe.batch_size,
            initial_epoch=number,
            epochs=number + 1,
            shuffle=False,
            validation_data=tuple(watched) if watched else None,
            verbose=0,
        ).history
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            "cannot train", "memory ran out", "Use a smaller --batch-size or a larger machine."
        ) from error
    found = {name: float(values[0]) for name, values in logs.items()}
    broken = [f"the {name} is {value}" for name, value in found.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"training broke down in epoch {number + 1}", ", ".join(broken), "Use a lower --learning-rate."
        )
    return Epoch(
        loss=found["loss"],
        accuracy=found["accuracy"],
        validation_loss=found.get("val_loss"),
        validation_accuracy=found.get("val_accuracy"),
        seconds=round(time.perf_counter() - start, 3),
    )


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: the host's, or the device's, which TensorFlow tells with an error class of its own."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _deterministic_keras(seed: int) -> Any:
    """Keras with every source of chance seeded."""
    keras = backend.keras()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    return keras


@step(packages=PACKAGES)
def train(examples: Examples, validation: Examples | None, recipe: Recipe, kind: Kind, run: Run) -> Trained:
    """Train on the prepared examples and keep the model file."""
    images, watched = _read(examples, run), _read(validation, run) if validation else None
    device = describe(kind)
    LOG.info("train: on the %s %s, %s images", kind.upper(), device.name, f"{len(images.labels):,}")
    with Progress("train", f"Epochs of {recipe.epochs}") as progress:
        fitted = fit(
            images,
            recipe,
            kind,
            watched,
            lambda number, epoch: progress.show(number / recipe.epochs, _line(number, recipe.epochs, epoch)),
        )
    return Trained(
        model=run.artifacts.put(to_bytes(fitted.model), "application/vnd.keras"),
        weights_digest=weights_digest(fitted.model),
        parameters=fitted.model.count_params(),
        history=fitted.history,
        device=device,
        packages={name: found for name in PACKAGES if (found := installed(name))},
        finished=datetime.now(UTC).replace(microsecond=0),
    )


def _read(examples: Examples, run: Run) -> Split:
    return Split(from_npy(run.artifacts.get(examples.images)), from_npy(run.artifacts.get(examples.labels)))


def _line(number: int, epochs: int, epoch: Epoch) -> str:
    watched = "" if epoch.validation_loss is None else f"  validation {epoch.validation_accuracy:.4f}"
    return (
        f"epoch {number}/{epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.4f}{watched}  {epoch.seconds:.1f} s"
    )
