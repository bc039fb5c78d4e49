"""The report's pictures, drawn by matplotlib: SVG for report.html, PNG for the run's page in the Prefect interface.

Deterministic: no dates, fixed ids. Called when a report is rendered; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.report.calibration import Bin, Calibration
from tasks.report.facts import Document
from tasks.report.formatting import too_many_for_a_matrix
from tasks.values import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = ("loss", "accuracy")

# Characters of a class's name beside the confusion matrix.
LONGEST_NAME = 18

# Metadata, the date among them, that matplotlib would write into an SVG.
SVG_METADATA = ("Creator", "Date", "Format", "Type")

# Placeholders, replaced by variables of the style sheet, which has colours for light and dark.
INK, TRAIN, VALIDATION = "#010203", "#010204", "#010205"
STYLE_NAMES = {INK: "currentColor", TRAIN: "var(--accent)", VALIDATION: "var(--second)"}

# Colours of the PNGs, which must be readable on light and on dark.
GREY, BLUE, ORANGE, DARK = "#7a7f87", "#2f6fdf", "#d97706", "#22262c"


def curve_svgs(history: Sequence[Epoch]) -> dict[str, str]:
    """Loss and accuracy per epoch, by name, as inline SVG that takes colours and font from the page around it.

    Without titles or legend: the page shows those as text.
    """
    return {name: _svg(_curve(history, name), name, _curve_label(history, name)) for name in CURVES}


def calibration_svgs(calibration: Calibration) -> dict[str, str]:
    """Reliability curve and histogram of the images over their confidence, as inline SVG like `curve_svgs`."""
    return {
        "reliability": _svg(
            _reliability(calibration.bins),
            "reliability",
            "Share of right guesses by the probability that the model gives its guess: "
            + ", ".join(f"{each.accuracy:.2f} at {each.confidence:.2f}" for each in calibration.bins),
        ),
        "confidence": _svg(
            _confidence_histogram(calibration),
            "confidence",
            "Images by the probability that the model gives its guess: "
            + ", ".join(f"{each.images:,} from {each.lower:.2f} to {each.upper:.2f}" for each in calibration.bins),
        ),
    }


def pictures(document: Document) -> dict[str, bytes]:
    """Learning curves and confusion matrix as PNG, by title, for Markdown, which cannot hold SVG.

    No curves for one epoch, which would be a dot: its values are in the table. No matrix of too many classes: a table
    of the most frequent confusions stands in its place.
    """
    history = document.trained.history
    curves = {"Learning curves": _png(_curves(history))} if len(history) > 1 else {}
    matrix = {} if too_many_for_a_matrix(document) else {"Confusion matrix": _png(_confusion(document))}
    return curves | matrix


def _curve_label(history: Sequence[Epoch], name: str) -> str:
    """The curve in words, for those who do not see it: its first and its last value."""
    texts = [
        f"{split} {first:.4f} in the first epoch, {last:.4f} in the last one"
        for split, prefix in (("training", ""), ("validation", "validation_"))
        if (first := getattr(history[0], prefix + name)) is not None
        and (last := getattr(history[-1], prefix + name)) is not None
    ]
    return f"{name.capitalize()} per epoch, {len(history)} of them: {'; '.join(texts)}"


def _curve(history: Sequence[Epoch], name: str) -> Figure:
    with _new_figure((4.1, 2.3)) as figure:
        _draw_curve(figure.add_subplot(), history, name, INK, (TRAIN, VALIDATION))
        return figure


def _curves(history: Sequence[Epoch]) -> Figure:
    with _new_figure((9, 2.9)) as figure:
        for place, name in enumerate(CURVES, 1):
            axes = figure.add_subplot(1, 2, place)
            _draw_curve(axes, history, name, GREY, (BLUE, ORANGE))
            axes.set_title(name.capitalize(), color=GREY, fontsize=11, loc="left")
            if len(axes.lines) > 1:
                axes.legend(frameon=False, labelcolor=GREY)
        return figure


def _draw_curve(axes: Axes, history: Sequence[Epoch], name: str, ink: str, colours: tuple[str, str]) -> None:
    for label, prefix, colour in zip(("training", "validation"), ("", "validation_"), colours, strict=True):
        values = [getattr(epoch, prefix + name) for epoch in history]
        if None not in values:
            # A marker at each epoch shows a single one; many would hide the line.
            marker = "o" if len(values) <= 30 else ""
            axes.plot(range(1, len(values) + 1), values, marker=marker, markersize=4, color=colour, label=label)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    _style(axes, ink, "epoch")


def _reliability(bins: Sequence[Bin]) -> Figure:
    """Share right over probability, with 95 % intervals, as a bin of few images is uncertain."""
    x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
    intervals = [_interval(round(each.accuracy * each.images), each.images) for each in bins]
    # Rounding must not make an error bar negative.
    below, above = zip(
        *((max(0.0, share - low), max(0.0, high - share)) for share, (low, high) in zip(y, intervals, strict=True)),
        strict=True,
    )
    with _new_figure((4.1, 2.9)) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], linestyle=(0, (4, 4)), linewidth=1, color=INK, alpha=0.5)
        axes.errorbar(x, y, (below, above), color=TRAIN, marker="o", markersize=4, elinewidth=1, linewidth=1.5)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _style(axes, INK, "probability that the model gives its guess")
        return figure


def _interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share, from the beta distribution (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(right, images - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, images - right, 0.975)) if right < images else 1.0
    return low, high


def _confidence_histogram(calibration: Calibration) -> Figure:
    with _new_figure((4.1, 2.9)) as figure:
        axes = figure.add_subplot()
        lower, images = [each.lower for each in calibration.bins], [each.images for each in calibration.bins]
        axes.bar(lower, images, 0.92 / calibration.of, align="edge", color=TRAIN)
        from matplotlib.ticker import NullLocator

        # From half an image, so that a single one still shows.
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0, 1.02)
        _style(axes, INK, "probability that the model gives its guess")
        return figure


def _style(axes: Axes, ink: str, label: str) -> None:
    axes.set_xlabel(label, color=ink)
    axes.tick_params(colors=ink, length=3)
    axes.grid(axis="y", color=ink, alpha=0.15)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_edgecolor(ink)
        spine.set_alpha(0.4)


def _confusion(document: Document) -> Figure:
    counts = np.array(document.evaluation.confusion)
    # Only mistakes are coloured, as the diagonal is far larger; by the square root, so that single ones still show.
    heat = np.sqrt(counts * (1 - np.eye(len(counts))))
    names = [_drawable(document.class_name(label), label) for label in range(len(counts))]
    more = 0.31 * max(0, len(counts) - 10) + (1 if max(map(len, names)) > 2 else 0)
    with _new_figure((5.2 + more, 4.6 + more)) as figure:
        axes = figure.add_subplot()
        axes.imshow(np.ma.masked_equal(heat, 0), cmap="Oranges", vmin=0, vmax=1.3 * max(1.0, heat.max()))
        for (truth, guess), count in np.ndenumerate(counts):
            colour, weight = DARK if heat[truth, guess] else GREY, "bold" if truth == guess else "normal"
            label = f"{count}" if count else "·"
            axes.text(guess, truth, label, ha="center", va="center", fontsize=8, color=colour, weight=weight)
        # Without parse_math=False, a name with two `$` would be taken for a formula.
        axes.set_xticks(range(len(counts)), names, rotation=90 if max(map(len, names)) > 2 else 0, parse_math=False)
        axes.set_yticks(range(len(counts)), names, parse_math=False)
        axes.tick_params(colors=GREY, length=0)
        axes.set_xlabel("what the model took it for", color=GREY)
        axes.set_ylabel("what the image shows", color=GREY)
        axes.spines[:].set_visible(False)
        return figure


def _drawable(name: str, label: int) -> str:
    """A name as short as the matrix needs it; the number of a class whose name the font does not have."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    name = " ".join(name.split())
    if not all(ord(character) in known for character in name):
        return str(label)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


@contextmanager
def _new_figure(size: tuple[float, float]) -> Iterator[Figure]:
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib.figure import Figure

    with _defaults({"font.size": 9}):
        yield Figure(figsize=size, layout="constrained")


@contextmanager
def _defaults(changes: Any) -> Iterator[None]:
    """Matplotlib's own defaults with these changes, whatever a matplotlibrc here or in the home says."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update(changes)
        yield


def _svg(figure: Figure, name: str, label: str) -> str:
    buffer = io.StringIO()
    with _defaults({"svg.fonttype": "none", "svg.hashsalt": "retrain"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    text = buffer.getvalue()
    for placeholder, colour in STYLE_NAMES.items():
        text = text.replace(placeholder, colour)
    # Two drawings on one page must not share an id.
    for reference in ('id="', "url(#", 'href="#'):
        text = text.replace(reference, f"{reference}{name}-")
    text = text[text.index("<svg") :]
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with _defaults({}):
        figure.savefig(buffer, format="png", dpi=110, transparent=True, metadata={"Software": None})
    return buffer.getvalue()
