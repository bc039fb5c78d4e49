"""Training with Keras: RMSprop, categorical cross-entropy, resumed from checkpoints. Called by the train step.

It trains on every training image and selects nothing: a validation split is only measured. The same inputs, seed,
device kind and package versions give the same weights, bit for bit, also after a resume. Imports no Prefect.
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
from tasks.learning import backend, compiled, epoch
from tasks.learning.checkpoints import Checkpoint, Checkpoints
from tasks.learning.device import Kind
from tasks.learning.network import build
from tasks.settings import Recipe
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Epoch

LOG = logging.getLogger("retrain.train")


class Fitted(NamedTuple):
    """A trained Keras model, not compiled, and the metrics of each epoch."""

    model: Any
    history: tuple[Epoch, ...]


def compiled_model(network: Any, recipe: Recipe, train: Split) -> Any:
    """The network's layers after a rescaling layer, compiled to train on these images; it shares the network's weights.

    It takes uint8, a quarter of the memory of scaled images. Keras computes the loss from the logits.
    """
    keras = backend.keras()
    pixels = keras.Input(network.input_shape[1:], dtype="uint8")
    model = epoch.epoch_model([pixels, keras.layers.Rescaling(SCALE), *network.layers], train, recipe.batch_size)
    model.compile(
        optimizer=keras.optimizers.RMSprop(recipe.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    # Create the variables of optimizer and metrics now: a function that creates variables is traced twice.
    model.optimizer.build(network.trainable_variables)
    model.compute_metrics(None, *np.zeros((2, 1, network.output_shape[-1]), np.float32))
    return model


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
        train: Images uint8 (n, height, width), (n, height, width, 3) or (n, pixels), and labels (n,); every class has
            an image.
        recipe: Epochs, batch size, learning rate and seed.
        kind: The device to train on.
        validation: Measured after each epoch, never learned from.
        checkpoints: Store the state after each epoch, and hold that of an earlier training that was killed.
        on_epoch: Called with (number from 1, metrics) after each epoch.

    Raises:
        NetworkError: The recipe's own network cannot be used.
        TrainingError: The loss is not finite or diverges, or memory runs out.
    """
    keras = _deterministic_keras(recipe.seed)
    with _memory_errors_as_one_line(), keras.device(f"{kind}:0"):
        classes = int(train.labels.max()) + 1
        network = build(train.images.shape[1:], classes, recipe.network)
        train, validation = _shaped(train, network), validation and _shaped(validation, network)
        model = compiled_model(network, recipe, train)
        variables = [*network.variables, *model.optimizer.variables]  # those of random generators too
        history = _resume(variables, recipe, checkpoints)
        for number in range(len(history), recipe.epochs):
            history.append(_fit_epoch(model, train, recipe, number, validation))
            _require_no_divergence(history, classes)
            if checkpoints:
                values = [keras.ops.convert_to_numpy(variable) for variable in variables]
                checkpoints.keep(Checkpoint(tuple(history), values))
            on_epoch(number + 1, history[-1])
    compiled.keep()
    return Fitted(network, tuple(history))


def _shaped(split: Split, network: Any) -> Split:
    """The images in the shape that the network takes; no copy."""
    return Split(split.images.reshape(-1, *network.input_shape[1:]), split.labels)


def _resume(variables: Sequence[Any], recipe: Recipe, checkpoints: Checkpoints | None) -> list[Epoch]:
    """Assign the variables from the newest checkpoint and return its epochs; [] without one."""
    # A number has 8 bytes at most. The rest is the history, and a header for each variable.
    limit = sum(8 * math.prod(variable.shape) for variable in variables) + LARGEST_DOCUMENT
    checkpoint = checkpoints.newest(limit) if checkpoints else None
    if checkpoint is None:
        return []
    if [value.shape for value in checkpoint.variables] != [tuple(variable.shape) for variable in variables]:
        LOG.warning("train: starts anew, as the checkpoint is one of another network")
        return []
    for variable, value in zip(variables, checkpoint.variables, strict=True):
        variable.assign(value)
    LOG.info("train: resumes after epoch %d of %d", len(checkpoint.history), recipe.epochs)
    return list(checkpoint.history)


def _fit_epoch(model: Any, train: Split, recipe: Recipe, number: int, validation: Split | None) -> Epoch:
    start = time.perf_counter()
    # A function of seed and epoch, not of the state of a generator, so that a resumed training has the same order.
    order = np.random.default_rng([recipe.seed, number]).permutation(len(train.labels))
    classes = model.output_shape[-1]
    logs = model.fit(
        **epoch.fit_arguments(train, order, recipe.batch_size),
        initial_epoch=number,
        epochs=number + 1,
        shuffle=False,
        validation_data=(validation.images, epoch.one_hot(validation.labels, classes)) if validation else None,
        validation_batch_size=recipe.batch_size,
        verbose=0,
    ).history
    metrics = {name: float(values[0]) for name, values in logs.items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise _broken(number + 1, f"the {name} is {value}")
    return Epoch(
        loss=metrics["loss"],
        accuracy=metrics["accuracy"],
        validation_loss=metrics.get("val_loss"),
        validation_accuracy=metrics.get("val_accuracy"),
        seconds=round(time.perf_counter() - start, 3),
    )


def _require_no_divergence(history: Sequence[Epoch], classes: int) -> None:
    """Raise TrainingError if the loss grew in the last epoch and is more than twice that of guessing.

    Not in the first epoch: with few images its loss starts high and then falls.
    """
    losses = [epoch.loss for epoch in history]
    guessing = math.log(classes)
    if len(losses) > 1 and losses[-1] > max(losses[-2], 2 * guessing):
        raise _broken(
            len(losses), f"the loss grew from {losses[-2]:.3g} to {losses[-1]:.3g}, guessing has {guessing:.2f}"
        )


def _broken(number: int, why: str) -> TrainingError:
    return TrainingError(f"training broke down in epoch {number}", why, "Use a lower --learning-rate.")


@contextmanager
def _memory_errors_as_one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            "cannot train", "memory ran out", "Use a smaller --batch-size or a larger machine."
        ) from error


def out_of_memory(error: Exception) -> bool:
    """Whether the host's memory ran out, or the device's, for which TensorFlow has an error class of its own."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _deterministic_keras(seed: int) -> Any:
    """Keras, with every random generator seeded and deterministic operations only."""
    keras = backend.keras(compiled.folder())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.clear_session(free_memory=False)  # names of layers count up within a process, and get into the file
    keras.utils.set_random_seed(seed)
    return keras
