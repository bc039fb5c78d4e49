"""What verdicts of 1, 3 and 5 seeds let pass, and how their alphas were chosen: from the kept trainings.

python -m tests.operating.looks    # writes looks.json and .md, in half a minute, without training anything

A verdict draws five seeds of the candidate and the baseline's from one recipe's seeds, none twice, and looks at them as
the product does: all rows, the absolute ones on the median model. A true loss is drawn as in `characteristics`. Recipes
that really are worse are trained, with nothing drawn.

A limit is the difference of two means of five seeds which a healthy recipe exceeds with probability 0.005
(`healthy_limit`, of all seeds, rounded). The alphas were **chosen** on the even seeds of MNIST, in units of the limit
that these give: of a grid those that take the fewest trainings of healthy recipes, while the errors of all looks
together keep a distance from what is promised (`KEEP`). The tables of the even and of the odd seeds say what the limit
is worth where seeds differ more, or less, than all of them do.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from tasks.gate.intervals import ONE_SIDED, wilson
from tasks.gate.recipes import ALPHA, LOOKS, Components, Sums, components, quantile
from tasks.settings import DIGITS_GATE, Gate
from tests.operating.characteristics import Floats, Right, load, recalls, thinned
from tests.operating.limits import sets

JSON, MARKDOWN = (Path(__file__).with_name(f"looks.{kind}") for kind in ("json", "md"))

# The limits of the mean loss, and the true losses that are judged.
LIMITS = {"mnist": 0.0029, "digits": 0.0105, "letters": 0.0145}
LOSSES = {
    "mnist": (0.0, 0.003, 0.005, 0.010),
    "digits": (0.0, 0.010, 0.020, 0.030),
    "letters": (0.0, 0.015, 0.030, 0.045),
}
# Letters are judged by the loss alone, as data of one's own that have no limits yet.
GATES = {"mnist": Gate(), "digits": DIGITS_GATE, "letters": Gate(**dict.fromkeys(Gate.model_fields, 0.0))}
MISSED = 0.005

DRAWS = 5
CHOICES = {"publish": (0.05, 0.10, 0.15, 0.20, 0.25), "reject": (0.005, 0.01, 0.02, 0.05, 0.10)}
# By true loss, in limits, the shares that pass: at least, at most. With MNIST's limit these losses are 0, 0.005 and
# 0.010; what is promised of them is 0.99, 0.05 and 0.001. Two rows of loss share the 0.01.
KEEP = {0.0: (0.995, 1.0), 1.725: (0.0, 0.045), 3.45: (0.0, 0.0005)}

BASELINES = ("5", "3", "1", "best of 10", "best of 10 and 4 more")


class Trail(NamedTuple):
    """Verdicts, and what each would see at each look: all (looks, verdicts). `rows`: the absolute rows pass."""

    loss: Floats
    error: Floats
    degrees: Floats
    rows: Right


def trail(
    draws: list[Right],
    baseline: Right,
    labels: NDArray[Any],
    gate: Gate,
    kind: str,
    *,
    same: bool,
    verdicts: int = 20_000,
) -> Trail:
    """Draw verdicts.

    Args:
        draws: The candidate's seeds (seeds, images), drawn several times.
        baseline: Those of the baseline.
        labels: The test labels.
        gate: The limits of the absolute rows.
        kind: One of `BASELINES`.
        same: Candidates and baselines are the same seeds: none is on both sides.
        verdicts: How many.
    """
    random, n = np.random.default_rng(0), len(labels)
    theirs, rest = chosen(kind, baseline, verdicts, random)
    ours = (rest if same else random.random((verdicts, len(draws[0]))).argsort(axis=1))[:, : LOOKS[-1]]
    parts = []
    for number, draw in enumerate(draws):
        part = slice(number, None, len(draws))
        passes = absolute(draw, labels, gate)
        within, across, others = gram(draw, draw), gram(draw, baseline), gram(baseline, baseline)
        steps = []
        for k in LOOKS:
            c, b = ours[part, :k], theirs[part]
            found: Components = components(
                sums(within, c), sums(others, b), across[c[:, :, None], b[:, None, :]].sum(axis=(1, 2)), n
            )
            error = np.sqrt(found.seed_variance * (1 / k + 1 / b.shape[1]) + found.image_variance)
            steps.append((found.loss, error, found.degrees_of_freedom, passes[median(within, c)]))
        parts.append([np.array(each) for each in zip(*steps, strict=True)])
    return Trail(*(np.concatenate(each, axis=1) for each in zip(*parts, strict=True)))


def chosen(
    kind: str, baseline: Right, verdicts: int, random: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The baseline's seeds of each verdict, and others that were not chosen, in random order."""
    order = random.random((verdicts, len(baseline))).argsort(axis=1)
    if not kind.startswith("best"):
        return order[:, : int(kind)], order[:, int(kind) :]
    accuracy, rows = baseline.sum(axis=1), np.arange(verdicts)
    best = order[rows, accuracy[order[:, :10]].argmax(axis=1)][:, None]
    more = 4 if kind.endswith("more") else 0
    return np.concatenate([best, order[:, 10 : 10 + more]], axis=1), order[:, 10 + more :]


