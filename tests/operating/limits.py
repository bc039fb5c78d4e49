"""How often a gate with the limits of `retrain calibrate` fails a healthy retraining: on seeds that it has not seen.

python -m tests.operating.limits record    # trains 60 seeds of the digits and of drawn letters; about ten minutes
python -m tests.operating.limits           # writes limits.json, in a few seconds

Of many seeds of one recipe, 20 are drawn to calibrate with, and all the others are judged: 400 draws. The rate is the
mean over the draws. For `max_regression` the means of five others and five more are compared, 500 times; where one seed
is judged (`shown loss`), every pair of two others, one as the champion. MNIST's 100 seeds are those of `seeds.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tasks.address import Address
from tasks.data.reading import read_source
from tasks.data.splits import divide
from tasks.gate.limits import lower_bounds, lowest_recall, propose, shown_losses
from tasks.learning.model_file import to_bytes
from tasks.learning.predictions import predict
from tasks.learning.training import fit
from tasks.settings import DIGITS_RECIPE, Recipe
from tests import own_data
from tests.operating.characteristics import Floats, Right, load

LIMITS = Path(__file__).with_name("limits.json")
OWN_SEEDS = Path(__file__).with_name("own_seeds.json")

CALIBRATED, DRAWS, RECORDED = 20, 400, 60
LETTERS = Recipe(epochs=20, batch_size=32)


def record() -> None:
    """Train, and keep which test images each seed gets wrong."""
    with tempfile.TemporaryDirectory() as folder:
        letters = str(own_data.letters(Path(folder) / "letters", each=100, characters="ABCDEFGHIJ"))
        kept = {
            name: _trained(name, source, recipe)
            for name, source, recipe in (("digits", "digits", DIGITS_RECIPE), ("letters", letters, LETTERS))
        }
    OWN_SEEDS.write_text(json.dumps(kept) + "\n")


def _trained(name: str, source: str, recipe: Recipe) -> dict[str, Any]:
    contents, _ = read_source(Address(source), (), lambda *_: None)
    train, test, _ = divide(contents.train, contents.test, contents.classes)
    runs = []
    for seed in range(RECORDED):
        model = fit(train, recipe.model_copy(update={"seed": seed})).model
        predicted = predict(to_bytes(model), test.images.reshape(len(test.labels), -1)).argmax(axis=1)
        runs.append(np.flatnonzero(predicted != test.labels).tolist())
        print(f"{name}, seed {seed}: {len(runs[-1])} of {len(test.labels)} wrong", file=sys.stderr)
    return {"recipe": recipe.model_dump(), "labels": test.labels.tolist(), "wrong": runs}


def sets() -> dict[str, tuple[Floats, Right]]:
    """The test labels of each data set, and which images each seed gets right."""
    labels, kinds = load()
    found: dict[str, tuple[Any, Right]] = {"mnist": (labels, kinds["default"])}
    for name, kept in json.loads(OWN_SEEDS.read_text()).items():
        right = np.ones((len(kept["wrong"]), len(kept["labels"])), bool)
        for row, wrong in zip(right, kept["wrong"], strict=True):
            row[wrong] = False
        found[name] = (np.array(kept["labels"], np.uint16), right)
    return found


def rates(labels: Any, right: Right) -> dict[str, dict[str, float]]:
    """Of each row the promised and the observed rate of false alarms, and the median limit."""
    random, seeds = np.random.default_rng(0), len(right)
    measured = {
        "min_accuracy": right.mean(axis=1),
        "min_accuracy_lower_bound": lower_bounds(right),
        "min_class_recall": np.array([lowest_recall(row, labels) for row in right]),
    }
    losses = np.full((seeds, seeds), np.nan)
    losses[~np.eye(seeds, dtype=bool)] = shown_losses(right)
    draws: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(DRAWS):
        order = random.permutation(seeds)
        others = order[CALIBRATED:]
        calibrated = right[order[:CALIBRATED]]
        shown = propose(calibrated, labels, one_seed=True)[-1]._replace(name="shown loss")
        for name, limit, _, _, promised in [*propose(calibrated, labels), shown]:
            if name in measured:
                alarms = (measured[name][others] < limit).mean()
            elif name == "max_regression":
                drawn = random.permuted(np.tile(others, (500, 1)), axis=1)
                means = measured["min_accuracy"][drawn[:, :10].reshape(-1, 2, 5)].mean(axis=2)
                alarms = (means[:, 0] - means[:, 1] > limit).mean()
            else:
                alarms = np.nanmean(np.where(np.isnan(pairs := losses[np.ix_(others, others)]), np.nan, pairs > limit))
            draws.setdefault(name, []).append((promised, float(alarms), limit))
    return {
        name: dict(
            zip(
                ("promised", "observed", "limit"),
                (
                    round(float(value), 4)
                    for value in (rows[0][0], np.mean([row[1] for row in rows]), np.median([row[2] for row in rows]))
                ),
                strict=True,
            )
        )
        for name, rows in draws.items()
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        record()
    else:
        LIMITS.write_text(json.dumps({name: rates(*each) for name, each in sets().items()}, indent=1) + "\n")
