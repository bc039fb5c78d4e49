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
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.data.arrays import Bytes, class_name
from tasks.gate.comparison import Change, Comparison
from tasks.report import formatting
from tasks.report.calibration import Calibration
from tasks.report.changes import Changes
from tasks.report.facts import Document, Mistake
from tasks.report.figures import calibration_svgs, curve_svgs
from tasks.report.formatting import Names
from tasks.values import Check, Epoch, Statistics

if TYPE_CHECKING:
    from jinja2 import Environment

# Pixels of a tile's longer side; larger images are reduced, or a page of 70 photographs had megabytes.
TILE = 64

# Names of at most so many characters fit below a tile, above a column of the matrix and below a bar.
SHORT = 2

# So many bars can have the number of images above them, and so many columns of bars can be told apart at all.
NUMBERED, COLUMNS = 12, 100


def render(document: Document, images: Bytes) -> bytes:
    """The report as HTML.

    Args:
        document: The content.
        images: The test images, uint8 (n, pixels), of which it shows some.
    """
    shaped = images.reshape(-1, *document.prepared.shape)
    return render_template("report.html.jinja", _context(document, shaped))


def render_template(template: str, context: dict[str, Any]) -> bytes:
    """A template of this folder, UTF-8, with these values, all of them escaped."""
    return _environment().get_template(template).render(context).encode()


def with_changes(page: bytes, changes: Changes) -> bytes:
    """A report that was rendered without changes since the champion, and these after the gate, its first section."""
    parts: Any = _environment().get_template("parts.html.jinja").module
    before, end, after = page.partition(b"</section>\n")  # in a text it would be escaped
    return before + end + str(parts.changes(_changes(changes))).encode() + after


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("tasks.report")
    return Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
            (row, gauge(check)) for row, check in zip(formatting.gate_rows(decision), decision.checks, strict=True)
        ],
        "curves": _curves(document.trained.history),
        "training": formatting.training_sentence(document.trained.history),
        "epochs": formatting.epoch_rows(document.trained.history),
        "spread": formatting.spread_line(document.spread) if document.spread else "",
        "seeds": formatting.seed_rows(document.spread) if document.spread else [],
        "confusion": _confusion(document),
        "confusions": {"shown": formatting.confusions_shown(document), "rows": formatting.confusion_rows(document)},
        "classes": list(zip(formatting.class_rows(document), _weakest(document), strict=True)),
        "classes_shown": formatting.classes_shown(document),
        "calibration": _calibration(document.calibration),
        "mistakes": [_mistake(mistake, document, images) for mistake in document.mistakes],
        "named": _named(document.prepared.classes),
        "wrong": evaluation.images - evaluation.correct,
        "shown": formatting.shown(len(document.mistakes), evaluation.images - evaluation.correct),
        "changes": document.changes and _changes(document.changes),
        "comparison": document.comparison
        and comparison_context(document.comparison, document.prepared.classes, images),
        "leaks": formatting.leak_sentence(document.prepared),
        "batches": formatting.batches_sentence(document.prepared),
        "batches_shown": formatting.batches_shown(document.prepared),
        "batch_rows": formatting.batch_rows(document.prepared),
        "statistics": [(name, _statistics_row(name, split, document)) for name, split in document.splits],
        "provenance": [row for row in formatting.provenance_rows(document) if row[0] != "Time"],
        "times": _bars(document.seconds),
    }


def gauge(check: Check) -> dict[str, float]:
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
    """Each drawing with the values of the last epoch; none for one epoch, which would be a dot."""
    if len(history) < 2:
        return []
    last = history[-1]

    def final(field: str) -> str | None:
        value = getattr(last, field)
        return None if value is None else f"{value:.4f}"

    return [
        {"name": name, "svg": svg, "training": final(name), "validation": final(f"validation_{name}")}
        for name, svg in curve_svgs(history).items()
    ]


def _changes(changes: Changes) -> dict[str, Any]:
    """The section "Since champion v3"."""
    return {
        "champion": changes.champion,
        "sentence": formatting.changes_sentence(changes),
        "parts": formatting.changed_parts(changes),
    }


def _calibration(calibration: Calibration) -> dict[str, Any]:
    return {
        "svgs": calibration_svgs(calibration) if len(calibration.bins) > 1 else {},
        "sentence": formatting.calibration_sentence(calibration),
        "rows": formatting.calibration_rows(calibration),
    }


def _mistake(mistake: Mistake, document: Document, images: Bytes) -> dict[str, Any]:
    """The tile of a mistake in the gallery."""
    truth, guess = document.class_name(mistake.truth), document.class_name(mistake.guess)
    return _tile(mistake.image, images, truth, guess, mistake.probability) | {"text": f"{truth} taken for {guess}"}


def _named(classes: tuple[str, ...]) -> bool:
    """Whether classes have names that need room, and not only a digit or a letter."""
    return max(map(len, classes), default=1) > SHORT


