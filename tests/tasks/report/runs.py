"""Runs of a model, as its page shows them."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

from tasks.registry.runs import line
from tasks.values import RunRow

ROWS = ("accuracy", "accuracy lower bound", "classes tested", "loaded back", "lowest class recall", "loss to champion")


def rows(number: int, seed: int = 0) -> list[RunRow]:
    """So many runs of a year: some publish, most do not, one in twelve is refused or a rollback."""
    chance, result, version = random.Random(seed), list[RunRow](), 0
    start = datetime(2025, 11, 1, tzinfo=UTC)
    for place in range(number):
        id, time = str(uuid.UUID(int=chance.getrandbits(128))), start + place * timedelta(days=365) / number
        time = time.replace(microsecond=0)
        kind = place % 12
        if kind == 7 and version > 1:
            result.append(
                RunRow(id=id.replace("-", ""), time=time, verdict="rollback", version=version - 1, why="it was slow")
            )
        elif kind == 5:
            result.append(RunRow(id=id, time=time, verdict="refused", why=f"batch day-{place}: labels, class shares"))
        else:
            accuracy = 0.97 + 0.01 * place / number + chance.gauss(0, 0.0013)
            published, rejected = chance.random() < 0.2 or not place, chance.random() < 0.3
            version += published
            result.append(
                RunRow(
                    id=id,
                    time=time,
                    verdict="published" if published else "rejected" if rejected else "unchanged",
                    version=version if published or not rejected else 0,
                    accuracy=round(accuracy, 4),
                    lower=round(accuracy - 0.0031, 4),
                    upper=round(accuracy + 0.0027, 4),
                    why="Accuracy is 0.9687 and needs 0.9700" if rejected and not published else "",
                    margins={name: round(chance.gauss(0.004, 0.002), 4) for name in ROWS},
                    images=1000 + 1000 * place // 10,
                    batches=1 + place // 10,
                    seeds=chance.choice((1, 1, 3, 5)),
                    seconds=round(chance.uniform(3, 40), 1),
                    device="Intel(R) Xeon(R) Processor, 2 cores",
                )
            )
    return result


def lines(number: int) -> str:
    """The same as the index has them."""
    return "".join(f"{line(row)}\n" for row in rows(number))
