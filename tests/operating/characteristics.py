"""What the gate lets pass: computed from the real trainings in `seeds.json`, without training anything.

python -m tests.operating.characteristics    # writes characteristics.json and .md, in a few seconds

**A true loss of δ** is simulated from real seeds: each right answer of the candidate becomes wrong, independently, with
probability δ / accuracy, so that on average δ of all images are lost. Candidate and champion are always two different
seeds of the default recipe, on MNIST's own 10,000 test images: every pair of seeds, 5 draws of the lost images each. So
a rate includes the variance of two trainings and of the lost images; the test images are those that the gate uses. The
standard error beside a rate is that of the choice of seeds (jackknife: one seed left out at a time). Beside these are
recipes that really are worse: trained, with nothing drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.gate.intervals import ONE_SIDED, wilson
from tasks.gate.paired import score
from tasks.settings import GateSettings, gate_for
from tests.operating.record import SEEDS

JSON, MARKDOWN = (Path(__file__).with_name(f"characteristics.{kind}") for kind in ("json", "md"))

ONE_SEED = gate_for("mnist", GateSettings(), "1")
MAX_REGRESSION = ONE_SEED.max_regression
MARGINS = (0.0, 0.001, 0.002, 0.003, 0.004, 0.005)
LOSSES = (0.0, 0.003, 0.005, 0.010)
IMAGES = 10_000
DRAWS = 5
CREEP = 0.0005
POWER = NormalDist().inv_cdf(0.80)
RETRAININGS = 40
CHAINS = 100

Right = NDArray[np.bool_]  # (models, images): which answers are right
Floats = NDArray[np.float64]


def load(path: Path = SEEDS) -> tuple[NDArray[np.uint8], dict[str, Right]]:
    """The test labels, and of each kind of training which images its seeds get right."""
    record = json.loads(path.read_text())
    labels = np.array([int(digit) for digit in record["labels"]], np.uint8)
    results: dict[str, list[Right]] = {}
    for run in record["runs"]:
        right = np.ones(len(labels), bool)
        right[np.cumsum(run["wrong"])] = False
        results.setdefault(run["kind"], []).append(right)
    return labels, {kind: np.array(rows) for kind, rows in results.items()}


def thinned(right: Right, loss: float, random: np.random.Generator) -> Right:
    """Answers that lose `loss` of their accuracy on average: right ones become wrong, independently."""
    share = loss / right.mean(axis=1, keepdims=True)
    remaining: Right = right & (random.random(right.shape) >= share)
    return remaining


def counts(candidates: Right, champions: Right) -> tuple[Floats, Floats]:
    """(b, c) of every candidate (row) against every champion (column)."""
    both = (candidates.astype(np.float32) @ champions.astype(np.float32).T).astype(float)  # exact: below 2^24
    return champions.sum(axis=1) - both, candidates.sum(axis=1, keepdims=True) - both


def passes(b: Floats, c: Floats, margin: float = MAX_REGRESSION) -> Right:
    """The champion row."""
    passed: Right = score(b, c, IMAGES, margin) <= ONE_SIDED
    return passed


def absolute_rows(right: Right, labels: NDArray[np.uint8]) -> dict[str, Right]:
    """The gate's rows that need no champion, for each model."""
    gate, correct = ONE_SEED, right.sum(axis=1)
    bounds = np.array([wilson(int(number), IMAGES, ONE_SIDED)[0] for number in correct])
    return {
        "accuracy": correct / IMAGES >= gate.min_accuracy,
        "lower bound": bounds >= gate.min_accuracy_lower_bound,
        "recall": recalls(right, labels).min(axis=1) >= gate.min_class_recall,
    }


def recalls(right: Right, labels: NDArray[np.uint8]) -> Floats:
    """The recall of each class (column) of each model (row)."""
    members = (labels[:, None] == np.arange(10)).astype(np.float32)
    results: Floats = (right.astype(np.float32) @ members).astype(float) / members.sum(axis=0)
    return results


def rates(draws: Sequence[Right], champions: Right, labels: NDArray[np.uint8], *, same: bool) -> dict[str, float]:
    """How often each row passes, and all of them.

    Args:
        draws: Candidates (seeds, images), drawn several times.
        champions: Right answers of the champions (seeds, images).
        labels: The test labels.
        same: Candidates and champions are the same seeds: none is compared with itself.
    """
    champion = [passes(*counts(draw, champions)) for draw in draws]
    rows = [absolute_rows(draw, labels) for draw in draws]
    absolute = [np.logical_and.reduce(list(row.values()))[:, None] for row in rows]
    mean, error = over_pairs(np.mean(champion, axis=0), same=same)
    every, _ = over_pairs(np.mean([x & y for x, y in zip(champion, absolute, strict=True)], axis=0), same=same)
    return {
        "champion": mean,
        "champion error": error,
        **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
        "all": every,
    }