def comparison_context(
    comparison: Comparison, classes: tuple[str, ...], images: Bytes | None, names: Names = Names()
) -> dict[str, Any]:
    """The values of the section that compares two models.

    Args:
        comparison: The two models, image by image.
        classes: The names of the classes; () for their numbers.
        images: The test images, uint8 (n, height, width) or (n, height, width, 3); None if they are not available.
        names: The names of the two models.
    """
    return {
        "champion": comparison.champion,
        "sentence": formatting.comparison_sentence(comparison),
        "tiles": _tiles(comparison, names),
        "classes": formatting.changed_classes(comparison, classes),
        "classes_shown": formatting.changed_classes_shown(comparison),
        "named": _named(classes),
        "galleries": [
            {
                "name": name,
                "shown": formatting.shown(len(side.images), side.count),
                "text": text,
                "tiles": [_change(change, side is comparison.lost, classes, images, names) for change in side.images],
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


def _change(change: Change, lost: bool, classes: tuple[str, ...], images: Bytes | None, names: Names) -> dict[str, Any]:
    truth = class_name(classes, change.truth)
    predictions = ((names.old, change.champion), (names.new, change.candidate))
    answers = "; ".join(
        f"{name}: {class_name(classes, each.guess)}, {formatting.confidence(each.probability)}"
        for name, each in predictions
    )
    wrong = change.candidate if lost else change.champion
    return _tile(change.image, images, truth, class_name(classes, wrong.guess), wrong.probability) | {
        "text": f"{truth}; {answers}"
    }


def _tile(image: int, images: Bytes | None, truth: str, guess: str, probability: float) -> dict[str, Any]:
    return {
        "image": f"{image:,}",
        "truth": truth,
        "guess": guess,
        "confidence": formatting.confidence(probability),
        **({"address": ""} if images is None else picture(images[image])),
    }


def _confusion(document: Document) -> dict[str, Any] | None:
    """The names of the classes; each cell's count and the strength of its colour, by its share of the worst cell.

    None for too many classes. `named` is a matrix whose names or number of columns need the page's whole width.
    """
    if formatting.too_many_for_a_matrix(document):
        return None
    confusion = document.evaluation.confusion
    counts = np.array(confusion)
    worst = int((counts * (1 - np.eye(len(counts), dtype=int))).max())
    names = [document.class_name(label) for label in range(len(counts))]
    rows = [
        [
            {"count": count, "right": truth == guess, "heat": 0 if truth == guess else _heat(count, worst)}
            for guess, count in enumerate(row)
        ]
        for truth, row in enumerate(confusion)
    ]
    long = _named(document.prepared.classes)
    return {"names": names, "rows": list(zip(names, rows, strict=True)), "long": long, "large": len(names) > NUMBERED}


def _heat(count: int, worst: int) -> int:
    """The strength of a colour in per cent; by the square root, so that single mistakes still show."""
    return round(85 * math.sqrt(count / worst)) if count else 0


def _weakest(document: Document) -> list[bool]:
    """Which of the listed classes have the lowest recall; none if every image is right."""
    classes = formatting.listed_classes(document)
    lowest = min(score.recall for score in classes)
    return [score.recall == lowest < 1 for score in classes]


def _statistics_row(name: str, split: Statistics, document: Document) -> dict[str, Any]:
    most = max(1, *split.per_class)
    total = len(split.per_class)
    names = [document.class_name(label) for label in range(total)]
    texts = [
        f"{formatting.count(count, 'image')} of class {names[label]}" for label, count in enumerate(split.per_class)
    ]
    if total > formatting.LISTED:
        # In the order of their size, as a drawing of a thousand bars in the order of their names shows nothing.
        counts = sorted(split.per_class, reverse=True)
        counts = [counts[i * total // COLUMNS] for i in range(COLUMNS)] if total > COLUMNS else counts
        bars = [{"label": "", "count": "", "height": round(100 * count / most), "text": ""} for count in counts]
    else:
        bars = [
            {
                "label": names[label] if total * max(map(len, names)) <= formatting.LISTED else "",
                "count": f"{count}" if total <= NUMBERED else "",
                "height": round(100 * count / most),
                "text": texts[label],
            }
            for label, count in enumerate(split.per_class)
        ]
    sentence = "" if all(bar["label"] and bar["count"] for bar in bars) else _sizes(split, texts)
    return {
        "images": formatting.count(split.images, f"{name} image"),
        "label": f"The {name} split: {sentence}" if sentence else f"The {name} split has {', '.join(texts)}",
        "mean": f"{split.mean:.4f}",
        "range": f"{split.minimum:g} to {split.maximum:g}",
        "bars": bars,
        "sentence": sentence,
    }


def _sizes(split: Statistics, texts: Sequence[str]) -> str:
    """The largest and the smallest class, where the bars are too narrow for names or numbers."""
    counts = split.per_class
    order = ", the largest first" if len(texts) > formatting.LISTED else ""
    return (
        f"{len(texts):,} classes{order}: from {texts[counts.index(max(counts))]} to {texts[counts.index(min(counts))]}"
    )


def _bars(seconds: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    longest = max((value for _, value in seconds), default=0.0) or 1.0
    return [
        {"name": name, "time": formatting.duration(value), "width": round(100 * value / longest, 1)}
        for name, value in seconds
    ]


def picture(image: Bytes) -> dict[str, Any]:
    """An image, uint8 (height, width) or (height, width, 3), as a data URL, with its size there; reduced if large."""
    from PIL import Image

    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((TILE, TILE), Image.Resampling.BOX)
    picture.save(buffer, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"address": address, "width": picture.width, "height": picture.height}
