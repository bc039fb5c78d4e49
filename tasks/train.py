"""The train step: Chollet's first network, plain Keras, the same weights every time, even if it is killed on the way.

Dense(512, relu) → Dense(10, softmax) on 784 float32 in [0, 1], RMSprop, categorical cross-entropy: the opening example
of *Deep Learning with Python*. It trains on every training image and chooses nothing: a validation split is only
watched. Same inputs, seed, device kind and package versions give the same weights, bit for bit.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from tasks import backend, epochs
from tasks.arrays import SCALE, Split, from_npy
from tasks.caching.keys import installed
from tasks.caching.steps import Run, step
from tasks.checkpoints import Checkpoint, Checkpoints
from tasks.device import Kind, describe
from tasks.dispatch import is_crash, train_on_pool
from tasks.errors import TrainingError
from tasks.model_file import to_bytes, weights_digest
from tasks.page import Progress
from tasks.settings import Recipe, TrainOn
from tasks.values import Device, DeviceKind, Epoch, Examples, Trained

LOG = logging.getLogger("retrain.train")

PACKAGES = ("keras", "numpy", "tensorflow")


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
            keras.layers.Dense(epochs.CLASSES, activation="softmax", name="digit"),
        ],
        name="chollet_mnist",
    )


def learner(network: Any, recipe: Recipe, train: Split) -> Any:
    """The network's layers behind their scale, compiled to train on these images.

    It takes uint8, a quarter of the memory of images scaled beforehand. The loss is that of the logits, which Keras
    finds behind the softmax.
    """
    keras = backend.keras()
    pixels = keras.Input(network.input_shape[1:], dtype="uint8")
    learning = epochs.learner([pixels, keras.layers.Rescaling(SCALE), *network.layers], train, recipe.batch_size)
    learning.compile(
        optimizer=keras.optimizers.RMSprop(recipe.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    # Both make their variables when they are first used, and a function that makes variables is traced twice.
    learning.optimizer.build(network.trainable_variables)
    learning.compute_metrics(None, *np.zeros((2, 1, epochs.CLASSES), np.float32))
    return learning


def fit(
    train: Split,
    recipe: Recipe,
    kind: Kind = "cpu",
    validation: Split | None = None,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[int, Epoch], None] = lambda *_: None,
) -> Fitted:
    """Train the network.

    Args:
        train: uint8 images (n, 784) and labels (n,).
        recipe: Epochs, batch size, learning rate and seed.
        kind: The device to train on.
        validation: Watched after each epoch, never learned from.
        checkpoints: Where the state after each epoch is kept, and where an earlier, killed training left its own.
        on_epoch: Called with (number from 1, what it came to) after each epoch.

    Raises:
        TrainingError: The loss is no longer a number, or diverged, or memory ran out.
    """
    keras = _deterministic_keras(recipe.seed)
    with _one_line_where_memory_runs_out(), keras.device(f"{kind}:0"):
        network = build(train.images.shape[1])
        learning = learner(network, recipe, train)
        variables = [*network.weights, *learning.optimizer.variables]
        history = _resume(variables, recipe, checkpoints)
        for number in range(len(history), recipe.epochs):
            history.append(_fit_epoch(learning, train, recipe, number, validation))
            _require_sound(history)
            if checkpoints:
                values = [keras.ops.convert_to_numpy(variable) for variable in variables]
                checkpoints.keep(Checkpoint(tuple(history), values))
            on_epoch(number + 1, history[-1])
    return Fitted(network, tuple(history))


def _resume(variables: Sequence[Any], recipe: Recipe, checkpoints: Checkpoints | None) -> list[Epoch]:
    """Put the variables where an earlier training left them, and return its epochs."""
    found = checkpoints.newest() if checkpoints else None
    if found is None:
        return []
    for variable, value in zip(variables, found.variables, strict=True):
        variable.assign(value)
    LOG.info("train: resumes after epoch %d of %d", len(found.history), recipe.epochs)
    return list(found.history)


def _fit_epoch(learning: Any, train: Split, recipe: Recipe, number: int, watched: Split | None) -> Epoch:
    start = time.perf_counter()
    # A function of seed and epoch, not of a generator's state: a resumed training sees the same order.
    order = np.random.default_rng([recipe.seed, number]).permutation(len(train.labels))
    logs = learning.fit(
        **epochs.epoch(train, order, recipe.batch_size),
        initial_epoch=number,
        epochs=number + 1,
        shuffle=False,
        validation_data=(watched.images, epochs.one_hot(watched.labels)) if watched else None,
        validation_batch_size=recipe.batch_size,
        verbose=0,
    ).history
    found = {name: float(values[0]) for name, values in logs.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise _broken(number + 1, f"the {name} is {value}")
    return Epoch(
        loss=found["loss"],
        accuracy=found["accuracy"],
        validation_loss=found.get("val_loss"),
        validation_accuracy=found.get("val_accuracy"),
        seconds=round(time.perf_counter() - start, 3),
    )


def _require_sound(history: Sequence[Epoch]) -> None:
    """Raise TrainingError where the loss grows and is worse than twice that of guessing: nothing is learned any more.

    A first epoch is let off: on few images it begins high and comes down.
    """
    losses = [epoch.loss for epoch in history]
    guessing = math.log(epochs.CLASSES)
    if len(losses) > 1 and losses[-1] > max(losses[-2], 2 * guessing):
        raise _broken(
            len(losses), f"the loss grew from {losses[-2]:.3g} to {losses[-1]:.3g}, guessing has {guessing:.2f}"
        )


def _broken(epoch: int, why: str) -> TrainingError:
    return TrainingError(f"training broke down in epoch {epoch}", why, "Use a lower --learning-rate.")


@contextmanager
def _one_line_where_memory_runs_out() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            "cannot train", "memory ran out", "Use a smaller --batch-size or a larger machine."
        ) from error


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


@step(
    packages=PACKAGES,
    apart=["train_on"],
    checkpoints=True,
    elsewhere=train_on_pool,
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_condition_fn=is_crash,
)
def train(
    examples: Examples, validation: Examples | None, recipe: Recipe, device: DeviceKind, train_on: TrainOn, run: Run
) -> Trained:
    """Train on the prepared examples and keep the model file; on the machine that `train_on` names."""
    images, watched = _read(examples, run), _read(validation, run) if validation else None
    here = describe(device)
    LOG.info("train: on the %s %s, %s images", here.kind.upper(), here.name, f"{len(images.labels):,}")
    key = train.key(examples, validation, recipe, device, train_on, run)
    with Progress("train", f"Epochs of {recipe.epochs}") as progress:
        fitted = fit(
            images,
            recipe,
            device.kind,
            watched,
            Checkpoints(run.store, f"{key}/{_bits(here)}"),
            lambda number, epoch: progress.show(number / recipe.epochs, _line(number, recipe.epochs, epoch)),
        )
    return Trained(
        model=run.artifacts.put(to_bytes(fitted.model), "application/vnd.keras"),
        weights_digest=weights_digest(fitted.model),
        parameters=fitted.model.count_params(),
        history=fitted.history,
        device=here,
        packages={name: found for name in PACKAGES if (found := installed(name))},
        finished=datetime.now(UTC).replace(microsecond=0),
    )


def _read(examples: Examples, run: Run) -> Split:
    return Split(from_npy(run.artifacts.get(examples.images)), from_npy(run.artifacts.get(examples.labels)))


def _bits(device: Device) -> str:
    """What of a device the key does not tell, though it changes the bits: a training goes on where it began."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device.name) if device.kind == "gpu" else "cpu"


def _line(number: int, epochs: int, epoch: Epoch) -> str:
    watched = "" if epoch.validation_loss is None else f"  validation {epoch.validation_accuracy:.4f}"
    return (
        f"epoch {number}/{epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:.4f}{watched}  {epoch.seconds:.1f} s"
    )