def over_pairs(passed: Floats, *, same: bool) -> tuple[float, float]:
    """The mean over pairs (candidate, champion), and its standard error from leaving out one seed at a time."""
    weights = np.ones_like(passed) - (np.eye(len(passed)) if same else 0)
    total, number = passed * weights, weights
    left_out = [(total.sum(axis=1), number.sum(axis=1)), (total.sum(axis=0), number.sum(axis=0))]
    if same:  # a seed goes in both of its parts
        left_out = [(left_out[0][0] + left_out[1][0], left_out[0][1] + left_out[1][1])]
    variance = 0.0
    for part, size in left_out:
        if len(part) == 1:  # nothing is left without it
            continue
        means = (total.sum() - part) / (number.sum() - size)
        variance += (len(means) - 1) * means.var()
    return float(total.sum() / number.sum()), float(np.sqrt(variance))


def best_of(default: Right, number: int) -> float:
    """How often a healthy seed passes where the champion is the best of `number` others; over all choices, exactly."""
    ranked = default[np.argsort(default.sum(axis=1), kind="stable")]
    passed, seeds = passes(*counts(ranked, ranked)), len(ranked)
    rate = 0.0
    for best in range(number - 1, seeds):
        chance = math.comb(best, number - 1) / math.comb(seeds, number)  # that this is the best of those chosen
        not_chosen = 1 - (number - 1) / max(best, 1)  # of the worse ones; of the better ones, none is
        candidates = passed[best + 1 :, best].sum() + not_chosen * passed[:best, best].sum()
        rate += chance * candidates / (seeds - number)
    return rate


def retrainings(default: Right, loss_each: float, reference: str) -> dict[str, Any]:
    """Retraining again and again, each time with another seed; who passes is the next champion.

    The t-th candidate has lost t times `loss_each`, always the same images first. `reference`: "none", "typical" (the
    seed of median accuracy) or "best of 10", which every candidate has to be compared with too.
    """
    random = np.random.default_rng(1)
    ranks = np.argsort(default.sum(axis=1), kind="stable")
    lost_at = random.random((CHAINS, IMAGES))

    def draw() -> Right:
        return default[random.integers(len(default), size=CHAINS)]

    pinned = {
        "none": None,
        "typical": np.full(CHAINS, ranks[len(ranks) // 2]),
        "best of 10": ranks[random.integers(len(ranks), size=(CHAINS, 10)).max(axis=1)],
    }[reference]
    champion, rejected, accuracy = draw(), 0.0, []
    for number in range(1, RETRAININGS + 1):
        right = draw()
        candidate = right & (lost_at >= number * loss_each / right.mean(axis=1, keepdims=True))
        passed = pairwise(candidate, champion)
        if pinned is not None:
            passed &= pairwise(candidate, default[pinned])
        champion = np.where(passed[:, None], candidate, champion)
        rejected += 1 - passed.mean()
        accuracy.append(champion.mean())
    lost = default.mean() - np.array(accuracy)
    return {
        "loss each": loss_each,
        "reference": reference,
        "rejected": rejected / RETRAININGS,
        **{f"lost after {number}": float(lost[number - 1]) for number in (10, 20, RETRAININGS)},
    }


def pairwise(candidates: Right, champions: Right) -> Right:
    """The champion row, each candidate against the champion of the same index."""
    b, c = (champions & ~candidates).sum(axis=1), (candidates & ~champions).sum(axis=1)
    return passes(b.astype(float), c.astype(float))


def compute() -> dict[str, Any]:
    """Everything, rounded."""
    labels, kinds = load()
    default, random = kinds["default"], np.random.default_rng(0)
    drawn = {loss: [thinned(default, loss, random) for _ in range(DRAWS if loss else 1)] for loss in LOSSES}
    results = {
        "seeds": about(default, labels),
        "losses": [
            *({"what": "", "loss": loss, **rates(drawn[loss], default, labels, same=True)} for loss in LOSSES),
            *(
                {"what": kind, "loss": default.mean() - right.mean(), **rates([right], default, labels, same=False)}
                for kind, right in kinds.items()
                if kind != "default"
            ),
        ],
        "margins": margins(default, drawn),
        "best of": {str(number): best_of(default, number) for number in (1, 2, 5, 10, 20)},
        "retrainings": [
            retrainings(default, loss, reference)
            for loss in (0.0, CREEP)
            for reference in ("none", "typical", "best of 10")
        ],
    }
    rounded: dict[str, Any] = json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 4))
    return rounded


