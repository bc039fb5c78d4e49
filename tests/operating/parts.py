"""How often the rows of earlier and of new images reject healthy recipes, and what they find: from the kept trainings.

python -m tests.operating.parts    # writes parts.json and .md, in a minute, without training anything

Each row rejects a loss whose lower end, one-sided at 95 %, is above the limit. So a recipe that loses just the limit on
a part is rejected there with 5 % at each look. A healthy one loses nothing there: with a part's standard error s it is
rejected with Φ(-1.645 - limit / s), less than 5 %, and only where another look or row has not decided before. How often
that is, the tables say: which share of the verdicts passes without the two rows, with them, and if they asked for 98 %.
The images of a part are drawn at random.

Verdicts are those of `looks`, with 1, 3 and 5 seeds. A true loss is drawn in one part alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.gate.checks import PART_ALPHA
from tasks.gate.intervals import ONE_SIDED
from tasks.gate.paired import lower_bound
from tasks.gate.recipes import ALPHA, LOOKS, quantile
from tasks.settings import Gate, GateSettings, gate_for
from tests.operating.characteristics import Right, thinned
from tests.operating.limits import sets
from tests.operating.looks import GATES, LIMITS, Trail, early, ended, gram, last, trail

JSON, MARKDOWN = (Path(__file__).with_name(f"parts.{kind}") for kind in ("json", "md"))

VERDICTS, DRAWS = 4000, 5
STRICTER = 0.02  # an error that is shown beside the product's
NO_ROWS = Gate(**dict.fromkeys(Gate.model_fields, 0.0))


class Case(NamedTuple):
    """How many images are new, how many seeds the baseline has, and the true loss on earlier and on new images."""

    data: str
    new: int
    seeds: int = 5
    earlier_loss: float = 0.0
    new_loss: float = 0.0


HEALTHY = (
    *(Case("mnist", new, seeds) for seeds in (5, 1) for new in (20, 100, 500, 2000, 5000)),
    *(Case("digits", new) for new in (20, 60, 180)),
    *(Case("letters", new) for new in (20, 100)),
)
WORSE = (
    *(Case("mnist", new, new_loss=loss) for new in (500, 2000) for loss in (0.01, 0.03)),
    *(Case("mnist", new, earlier_loss=0.005) for new in (500, 2000, 5000)),
    *(Case("mnist", 9500, earlier_loss=loss) for loss in (0.01, 0.03)),
)
PAIRS = (20, 100, 500, 2000, 5000)


def case(each: Case) -> dict[str, Any]:
    """The share of the verdicts that pass without the rows of the parts, with them, and with stricter ones."""
    labels, right = sets()[each.data]
    random = np.random.default_rng(0)
    new = part_of(len(labels), each.new, random)
    losses = ((~new, each.earlier_loss), (new, each.new_loss))
    draws = [worse(right, losses, random) for _ in range(DRAWS if any(loss for _, loss in losses) else 1)]
    limit, kind = LIMITS[each.data], str(each.seeds)
    seen = trail(draws, right, labels, GATES[each.data], kind, same=True, verdicts=VERDICTS)
    whole = [*(early(seen, look, limit, ALPHA[k]) for look, k in enumerate(LOOKS[:-1])), last(seen, limit)]
    parts = [part_seen(draws, right, part, kind, VERDICTS) for part in (~new, new)]
    shares = []
    for alpha in (None, PART_ALPHA, STRICTER):
        rejected = sum((lost(part, limit, alpha) for part in parts if alpha), np.zeros(seen.loss.shape, bool))
        steps = [(good & ~bad, known | bad) for (good, known), bad in zip(whole, rejected, strict=True)]
        shares.append(float(ended(seen, steps)[0].mean()))
    return {**each._asdict(), **dict(zip(("without", "passes", "stricter"), shares, strict=True))}


def part_seen(draws: list[Right], right: Right, part: Right, kind: str, verdicts: int) -> Trail:
    """What the same verdicts see of a part: `trail` draws seeds by the number of verdicts. No row uses the labels."""
    of_part = [draw[:, part] for draw in draws]
    labels = np.arange(part.sum()) % 10
    return trail(of_part, right[:, part], labels, NO_ROWS, kind, same=True, verdicts=verdicts)


def lost(part: Trail, limit: float, alpha: float) -> Right:
    """Where a loss above the limit is shown on a part: (looks, verdicts)."""
    found: Right = part.loss - quantile(alpha, part.degrees) * part.error > limit
    return found


def part_of(images: int, number: int, random: np.random.Generator) -> Right:
    """That many of the images, at random."""
    new = np.zeros(images, bool)
    new[random.permutation(images)[:number]] = True
    return new


def worse(right: Right, losses: tuple[tuple[Right, float], ...], random: np.random.Generator) -> Right:
    """The candidate's seeds with a true loss in each part."""
    result = right.copy()
    for part, loss in losses:
        if loss:
            result[:, part] = thinned(right[:, part], loss, random)
    return result


def pairs(new: int) -> dict[str, Any]:
    """The same for two models, one seed of MNIST each: the shares of all pairs whose three rows of loss pass."""
    _, right = sets()["mnist"]
    limit = gate_for("mnist", GateSettings(), "1").max_regression
    part = part_of(right.shape[1], new, np.random.default_rng(0))
    whole, earlier, later = (shown(right[:, images]) <= limit for images in (part | ~part, ~part, part))
    return {"new": new, "without": float(whole.mean()), "passes": float((whole & earlier & later).mean())}


def shown(right: Right) -> Any:
    """The loss that each seed shows to each other one."""
    champion, candidate = np.nonzero(~np.eye(len(right), dtype=bool))
    only = right.sum(axis=1)[:, None] - gram(right, right)
    b, c = only[champion, candidate], only[candidate, champion]
    return lower_bound(b, c, right.shape[1], ONE_SIDED)


def compute() -> dict[str, Any]:
    """Everything, rounded."""
    results = {
        "healthy": [case(each) for each in HEALTHY],
        "worse": [case(each) for each in WORSE],
        "pairs": [pairs(new) for new in PAIRS],
    }
    rounded: dict[str, Any] = json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 4))
    return rounded


def markdown(results: dict[str, Any]) -> str:
    """parts.md, of which tasks/gate/README.md quotes lines."""
    lines = ["Healthy recipes that pass, by how many of the test images are new:", ""]
    lines += ["| data, seeds of the baseline | new images | without the two rows | with them | with 98 % |"]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {each['data']}, {each['seeds']} | {_shares(each)} |" for each in results["healthy"]]
    lines += [f"| mnist, `--seeds 1` | {_shares(each)} |" for each in results["pairs"]]
    lines += ["", "Recipes that lose on one part alone, MNIST, a baseline of five seeds:", ""]
    lines += ["| loss on earlier, new images | new images | without the two rows | with them | with 98 % |"]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {each['earlier_loss']:.3f}, {each['new_loss']:.3f} | {_shares(each)} |" for each in results["worse"]]
    return "\n".join(lines) + "\n"


def _shares(each: dict[str, Any]) -> str:
    stricter = f"{each['stricter']:.3f}" if "stricter" in each else ""
    return f"{each['new']:,} | {each['without']:.3f} | {each['passes']:.3f} | {stricter}"


if __name__ == "__main__":
    computed = compute()
    JSON.write_text(json.dumps(computed, indent=1) + "\n")
    MARKDOWN.write_text(markdown(computed))
