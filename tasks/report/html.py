"""report.html: one file that needs no other, light and dark, for desktop and phone.

The templates do the layout; this module prepares the values that they show. Called when a report is rendered, and by
`version_comparison`; jinja2 and Pillow are imported then.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from tasks.data.arrays import Bytes
from tasks.gate.comparison import Change, Comparison
from tasks.report import formatting
from tasks.report.calibration import Calibration
from tasks.report.facts import Document, Mistake
from tasks.report.figures import calibration_svgs, curve_svgs
from tasks.report.formatting import Names
from tasks.values import Check, Epoch, Evaluation, Statistics


def render(document: Document, images: Bytes) -> bytes:
    """The report as HTML.

    Args:
        document: The content.
        images: The test images, uint8 (n, 784) or (n, 28, 28), of which it shows some.
    """
    return render_template("report.html.jinja", _context(document, images))


def render_template(template: str, context: dict[str, Any]) -> bytes:
    """A template of this folder, UTF-8, with these values, all of them escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("tasks.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context).encode()


def _context(document: Document, images: Bytes) -> dict[str, Any]:
    evaluation, decision = document.evaluation, document.decision
    return {
        "document": document,
        "passed": all(check.passed for check in decision.checks),
        "badge": formatting.badge(decision),
        "percent": formatting.percent,
        "interval": formatting.interval(decision),
        "headline": formatting.headline(decision),
        "gate": [
            (row, _gauge(check)) for row, check in zip(formatting.gate_rows(decision), decision.checks, strict=True)
        ],
        "curves": _curves(document.trained.history),
        "epochs": formatting.epoch_rows(document.trained.history),
        "spread": formatting.spread_line(document.spread) if document.spread else "",
        "seeds": formatting.seed_rows(document.spread) if document.spread else [],
        "confusion": _confusion_rows(evaluation.confusion),
        "classes": list(zip(formatting.class_rows(document), _weakest(evaluation), strict=True)),
        "calibration": _calibration(document.calibration),
        "mistakes": [_mistake(mistake, images) for mistake in document.mistakes],
        "wrong": evaluation.images - evaluation.correct,
        "comparison": document.comparison and comparison_context(document.comparison, images),
        "statistics": [(name, _statistics_row(split)) for name, split in document.splits],
        "provenance": [row for row in formatting.provenance_rows(document) if row[0] != "Time"],
        "times": _bars(document.seconds),
    }


def _gauge(check: Check) -> dict[str, float]:
    """The positions of value and limit on the row's own scale, in per cent of its width.

    The scale of a share ends at 1 and starts so far below the lower of the two that both can be told apart; any other
    scale includes 0.
    """
    lower, upper = sorted((check.value, check.limit))
    if lower >= 0 and upper <= 1:
        start, end = max(0.0, 1 - 1.6 * max(1 - lower, 0.01)), 1.0
    else:
        start, end = min(0.0, 1.2 * lower), max(0.0, upper)
    return {name: round(100 * (getattr(check, name) - start) / (end - start), 1) for name in ("value", "limit")}


def _curves(history: Sequence[Epoch]) -> list[dict[str, str | None]]:
    """Each drawing with the values of the last epoch."""
    last = history[-1]

    def final(field: str) -> str | None:
        value = getattr(last, field)
        return None if value is None else f"{value:.4f}"

    return [
        {"name": name, "svg": svg, "training": final(name), "validation": final(f"validation_{name}")}
        for name, svg in curve_svgs(history).items()
    ]


def _calibration(calibration: Calibration) -> dict[str, Any]:
    return {
        "svgs": calibration_svgs(calibration),
        "sentence": formatting.calibration_sentence(calibration),
        "rows": formatting.calibration_rows(calibration),
    }


def _mistake(mistake: Mistake, images: Bytes) -> dict[str, str]:
    """The tile of a mistake in the gallery."""
    text = f"a {mistake.truth} taken for a {mistake.guess}"
    return _tile(mistake.image, images, mistake.truth, mistake.guess, mistake.probability) | {"text": text}


def comparison_context(comparison: Comparison, images: Bytes | None, names: Names = Names()) -> dict[str, Any]:
    """The values of the section that compares two models.

    Args:
        comparison: The two models, image by image.
        images: The test images, uint8 (n, 784) or (n, 28, 28); None if they are not available.
        names: The names of the two models.
    """
    return {
        "champion": comparison.champion,
        "sentence": formatting.comparison_sentence(comparison),
        "tiles": _tiles(comparison, names),
        "classes": formatting.changed_classes(comparison),
        "galleries": [
            {
                "name": name,
                "count": side.count,
                "text": text,
                "tiles": [_change(change, side is comparison.lost, images, names) for change in side.images],
            }
            for name, text, side in (
                ("lost", f"what {names.new} takes it for", comparison.lost),
                ("won", f"what {names.old} takes it for", comparison.won),
            )
        ],
    }


def _tiles(comparison: Comparison, names: Names) -> list[dict[str, str]]:
    tones = ("fail" if comparison.lost.count else "", "pass" if comparison.won.count else "", "", "")
    return [
        {"name": row["test images"], "count": row["count"], "tone": tone}
        for row, tone in zip(formatting.comparison_rows(comparison, names), tones, strict=True)
    ]


def _change(change: Change, lost: bool, images: Bytes | None, names: Names) -> dict[str, str]:
    predictions = ((names.old, change.champion), (names.new, change.candidate))
    answers = "; ".join(
        f"{name}: {each.guess}, {formatting.confidence(each.probability)}" for name, each in predictions
    )
    wrong = change.candidate if lost else change.champion
    return _tile(change.image, images, change.truth, wrong.guess, wrong.probability) | {
        "text": f"a {change.truth}; {answers}"
    }


def _tile(image: int, images: Bytes | None, truth: int, guess: int, probability: float) -> dict[str, str]:
    address = "" if images is None else _png_address(images[image])
    return {
        "image": f"{image:,}",
        "address": address,
        "truth": f"{truth}",
        "guess": f"{guess}",
        "confidence": formatting.confidence(probability),
    }


def _confusion_rows(confusion: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
    """Each cell's count and the strength of its colour: mistakes by their share of the worst cell."""
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
    """The strength of a colour in per cent; by the square root, so that single mistakes still show."""
    return round(85 * math.sqrt(count / worst)) if count else 0


def _weakest(evaluation: Evaluation) -> list[bool]:
    """Which classes have the lowest recall; none if every image is right."""
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
        {"name": name, "time": formatting.duration(value), "width": round(100 * value / longest, 1)}
        for name, value in seconds
    ]


def _png_address(image: Bytes) -> str:
    """A square image as a data URL."""
    from PIL import Image

    side = math.isqrt(image.size)
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(side, side)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
