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

from tasks.data.arrays import Bytes
from tasks.gate.comparison import Change, Comparison
from tasks.report import formatting
from tasks.report.calibration import Calibration
from tasks.report.facts import Document, Mistake
from tasks.report.figures import calibration_svgs, curve_svgs
from tasks.report.formatting import Names
from tasks.values import Check, Epoch, Evaluation, Statistics


def render(told: Document, images: Bytes) -> bytes:
    """The report as HTML.

    Args:
        told: What to tell.
        images: The test images, uint8 (n, 784) or (n, 28, 28), for those that are shown.
    """
    return fill("report.html.jinja", _shown(told, images))


def fill(template: str, shown: dict[str, Any]) -> bytes:
    """A template of this folder with these values, all of them escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("tasks.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(shown).encode()


def _shown(facts: Document, images: Bytes) -> dict[str, Any]:
    evaluation, decision = facts.evaluation, facts.decision
    return {
        "facts": facts,
        "passed": all(check.passed for check in decision.checks),
        "badge": formatting.badge(decision),
        "percent": formatting.percent,
        "interval": formatting.interval(decision),
        "headline": formatting.headline(decision),
        "gate": [
            (row, _gauge(check)) for row, check in zip(formatting.gate_rows(decision), decision.checks, strict=True)
        ],
        "curves": _curves(facts.trained.history),
        "epochs": formatting.epoch_rows(facts.trained.history),
        "spread": formatting.spread_line(facts.spread) if facts.spread else "",
        "seeds": formatting.seed_rows(facts.spread) if facts.spread else [],
        "confusion": _confusion_rows(evaluation.confusion),
        "classes": list(zip(formatting.class_rows(facts), _weakest(evaluation), strict=True)),
        "calibration": _calibration(facts.calibration),
        "mistakes": [_mistake(mistake, images) for mistake in facts.mistakes],
        "wrong": evaluation.images - evaluation.correct,
        "comparison": facts.comparison and comparison_shown(facts.comparison, images),
        "statistics": [(name, _statistics_row(split)) for name, split in facts.splits],
        "provenance": [row for row in formatting.provenance_rows(facts) if row[0] != "Time"],
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


def _calibration(found: Calibration) -> dict[str, Any]:
    return {
        "svgs": calibration_svgs(found),
        "sentence": formatting.calibration_sentence(found),
        "rows": formatting.calibration_rows(found),
    }


def _mistake(mistake: Mistake, images: Bytes) -> dict[str, str]:
    """What a tile of the picture gallery shows."""
    taken = f"a {mistake.truth} taken for a {mistake.guess}"
    return _tile(mistake.image, images, mistake.truth, mistake.guess, mistake.probability) | {"text": taken}


def comparison_shown(found: Comparison, images: Bytes | None, names: Names = Names()) -> dict[str, Any]:
    """What the section on the champion shows.

    Args:
        found: The comparison.
        images: The test images, where they can be had.
        names: How the two models are called.
    """
    return {
        "champion": found.champion,
        "sentence": formatting.comparison_sentence(found),
        "tiles": _tiles(found, names),
        "classes": formatting.changed_classes(found),
        "galleries": [
            {
                "name": name,
                "count": side.count,
                "text": text,
                "tiles": [_change(change, side is found.lost, images, names) for change in side.images],
            }
            for name, text, side in (
                ("lost", f"what {names.new} takes it for", found.lost),
                ("won", f"what {names.old} takes it for", found.won),
            )
        ],
    }


def _tiles(found: Comparison, names: Names) -> list[dict[str, str]]:
    tones = ("fail" if found.lost.count else "", "pass" if found.won.count else "", "", "")
    return [
        {"name": row["test images"], "count": row["count"], "tone": tone}
        for row, tone in zip(formatting.comparison_rows(found, names), tones, strict=True)
    ]


def _change(change: Change, lost: bool, images: Bytes | None, names: Names) -> dict[str, str]:
    said = ((names.old, change.champion), (names.new, change.candidate))
    each = "; ".join(f"{name}: {model.guess}, {formatting.sureness(model.probability)}" for name, model in said)
    wrong = change.candidate if lost else change.champion
    return _tile(change.image, images, change.truth, wrong.guess, wrong.probability) | {
        "text": f"a {change.truth}; {each}"
    }


def _tile(image: int, images: Bytes | None, truth: int, guess: int, probability: float) -> dict[str, str]:
    address = "" if images is None else _png_address(images[image])
    sureness = formatting.sureness(probability)
    return {"image": f"{image:,}", "address": address, "truth": f"{truth}", "guess": f"{guess}", "sureness": sureness}


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
        {"name": name, "time": formatting.duration(value), "width": round(100 * value / longest, 1)}
        for name, value in seconds
    ]


def _png_address(image: Bytes) -> str:
    """A square picture as a data address."""
    from PIL import Image

    side = math.isqrt(image.size)
    buffer = io.BytesIO()
    Image.fromarray(image.reshape(side, side)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
