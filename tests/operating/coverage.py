"""The coverage of four one-sided 95 % bounds of a paired loss: not simulated but summed, exactly.

python -m tests.operating.coverage    # writes coverage.json, in about twenty seconds

A bound covers if it does not exceed the true loss. Given how many images differ on average, and the loss, the counts
(b, c) are multinomial, so the coverage is the sum of the probabilities of all counts whose bound covers: no seed, no
error of simulation. Counts beyond nine standard deviations are left out; they weigh less than 1e-15.

wald            observed loss minus z standard errors, the textbook's
conditional     Clopper-Pearson for b among the b + c discordant images, which are fixed (exact McNemar, inverted)
tango           the score interval, `tasks.gate.paired`
unconditional   exact test of Tango's statistic, at the least favourable number of discordant images
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln

from tasks.gate.intervals import ONE_SIDED
from tasks.gate.paired import lower_bound, score

COVERAGE = Path(__file__).with_name("coverage.json")

Floats = NDArray[np.float64]
Covers = Callable[[Floats, Floats, int, float], NDArray[np.bool_]]

# Two models of the default recipe differ on 110 to 220 of 10,000 images; the digits have 360 test images.
DISCORDANT = {10_000: (50, 100, 150, 200, 400), 360: (6, 12, 24)}
LOSSES = {10_000: (-0.005, -0.002, 0.0, 0.002, 0.005), 360: (-0.01, -0.005, 0.0, 0.002, 0.005, 0.01)}


def wald(b: Floats, c: Floats, n: int, loss: float) -> NDArray[np.bool_]:
    return (b - c) / n - ONE_SIDED * np.sqrt(b + c - (b - c) ** 2 / n) / n <= loss


def conditional(b: Floats, c: Floats, n: int, loss: float) -> NDArray[np.bool_]:
    share = np.where(b > 0, betaincinv(np.maximum(b, 1), c + 1, 0.05), 0.0)
    return (2 * share - 1) * (b + c) / n <= loss


def tango(b: Floats, c: Floats, n: int, loss: float) -> NDArray[np.bool_]:
    return lower_bound(b, c, n, ONE_SIDED) <= loss


def unconditional(b: Floats, c: Floats, n: int, loss: float) -> NDArray[np.bool_]:
    """Covers where the p-value exceeds 5 % at the worst of 60 shares of discordant images, at most 6 % or 30 %."""
    most = 0.06 if n > 1000 else 0.3
    every_b, every_c = plane(n, (0, most), loss)
    statistic = score(every_b, every_c, n, loss)
    order = np.argsort(-statistic)
    worst = np.zeros(len(order))
    for rate in np.geomspace(max(abs(loss), 1 / n), most, 60):
        worst = np.maximum(worst, np.cumsum(probability(every_b, every_c, n, rate, loss)[order]))
    # Counts with one statistic share the p-value of the last of them.
    rank = np.searchsorted(-statistic[order], -score(b, c, n, loss) + 1e-9, side="right") - 1
    return worst[np.clip(rank, 0, None)] > 0.05


METHODS: dict[str, Covers] = {
    "wald": wald,
    "conditional": conditional,
    "tango": tango,
    "unconditional": unconditional,
}


def plane(n: int, rates: tuple[float, float], loss: float) -> tuple[Floats, Floats]:
    """All counts (b, c), flat, that are not next to impossible where a share of images within `rates` is discordant."""

    def axis(loss: float) -> Floats:
        low, high = (max(0.0, n * (rate + loss) / 2) for rate in rates)
        return np.arange(max(0, int(low - 9 * np.sqrt(low))), min(n, int(high + 9 * np.sqrt(high) + 20)) + 1.0)

    b, c = np.meshgrid(axis(loss), axis(-loss), indexing="ij")
    possible = b + c <= n
    return b[possible], c[possible]


def probability(b: Floats, c: Floats, n: int, rate: float, loss: float) -> Floats:
    """The multinomial probability of counts, where a share `rate` of images is discordant."""
    p, q = max((rate + loss) / 2, 1e-300), max((rate - loss) / 2, 1e-300)
    logarithm: Floats = (
        gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
        + b * np.log(p) + c * np.log(q) + (n - b - c) * np.log1p(-rate)
    )  # fmt: skip
    return np.exp(logarithm)


def coverage(method: Covers, n: int, discordant: int, loss: float) -> float:
    """The probability that the method's bound does not exceed the true loss."""
    b, c = plane(n, (discordant / n, discordant / n), loss)
    return float(probability(b, c, n, discordant / n, loss)[method(b, c, n, loss)].sum())


def cases() -> Iterator[tuple[int, int, float]]:
    """Images, how many of them are discordant on average, true loss."""
    for n, numbers in DISCORDANT.items():
        yield from ((n, number, loss) for number in numbers for loss in LOSSES[n] if abs(loss) * n <= number)


def table() -> list[dict[str, float]]:
    """The coverage of each method in each case."""
    return [
        {
            "images": n,
            "discordant": number,
            "loss": loss,
            **{name: round(coverage(method, n, number, loss), 4) for name, method in METHODS.items()},
        }
        for n, number, loss in cases()
    ]


if __name__ == "__main__":
    COVERAGE.write_text("[\n" + ",\n".join(json.dumps(row) for row in table()) + "\n]\n")
