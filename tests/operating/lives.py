"""Years of weekly retrainings, simulated: does a worse model ever become the champion, are good ones rejected?

python -m tests.operating.lives    # writes lives.json and .md, in about two minutes

2,000 lives of 520 weeks in each world. Each week a recipe is judged as the product does, by 1, 3 and 5 seeds, against
the champion, with five seeds, and against the pinned reference. A seed's accuracy is that of one of the 100 that were
really trained, drawn anew each time, less what the recipe has lost on the test images: each image is lost at the same
week for all seeds, so that a true loss of 0.005 is one of 0.0043 to 0.0057 there in most lives. Only the rows of loss
are judged.

A champion is too bad if its recipe's true accuracy is more than 0.004 below that of the reference, a model too low if
its own accuracy on the test images is. A champion that was published with fewer seeds gets the others, up to five:
those are trainings too.

Rejected runs do not stop a creep or heal a jump: next week's recipe is as bad, or worse, and gets another chance. What
it spends of the error is `reference_limit`, whose two levels are compared with one level for ever.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.gate.recipes import ALPHA, LOOKS, REFERENCE_SEEDS, TIGHTENED, quantile
from tests.operating.characteristics import IMAGES, Floats, Right, load
from tests.operating.looks import LIMITS

JSON, MARKDOWN = (Path(__file__).with_name(f"lives.{kind}") for kind in ("json", "md"))

LIVES, WEEKS = 2000, 520
CREEP, JUMP, REPAIRED_AFTER, BEST_OF = 0.0005, 0.005, 10, 10
# A life is bad once the true loss of its champion, to the reference, is above this.
TOO_MUCH = 0.004
LIMIT = LIMITS["mnist"]
WORLDS = {
    "same": "nothing changes",
    "creep": f"each week loses another {CREEP}",
    "jump": f"from a random week on {JUMP} is lost",
    "best": f"champion and reference began as the best of {BEST_OF}",
    "repaired": f"a jump of {JUMP}, repaired after {REPAIRED_AFTER} weeks",
}
POLICIES = {
    f"{seeds} seeds, {word}": (seeds, share)
    for seeds in (5, REFERENCE_SEEDS)
    for word, share in (("one limit", 1.0), ("tightened after a rejection", TIGHTENED))
}


class Baseline(NamedTuple):
    """Of each life the accuracies of the seeds (lives, J), and the share of images lost to the reference (lives,)."""

    accuracy: Floats
    lost: Floats


def row(candidate: Baseline, baseline: Baseline, limit: Floats | float, seeds_left: bool) -> tuple[Right, Right]:
    """Which lives `loss_step` says publish and reject in; the images are those that only one of the two has lost."""
    k, j = candidate.accuracy.shape[1], baseline.accuracy.shape[1]
    means = [each.accuracy.mean(axis=1, keepdims=True) for each in (candidate, baseline)]
    loss = (means[1] - means[0])[:, 0]
    if not seeds_left:
        return loss <= limit, loss > limit
    squares = sum(
        ((each.accuracy - mean) ** 2).sum(axis=1) for each, mean in zip((candidate, baseline), means, strict=True)
    )
    seeds = np.maximum(squares / (k + j - 2), 1 / IMAGES**2) * (1 / k + 1 / j)
    total = seeds + np.abs(candidate.lost - baseline.lost) / IMAGES
    degrees, error = (k + j - 2) * (total / seeds) ** 2, np.sqrt(total)
    good = loss + quantile(ALPHA[k]["publish"], degrees) * error <= limit
    return good, loss - quantile(ALPHA[k]["reject"], degrees) * error > limit


def verdicts(candidate: Baseline, rows: list[tuple[Baseline, Floats | float]]) -> tuple[Right, NDArray[np.intp]]:
    """Which lives publish the candidate, and how many of its five seeds were trained."""
    published, used = np.zeros(len(candidate.lost), bool), np.zeros(len(candidate.lost), int)
    for k in LOOKS:
        seen = Baseline(candidate.accuracy[:, :k], candidate.lost)
        steps = [row(seen, baseline, limit, k < LOOKS[-1]) for baseline, limit in rows]
        good, bad = np.all([each[0] for each in steps], axis=0), np.any([each[1] for each in steps], axis=0)
        ends = (used == 0) & (good | bad)
        published |= ends & good
        used[ends] = k
    return published, used


def live(world: str, seeds: int, tightened: float, accuracy: Floats, lives: int, weeks: int) -> dict[str, float]:
    """Simulate.

    Args:
        world: One of `WORLDS`.
        seeds: Those of the reference.
        tightened: The share of the limit against it after a rejection.
        accuracy: Those of the trained seeds.
        lives: How many.
        weeks: How long.
    """
    random = np.random.default_rng(0)
    nothing = np.zeros(lives)
    reference = Baseline(random.choice(accuracy, (lives, seeds)), nothing)
    if world == "best":
        reference.accuracy[:, 0] = random.choice(accuracy, (lives, BEST_OF)).max(axis=1)
    champion, true = Baseline(reference.accuracy[:, : LOOKS[-1]], nothing), nothing
    begins, jumped = random.integers(1, weeks + 1, lives), random.poisson(JUMP * IMAGES, lives) / IMAGES
    retries, crept, too_much = np.zeros(lives, int), nothing, np.zeros(lives, bool)
    healthy, rejected, trained, completed, low = 0, 0, 0, 0, np.zeros(lives, bool)
    for week in range(1, weeks + 1):
        bad = np.zeros(lives, bool)
        if world == "creep":
            bad = ~bad
            crept = crept + random.poisson(CREEP * IMAGES, lives) / IMAGES
        elif world in ("jump", "repaired"):
            bad = (week >= begins) & ((world == "jump") | (week < begins + REPAIRED_AFTER))
        lost = np.where(bad, crept if world == "creep" else jumped, 0.0)
        now = np.where(bad, week * CREEP if world == "creep" else JUMP, 0.0)
        candidate = Baseline(random.choice(accuracy, (lives, LOOKS[-1])) - lost[:, None], lost)
        limit = np.where(retries > 0, tightened, 1.0) * LIMIT
        published, used = verdicts(candidate, [(champion, LIMIT), (reference, limit)])
        model = medians(candidate.accuracy, used)
        low |= published & (reference.accuracy.mean(axis=1) - model > TOO_MUCH)
        champion = Baseline(*(np.where(published if new.ndim == 1 else published[:, None], new, old)
                              for new, old in zip(candidate, champion, strict=True)))  # fmt: skip
        true, retries = np.where(published, now, true), np.where(published, 0, retries + 1)
        too_much |= true > TOO_MUCH + 1e-9
        healthy, rejected = healthy + int((~bad).sum()), rejected + int((~bad & ~published).sum())
        trained, completed = trained + int(used.sum()), completed + int((LOOKS[-1] - used)[published].sum())
    return {
        "bad lives": float(too_much.mean()),
        "healthy rejected": rejected / healthy if healthy else math.nan,
        "trainings": trained / (lives * weeks),
        "added": completed / (lives * weeks),
        "a model far below": float(low.mean()),
    }


def medians(accuracy: Floats, used: NDArray[np.intp]) -> Floats:
    """The accuracy of the model that would be published."""
    every = [np.median(accuracy[:, :k], axis=1) for k in LOOKS]
    result: Floats = np.select([used == k for k in LOOKS], every)
    return result


def compute(lives: int = LIVES, weeks: int = WEEKS) -> list[dict[str, Any]]:
    """Everything, rounded."""
    return [
        {"reference": policy, "world": world, **{name: round(value, 4) for name, value in figures.items()}}
        for policy, world, figures in _all(lives, weeks)
    ]


def _all(lives: int, weeks: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    accuracy = load()[1]["default"].mean(axis=1)
    for policy, (seeds, tightened) in POLICIES.items():
        for world in WORLDS:
            yield policy, world, live(world, seeds, tightened, accuracy, lives, weeks)


def markdown(results: list[dict[str, Any]]) -> str:
    """lives.md, of which tasks/gate/README.md quotes a table."""
    lines = [
        "| reference | world | lives with a champion too bad | healthy runs rejected | a model too low "
        "| trainings a week | of the champion |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        rejected = "" if math.isnan(each["healthy rejected"]) else f"{each['healthy rejected']:.4f}"
        lines.append(
            f"| {each['reference']} | {WORLDS[each['world']]} | {each['bad lives']:.3f} | {rejected} "
            f"| {each['a model far below']:.3f} | {each['trainings']:.2f} | {each['added']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    computed = compute()
    JSON.write_text(json.dumps(computed, indent=1) + "\n")
    MARKDOWN.write_text(markdown(computed))
