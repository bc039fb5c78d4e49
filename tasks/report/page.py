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
from tasks.values import Statistics


def render(facts: Facts, mistakes: Sequence[Mistake], pictures: NDArray[np.uint8]) -> bytes:
    """The report as HTML.

    Args:
        facts: What to tell.
        mistakes: The worst mistakes, in order.
        pictures: Their images, uint8 (mistakes, 784).
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
        "verdict": words.verdict_line(decision),
        "interval": "{:.4f} – {:.4f}".format(*decision.interval),
        "gate": words.gate_rows(decision),
        "svgs": curve_svgs(facts.trained.history),
        "epochs": words.epoch_rows(facts),
        "confusion": _confusion_rows(evaluation.confusion),
        "classes": words.class_rows(facts),
        "mistakes": [(mistake, _png_address(image)) for mistake, image in zip(mistakes, pictures, strict=True)],
        "wrong": evaluation.images - evaluation.correct,
        "statistics": [(name, _statistics_row(split)) for name, split in facts.prepared.statistics.items()],
        "provenance": words.provenance_rows(facts),
        "times": _bars(facts.provenance.seconds),
    }


def _confusion_rows(confusion: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
    """Each cell's count and how strongly to colour it: mistakes by their share of the worst cell."""
    worst = max(
        (count for truth, row in enumerate(confusion) for guess, count in enumerate(row) if truth != guess), default=0
    )
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


def _bars(seconds: dict[str, float]) -> list[dict[str, Any]]:
    longest = max(seconds.values(), default=0) or 1
    return [
        {"name": name, "time": words.duration(value), "width": round(100 * value / longest, 1)}
        for name, value in seconds.items()
    ]


def _png_address(image: NDArray[np.uint8]) -> str:
    """A square picture as a data address."""
    from PIL import Image

    side = math.isqrt(image.size)
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(side, side)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
