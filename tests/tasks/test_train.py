from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tasks.arrays import Split
from tasks.errors import TrainingError
from tasks.model_file import weights_digest
from tasks.settings import Recipe
from tasks.train import fit
from tasks.values import Epoch

RECIPE = Recipe(epochs=2, batch_size=32, seed=3)

# Trains in a process of its own and prints the digest.
ALONE = """
import json
from tests.tasks.test_train import RECIPE, examples
from tasks.model_file import weights_digest
from tasks.train import fit
fitted = fit(examples(), RECIPE)
print(json.dumps([weights_digest(fitted.model), [epoch.loss for epoch in fitted.history]]))
"""


def examples(count: int = 200, seed: int = 0) -> Split:
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.uint8)
    prototypes = random.integers(0, 256, (10, 784))
    return Split(((prototypes[labels] + random.integers(0, 256, (count, 784))) // 2).astype(np.uint8), labels)


def test_the_network_learns_with_every_image_and_reports_each_epoch() -> None:
    told: list[tuple[int, Epoch]] = []
    # 200 images in batches of 32: the last batch holds 8.
    fitted = fit(examples(), RECIPE, validation=examples(50, seed=0), on_epoch=lambda *seen: told.append(seen))
    assert [number for number, _ in told] == [1, 2]
    assert fitted.history == tuple(epoch for _, epoch in told)
    assert fitted.history[1].loss < fitted.history[0].loss
    assert fitted.history[1].validation_accuracy is not None
    assert fitted.model.count_params() == 407_050
    assert int(fitted.model.optimizer.iterations) == 2 * 7


def test_another_process_ends_with_the_same_bits() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True, timeout=150)
    digest, losses = json.loads(done.stdout.splitlines()[-1])
    fitted = fit(examples(), RECIPE)
    assert digest == weights_digest(fitted.model)
    assert losses == [epoch.loss for epoch in fitted.history]


@pytest.mark.parametrize("changed", [{"seed": 4}, {"batch_size": 16}, {"learning_rate": 0.002}])
def test_every_part_of_the_recipe_counts(changed: dict[str, float]) -> None:
    one_epoch = RECIPE.model_copy(update={"epochs": 1})
    first, second = (fit(examples(), recipe) for recipe in (one_epoch, one_epoch.model_copy(update=changed)))
    assert weights_digest(first.model) != weights_digest(second.model)


def test_a_watched_validation_split_changes_no_weight() -> None:
    alone, watched = fit(examples(), RECIPE), fit(examples(), RECIPE, validation=examples(50))
    assert weights_digest(alone.model) == weights_digest(watched.model)


def test_a_loss_that_is_no_number_ends_the_training_and_says_what_to_do() -> None:
    diverging = RECIPE.model_copy(update={"learning_rate": 1e30})  # more than a recipe allows, to be sure
    with pytest.raises(TrainingError, match=r"epoch \d.*the loss is (nan|inf).*Use a lower --learning-rate"):
        fit(examples(), diverging)