def gram(first: Right, second: Right) -> Floats:
    """On how many images both are right: every seed of one with every seed of the other."""
    both: Floats = (first.astype(np.float32) @ second.astype(np.float32).T).astype(float)  # exact: below 2^24
    return both


def sums(within: Floats, seeds: NDArray[np.intp]) -> Sums:
    """Those of the chosen seeds (verdicts, seeds)."""
    right = within.diagonal()[seeds]
    pairs = within[seeds[:, :, None], seeds[:, None, :]].sum(axis=(1, 2))
    return Sums(seeds.shape[1], right.sum(axis=1), (right**2).sum(axis=1), pairs)


def median(within: Floats, seeds: NDArray[np.intp]) -> NDArray[np.intp]:
    """The chosen seed of median accuracy, of each verdict; among equal ones the first."""
    right = within.diagonal()[seeds]
    middle = np.sort(right, axis=1)[:, (seeds.shape[1] - 1) // 2]
    found: NDArray[np.intp] = seeds[np.arange(len(seeds)), (right == middle[:, None]).argmax(axis=1)]
    return found


def absolute(right: Right, labels: NDArray[Any], gate: Gate) -> Right:
    """Which models pass the rows that need no baseline."""
    correct, n = right.sum(axis=1), len(labels)
    bounds = np.array([wilson(int(number), n, ONE_SIDED)[0] for number in correct])
    passed: Right = (
        (correct / n >= gate.min_accuracy)
        & (bounds >= gate.min_accuracy_lower_bound)
        & (recalls(right, labels.astype(np.uint8)).min(axis=1) >= gate.min_class_recall)
    )
    return passed


def judge(seen: Trail, limit: float) -> tuple[Right, NDArray[np.intp]]:
    """Which verdicts publish, and after how many seeds each ends: `loss_step` and `next_look` for arrays."""
    return ended(seen, [*(early(seen, look, limit, ALPHA[k]) for look, k in enumerate(LOOKS[:-1])), last(seen, limit)])


def early(seen: Trail, look: int, limit: float, alpha: dict[str, float]) -> tuple[Right, Right]:
    """Which verdicts find the loss within the limit, and which above it, at a look that is not the last."""
    loss, error, degrees = seen.loss[look], seen.error[look], seen.degrees[look]
    good = loss + quantile(alpha["publish"], degrees) * error <= limit
    return good, loss - quantile(alpha["reject"], degrees) * error > limit


def last(seen: Trail, limit: float) -> tuple[Right, Right]:
    """The same at the last look."""
    return seen.loss[-1] <= limit, seen.loss[-1] > limit


def ended(seen: Trail, steps: list[tuple[Right, Right]]) -> tuple[Right, NDArray[np.intp]]:
    """As `judge`, from what each look finds."""
    published, used = np.zeros(seen.loss.shape[1], bool), np.zeros(seen.loss.shape[1], int)
    for k, (good, bad), rows in zip(LOOKS, steps, seen.rows, strict=True):
        ends = (used == 0) & (bad | (good & rows) | (k == LOOKS[-1]))
        published |= ends & good & rows
        used[ends] = k
    return published, used


def row(seen: Trail, limit: float) -> dict[str, Any]:
    """The share that passes, how many seeds are trained, and at which look verdicts end."""
    published, used = judge(seen, limit)
    return {
        "passes": float(published.mean()),
        "trainings": float(used.mean()),
        "published at": [float((published & (used == k)).mean()) for k in LOOKS],
        "rejected at": [float((~published & (used == k)).mean()) for k in LOOKS],
    }


def table(name: str, labels: NDArray[Any], right: Right) -> Iterator[dict[str, Any]]:
    """Each baseline with each true loss."""
    for loss in LOSSES[name]:
        draws = drawn(right, loss)
        for kind in BASELINES:
            seen = trail(draws, right, labels, GATES[name], kind, same=True)
            yield {"baseline": kind, "loss": loss, **row(seen, LIMITS[name])}


def drawn(right: Right, loss: float) -> list[Right]:
    """The candidate's seeds with a true loss."""
    random = np.random.default_rng(0)
    return [thinned(right, loss, random) for _ in range(DRAWS if loss else 1)]


def really_worse(labels: NDArray[Any], kinds: dict[str, Right]) -> Iterator[dict[str, Any]]:
    """Recipes that were trained to be worse, against five seeds of the default one."""
    default = kinds["default"]
    for kind, right in kinds.items():
        if len(right) >= LOOKS[-1] and kind != "default":
            seen = trail([right], default, labels, GATES["mnist"], "5", same=False)
            yield {"recipe": kind, "loss": float(default.mean() - right.mean()), **row(seen, LIMITS["mnist"])}


def healthy_limit(right: Right) -> float:
    """The limit that a healthy recipe exceeds with probability `MISSED`, from seeds of it."""
    accuracy = right.mean(axis=1)
    return float(t.ppf(1 - MISSED, len(right) - 1) * accuracy.std(ddof=1) * math.sqrt(2 / LOOKS[-1]))


def choose(labels: NDArray[Any], right: Right) -> dict[str, Any]:
    """The alphas: see above."""
    limit = healthy_limit(right)
    seen = [trail(drawn(right, times * limit), right, labels, GATES["mnist"], "5", same=True) for times in KEEP]
    pairs = [dict(zip(CHOICES, pair, strict=True)) for pair in itertools.product(*CHOICES.values())]
    steps = [
        [[early(each, look, limit, pair) for pair in pairs] for look in range(len(LOOKS) - 1)] + [[last(each, limit)]]
        for each in seen
    ]
    best: dict[str, Any] = {}
    for first, second in itertools.product(range(len(pairs)), repeat=2):
        results = [
            ended(each, [looks[0][first], looks[1][second], looks[2][0]])
            for each, looks in zip(seen, steps, strict=True)
        ]
        shares, trainings = [float(published.mean()) for published, _ in results], float(results[0][1].mean())
        kept = all(low <= share <= high for share, (low, high) in zip(shares, KEEP.values(), strict=True))
        if kept and trainings < best.get("trainings", math.inf):
            alphas = {str(k): pairs[pair] for k, pair in zip(LOOKS, (first, second), strict=False)}
            best = {"alphas": alphas, "trainings": trainings, "passes": shares}
    return {"seeds": len(right), "limit": limit, **best}


def bounds(labels: NDArray[Any], right: Right) -> Iterator[dict[str, Any]]:
    """How often the one-sided 95 % bounds hold where both recipes are the same, so that the true loss is 0."""
    for kind in ("5", "3", "1"):
        seen = trail([right], right, labels, GATES["letters"], kind, same=True)
        reach = quantile(0.05, seen.degrees) * seen.error
        for k, loss, width in zip(LOOKS, seen.loss, reach, strict=True):
            yield {
                "baseline": int(kind),
                "candidate": k,
                "lower": float((loss - width <= 0).mean()),
                "upper": float((loss + width >= 0).mean()),
                "width": float(np.median(width)),
            }


def compute() -> dict[str, Any]:
    """Everything, rounded."""
    labels, kinds = load()
    default = kinds["default"]
    results = {
        "chosen": choose(labels, default[::2]),
        "limits": {name: healthy_limit(right) for name, (_, right) in sets().items()},
        "halves": {
            name: {"deviation": right.mean(axis=1).std(ddof=1), "rows": list(table("mnist", labels, right))}
            for name, right in (("even", default[::2]), ("odd", default[1::2]))
        },
        "tables": {name: list(table(name, *each)) for name, each in sets().items()},
        "really worse": list(really_worse(labels, kinds)),
        "bounds": {name: list(bounds(*each)) for name, each in sets().items()},
    }
    rounded: dict[str, Any] = json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 4))
    return rounded


