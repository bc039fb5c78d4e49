"""report.html: one file that needs nothing else, light and dark, on a desk or a phone.

The template does the layout; this module prepares what it shows. Called by the report step.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.report import words
from tasks.report.facts import Facts, Mistake
from tasks.report.figures import curve_svgs
from tasks.values import Check, Epoch, Evaluation, Statistics


def render(facts: Facts, mistakes: Sequence[Mistake], pictures: NDArray[np.uint8]) -> bytes:
    """The report as HTML.

    Args:
        facts: What to tell.
        mistakes: The worst mistakes, in order.
        pictures: Their images, uint8 (mistakes, 784) or (mistakes, 28, 28).
    """
    from jinja2 import Environment, StrictUndefined

    source = files("tasks.report").joinpath("report.html.jinja").read_text("utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(source).render(_shown(facts, mistakes, pictures)).encode()


def _shown(facts: Facts, mistakes: Sequence[Mistake], pictures: NDArray[np.uint8]) -> dict[str, Any]:
    evaluation, decision = facts.evaluation, facts.decision
    return {
        "facts": facts,
        "passed": decision.verdict == "publish",
        "percent": words.percent,
        "sureness": words.sureness,
        "interval": words.interval(decision),
        "headline": words.headline(decision),
        "gate": [(row, _gauge(check)) for row, check in zip(words.gate_rows(decision), decision.checks, strict=True)],
        "curves": _curves(facts.trained.history),
        "epochs": words.epoch_rows(facts.trained.history),
        "spread": words.spread_line(facts.spread) if facts.spread else "",
        "seeds": words.seed_rows(facts.spread) if facts.spread else [],
        "confusion": _confusion_rows(evaluation.confusion),
        "classes": list(zip(words.class_rows(facts), _weakest(evaluation), strict=True)),
        "mistakes": [(mistake, _png_address(image)) for mistake, image in zip(mistakes, pictures, strict=True)],
        "wrong": evaluation.images - evaluation.correct,
        "statistics": [(name, _statistics_row(split)) for name, split in facts.splits],
        "provenance": [row for row in words.provenance_rows(facts) if row[0] != "Time"],
        "times": _bars(facts.seconds),
    }


def _gauge(check: Check) -> dict[str, float]:
    """Where value and limit lie on the row's own scale, in per cent of its width.

    A share's scale ends at 1 and starts as far below the lower of the two as keeps both apart; any other's holds 0.
    """
    lower, upper = sorted((check.value, check.limit))
    if lower >= 0 and upper <= 1:
        start, end = max(0.0, 1 - 1.6 * max(1 - lower, 0.01)), 1.0
    else:
        start, end = min(0.0, 1.2 * lower), max(0.0, upper)
    return {name: round(100 * (getattr(check, name) - start) / (end - start), 1) for name in ("value", "limit")}


def _curves(history: Sequence[Epoch]) -> list[dict[str, str | None]]:
    """Each drawing with what its last epoch reached."""
    last = history[-1]

    def reached(field: str) -> str | None:
        value = getattr(last, field)
        return None if value is None else f"{value:.4f}"

    return [
        {"name": name, "svg": svg, "training": reached(name), "validation": reached(f"validation_{name}")}
        for name, svg in curve_svgs(history).items()
    ]


def _confusion_rows(confusion: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
    """Each cell's count and how strongly to colour it: mistakes by their share of the worst cell."""
    counts = np.array(confusion)
    worst = int((counts * (1 - np.eye(len(counts), dtype=int))).max())
    return [
        [
            {"count": count, "right": truth == guess, "heat": 0 if truth == guess else _heat(count, worst)}
            for guess, count in enumerate(row)
        ]
        for truth, row in enumerate(confusion)
    ]


def _heat(count: int, worst: int) -> int:
    """Per cent of full colour; by the square root, so that single mistakes still show."""
    return round(85 * math.sqrt(count / worst)) if count else 0


def _weakest(evaluation: Evaluation) -> list[bool]:
    """Which classes have the lowest recall; none where nothing is wrong."""
    lowest = min(score.recall for score in evaluation.classes)
    return [score.recall == lowest < 1 for score in evaluation.classes]


def _statistics_row(split: Statistics) -> dict[str, Any]:
    most = max(split.per_class)
    return {
        "images": f"{split.images:,}",
        "mean": f"{split.mean:.4f}",
        "range": f"{split.minimum:g} to {split.maximum:g}",
        "bars": [
            {"label": label, "count": count, "height": round(100 * count / most)}
            for label, count in enumerate(split.per_class)
        ],
    }


def _bars(seconds: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    longest = max((value for _, value in seconds), default=0.0) or 1.0
    return [
        {"name": name, "time": words.duration(value), "width": round(100 * value / longest, 1)}
        for name, value in seconds
    ]


def _png_address(image: NDArray[np.uint8]) -> str:
    """A square picture as a data address."""
    from PIL import Image

    side = math.isqrt(image.size)
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(side, side)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
