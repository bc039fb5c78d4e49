"""A cached training is one that the step can have returned: a model for these images, with as many epochs."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.data.arrays import to_npy
from tasks.learning.model_file import to_bytes
from tasks.learning.plan import TrainingPlan
from tasks.settings import Recipe
from tasks.train import _fits
from tasks.values import KERAS, NPY, Artifact, DeviceKind, Examples, Trained
from tests.tasks.report.examples import example

CLASSES = 3
FILES = {NPY: to_npy(np.arange(30, dtype=np.uint8) % CLASSES)}


def kept(taken: tuple[int, ...], classes: int = CLASSES, epochs: int = 2, shape: tuple[int, ...] = (8, 8)) -> None:
    """Check a result with a network that takes such images, and was trained on those of `shape`."""
    import keras

    layers = keras.layers
    network = keras.Sequential([keras.Input(taken), layers.Flatten(), layers.Dense(classes, activation="softmax")])
    model, array = (Artifact(sha256="0" * 64, size=1, media_type=kind) for kind in (KERAS, NPY))
    trained = example(wrong=4, images=20).document.trained
    result: Trained = trained.model_copy(update={"model": model, "history": trained.history[:1] * epochs})
    plan = TrainingPlan(
        examples=Examples(images=array, labels=array),
        validation=None,
        shape=shape,
        recipe=Recipe(epochs=2),
        device=DeviceKind(kind="cpu", arithmetic=""),
    )
    files = FILES | {KERAS: to_bytes(network)}
    _fits(result, lambda artifact: files[artifact.media_type], plan)


@pytest.mark.parametrize(
    ("taken", "shape"), [((64,), (8, 8)), ((8, 8), (8, 8)), ((8, 8, 1), (8, 8)), ((8, 8, 3), (8, 8, 3))]
)
def test_a_network_may_take_the_images_in_each_form(taken: tuple[int, ...], shape: tuple[int, ...]) -> None:
    kept(taken, shape=shape)


@pytest.mark.parametrize(
    ("taken", "classes", "epochs", "why"),
    [
        ((7, 7), CLASSES, 2, "its model is one of other images"),
        ((8, 8), CLASSES + 1, 2, "its model is one of other images"),
        ((8, 8), CLASSES, 3, "it has 3 epochs instead of 2"),
        ((8, 8), CLASSES, 0, "it has 0 epochs instead of 2"),
    ],
)
def test_what_no_training_of_these_images_returns_is_refused(
    taken: tuple[int, ...], classes: int, epochs: int, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        kept(taken, classes, epochs)