def markdown(results: dict[str, Any]) -> str:
    """looks.md, of which tasks/gate/README.md quotes a table."""
    best = results["chosen"]
    alphas = "; ".join(
        f"{k} seed{'s' * (k != '1')}: publish {pair['publish']:.2f}, reject {pair['reject']:.2f}"
        for k, pair in best["alphas"].items()
    )
    lines = [f"Alphas, chosen on the {best['seeds']} even seeds of MNIST: {alphas}."]
    lines.append("A cell is the share that passes all rows, and the mean number of trainings of the candidate.")
    for name, rows in results["tables"].items():
        exact = results["limits"][name]
        lines += ["", f"{name}, all seeds, limit {LIMITS[name]:.4f} (exactly {exact:.4f}):", "", *_losses(rows, name)]
    for name, half in results["halves"].items():
        about = f"the {name} seeds (standard deviation {half['deviation']:.4f})"
        lines += ["", f"mnist, {about}, the same limit:", "", *_losses(half["rows"], "mnist")]
    lines += ["", "| trained to be worse (true loss), against five seeds | passes | trainings |", "|---|---|---|"]
    lines += [
        f"| {each['recipe']} ({each['loss']:.4f}) | {each['passes']:.3f} | {each['trainings']:.1f} |"
        for each in results["really worse"]
    ]
    lines += [
        "",
        "| MNIST, baseline of five: ends at look | published 1, 2, 3 | rejected 1, 2, 3 |",
        "|---|---|---|",
    ]
    for each in results["tables"]["mnist"]:
        if each["baseline"] == "5":
            cells = [", ".join(f"{share:.3f}" for share in each[f"{what} at"]) for what in ("published", "rejected")]
            lines.append(f"| loss {each['loss']:.3f} | {' | '.join(cells)} |")
    lines += ["", "| 95 % bounds hold, seeds against seeds | lower | upper | median reach |", "|---|---|---|---|"]
    for name, rows in results["bounds"].items():
        lines += [
            f"| {name}, {each['candidate']} against {each['baseline']} "
            f"| {each['lower']:.3f} | {each['upper']:.3f} | {each['width']:.4f} |"
            for each in rows
        ]
    return "\n".join(lines) + "\n"


def _losses(rows: list[dict[str, Any]], name: str) -> Iterator[str]:
    yield "| seeds of the baseline | " + " | ".join(f"loss {loss:.3f}" for loss in LOSSES[name]) + " |"
    yield "|---|" + "---|" * len(LOSSES[name])
    for kind in BASELINES:
        cells = [f"{each['passes']:.3f} ({each['trainings']:.1f})" for each in rows if each["baseline"] == kind]
        yield f"| {kind} | {' | '.join(cells)} |"


if __name__ == "__main__":
    computed = compute()
    JSON.write_text(json.dumps(computed, indent=1) + "\n")
    MARKDOWN.write_text(markdown(computed))
