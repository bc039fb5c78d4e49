from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tasks.caching.keys import installed
from tasks.data.arrays import SCALE, Split, scale
from tasks.errors import TrainingError
from tasks.learning.device import device_kind
from tasks.learning.model_file import weights_digest
from tasks.learning.training import Fitted, _require_no_divergence, fit, out_of_memory
from tasks.settings import Recipe
from tasks.train import PACKAGES
from tasks.values import Epoch

RECIPE = Recipe(epochs=2, batch_size=32, seed=3)

# Trains in a process of its own and prints the digest.
ALONE = """
import json
from tests.tasks.learning.test_training import RECIPE, examples
from tasks.learning.model_file import weights_digest
from tasks.learning.training import fit
fitted = fit(examples(), RECIPE)
print(json.dumps([weights_digest(fitted.model), [epoch.loss for epoch in fitted.history]]))
"""


def recorded() -> dict[str, object]:
    """The losses of each epoch on a fixed small set, and what they belong to."""
    history = fit(examples(), RECIPE.model_copy(update={"epochs": 5})).history
    return {
        "packages": {name: installed(name) for name in PACKAGES},
        "arithmetic": device_kind("cpu").arithmetic,
        "losses": [epoch.loss for epoch in history],
        "accuracies": [epoch.accuracy for epoch in history],
    }


def examples(count: int = 200, seed: int = 0) -> Split:
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    prototypes = random.integers(0, 256, (10, 784))
    return Split(((prototypes[labels] + random.integers(0, 256, (count, 784))) // 2).astype(np.uint8), labels)


@cache
def whole(epochs: int = RECIPE.epochs) -> Fitted:
    """A training that nothing disturbs, for all tests that compare others with it: each takes seconds."""
    return fit(examples(), RECIPE.model_copy(update={"epochs": epochs}))


def test_the_network_learns_with_every_image_and_reports_each_epoch() -> None:
    epochs: list[tuple[int, Epoch]] = []
    fitted = fit(examples(), RECIPE, validation=examples(50, seed=0), on_epoch=lambda *report: epochs.append(report))
    assert [number for number, _ in epochs] == [1, 2]
    assert fitted.history == tuple(epoch for _, epoch in epochs)
    assert fitted.history[1].loss < fitted.history[0].loss
    assert fitted.history[1].validation_accuracy is not None
    assert fitted.model.count_params() == 407_050


def test_the_last_batch_counts_though_it_is_not_full() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    last = np.random.default_rng([recipe.seed, 0]).permutation(33)[-1]  # alone in the second batch of 32
    whole, changed = examples(33), examples(33)
    changed.images[last] = 255 - changed.images[last]
    assert weights_digest(fit(whole, recipe).model) != weights_digest(fit(changed, recipe).model)


def test_training_and_evaluation_scale_alike_to_the_bit() -> None:
    import keras

    pixels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(np.asarray(keras.layers.Rescaling(SCALE)(pixels)), scale(pixels))


def test_a_device_without_memory_counts_as_out_of_memory() -> None:
    import tensorflow as tf

    assert out_of_memory(MemoryError())
    assert out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    assert not out_of_memory(ValueError())


GOLDEN = Path(__file__).parents[2] / "golden" / "losses.json"


def test_the_losses_are_the_golden_ones() -> None:
    """Exact with the packages and the arithmetic they were recorded with, close with any other.

    To record new ones after an upgrade: `python -m tests.golden.record`.
    """
    golden = json.loads(GOLDEN.read_text())
    actual = recorded()
    same = {name: actual[name] == golden[name] for name in ("packages", "arithmetic")}
    tolerance = 0.0 if all(same.values()) else 1e-3
    assert actual["losses"] == pytest.approx(golden["losses"], rel=tolerance, abs=0), same
    assert actual["accuracies"] == pytest.approx(golden["accuracies"], rel=0, abs=0 if not tolerance else 0.02)


def test_another_process_ends_with_the_same_bits() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True, timeout=150)
    digest, losses = json.loads(done.stdout.splitlines()[-1])
    assert digest == weights_digest(whole().model)
    assert losses == [epoch.loss for epoch in whole().history]


@pytest.mark.parametrize("changed", [{"seed": 4}, {"batch_size": 16}, {"learning_rate": 0.002}])
def test_every_part_of_the_recipe_counts(changed: dict[str, float]) -> None:
    other = fit(examples(), RECIPE.model_copy(update={"epochs": 1, **changed}))
    assert weights_digest(other.model) != weights_digest(whole(1).model)


def test_a_watched_validation_split_changes_no_weight() -> None:
    watched = fit(examples(), RECIPE, validation=examples(50))
    assert weights_digest(watched.model) == weights_digest(whole().model)


def test_a_loss_that_is_no_number_ends_the_training_and_says_what_to_do() -> None:
    diverging = RECIPE.model_copy(update={"learning_rate": 1e30})  # more than a recipe allows, to be sure
    with pytest.raises(TrainingError, match=r"epoch \d.*the loss is (nan|inf).*Use a lower --learning-rate"):
        fit(examples(), diverging)


@pytest.mark.parametrize(
    ("losses", "broken"),
    [
        ([0.3, 0.1], False),
        ([558.0, 4.2, 2.4, 2.5], False),  # learning rate 1 on MNIST: useless, but for the gate to judge
        ([2.3, 2.4, 2.35], False),  # shuffled labels
        ([6.0], False),
        ([0.3, 4.7], True),
        ([6.0, 7.0], True),
    ],
)
def test_a_loss_that_grows_beyond_guessing_is_divergence(losses: list[float], broken: bool) -> None:
    history = [Epoch(loss=loss, accuracy=0.1, seconds=1) for loss in losses]
    if not broken:
        return _require_no_divergence(history, 10)
    with pytest.raises(TrainingError, match=r"broke down in epoch 2: the loss grew from .*Use a lower"):
        _require_no_divergence(history, 10)
    return None