def margins(default: Right, drawn: dict[float, list[Right]]) -> list[dict[str, float]]:
    """How often the champion row passes for other values of max_regression, by true loss."""
    results: list[dict[str, float]] = [{"max regression": margin} for margin in MARGINS]
    for loss, draws in drawn.items():
        pairs = [counts(draw, default) for draw in draws]
        for row in results:
            passed = np.mean([passes(b, c, row["max regression"]) for b, c in pairs], axis=0)
            row[f"{loss:.3f}"], _ = over_pairs(passed, same=True)
    return results


def about(default: Right, labels: NDArray[np.uint8]) -> dict[str, float]:
    """Mean, spread and extremes over the seeds of the default recipe, and on how many images two of them differ."""
    accuracy, lowest = default.mean(axis=1), recalls(default, labels).min(axis=1)
    pairs = np.triu_indices(len(default), 1)
    differ = (default[pairs[0]] != default[pairs[1]]).sum(axis=1)
    return {
        "seeds": len(default),
        "mean": accuracy.mean(),
        "deviation": accuracy.std(ddof=1),
        "lowest": accuracy.min(),
        "highest": accuracy.max(),
        "lowest recall": lowest.min(),
        "median lowest recall": float(np.median(lowest)),
        "differing images, 5 %": float(np.percentile(differ, 5)),
        "differing images, median": float(np.median(differ)),
        "differing images, 95 %": float(np.percentile(differ, 95)),
        # For two given models, the choice of images makes a variance of (differing images) / n² in their difference.
        "share of variance from seeds": 1 - differ.mean() / IMAGES**2 / (2 * accuracy.var(ddof=1)),
        # Of each recipe, for 95 % confidence and 80 % power, comparing means over seeds.
        "seeds to resolve 0.003": math.ceil(2 * ((ONE_SIDED + POWER) * accuracy.std(ddof=1) / 0.003) ** 2),
    }


def markdown(results: dict[str, Any]) -> str:
    """characteristics.md, of which tasks/gate/README.md quotes a table."""
    seeds = results["seeds"]
    lines = [
        f"{seeds['seeds']} seeds of the default recipe: accuracy {seeds['mean']:.4f} on average, standard deviation "
        f"{seeds['deviation']:.4f},",
        f"{seeds['lowest']:.4f} to {seeds['highest']:.4f}; the weakest class of a seed has a recall of "
        f"{seeds['lowest recall']:.3f} at worst. Two seeds differ on",
        f"{seeds['differing images, median']:.0f} of 10,000 images (90 % of pairs: "
        f"{seeds['differing images, 5 %']:.0f} to {seeds['differing images, 95 %']:.0f}), and "
        f"{100 * seeds['share of variance from seeds']:.0f} % of the variance of the difference",
        "between their accuracies comes from the seeds, the rest from the choice of test images. To resolve 0.003",
        f"takes {seeds['seeds to resolve 0.003']} seeds of each recipe.",
        "",
        "| candidates that pass | champion row | accuracy | lower bound | class recall | all rows |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["losses"]:
        what = f"true loss {row['loss']:.3f}" if not row["what"] else f"{row['what']} ({row['loss']:.4f})"
        shares = [f"{row[name]:.3f}" for name in ("accuracy", "lower bound", "recall", "all")]
        lines.append(f"| {what} | {row['champion']:.3f} ± {row['champion error']:.3f} | {' | '.join(shares)} |")
    lines += [
        "",
        "| champion row passes, by max_regression | " + " | ".join(f"true loss {loss:.3f}" for loss in LOSSES) + " |",
        "|---|" + "---|" * len(LOSSES),
    ]
    for row in results["margins"]:
        shares = [f"{row[f'{loss:.3f}']:.3f}" for loss in LOSSES]
        lines.append(f"| {row['max regression']:.3f} | {' | '.join(shares)} |")
    lines += [
        "",
        "| the champion is the best of | " + " | ".join(results["best of"]) + " |",
        "|---|" + "---|" * len(results["best of"]),
        "| a healthy seed passes | " + " | ".join(f"{rate:.3f}" for rate in results["best of"].values()) + " |",
        "",
        "| each retraining loses | reference | rejected | champion lost after 10 | after 20 | after 40 |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["retrainings"]:
        lost = [f"{row[f'lost after {number}']:+.4f}" for number in (10, 20, RETRAININGS)]
        lines.append(f"| {row['loss each']:.4f} | {row['reference']} | {row['rejected']:.3f} | {' | '.join(lost)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    computed = compute()
    JSON.write_text(json.dumps(computed, indent=1) + "\n")
    MARKDOWN.write_text(markdown(computed))
