"""Training: plain Keras, the same weights every time, even if it is killed on the way. Called by the train step.

RMSprop, categorical cross-entropy. It trains on every training image and chooses nothing: a validation split is only
watched. Same inputs, seed, device kind and package versions give the same weights, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tasks.data.arrays import SCALE, Split
from tasks.errors import TrainingError
from tasks.learning import backend, epoch
from tasks.learning.checkpoints import Checkpoint, Checkpoints
from tasks.learning.device import Kind
from tasks.learning.network import build
from tasks.settings import Recipe
from tasks.values import Epoch

LOG = logging.getLogger("retrain.train")


class Fitted(NamedTuple):
    """A trained Keras model and what each epoch came to."""

    model: Any
    history: tuple[Epoch, ...]


def learner(network: Any, recipe: Recipe, train: Split) -> Any:
    """The network's layers behind their scale, compiled to train on these images.

    It takes uint8, a quarter of the memory of images scaled beforehand. The loss is that of the logits, which Keras
    finds behind the softmax.
    """
    keras = backend.keras()
    pixels = keras.Input(network.input_shape[1:], dtype="uint8")
    learning = epoch.learner([pixels, keras.layers.Rescaling(SCALE), *network.layers], train, recipe.batch_size)
    learning.compile(
        optimizer=keras.optimizers.RMSprop(recipe.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    # Both make their variables when they are first used, and a function that makes variables is traced twice.
    learning.optimizer.build(network.trainable_variables)
    learning.compute_metrics(None, *np.zeros((2, 1, epoch.CLASSES), np.float32))
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
        **epoch.arguments(train, order, recipe.batch_size),
        initial_epoch=number,
        epochs=number + 1,
        shuffle=False,
        validation_data=(watched.images, epoch.one_hot(watched.labels)) if watched else None,
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
    guessing = math.log(epoch.CLASSES)
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
