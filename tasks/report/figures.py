"""The report's pictures, through matplotlib: curves as SVG for the page, curves and confusion matrix as PNG.

Deterministic: no dates, fixed ids. Called by the report step; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tasks.report.calibration import Bin, Calibration
from tasks.report.facts import Document
from tasks.values import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = ("loss", "accuracy")

# What matplotlib would write into an SVG beside the drawing, the date among it.
SVG_METADATA = ("Creator", "Date", "Format", "Type")

# Stand-ins that the page's style sheet gives its own colours, light or dark.
INK, TRAIN, VALIDATION = "#010203", "#010204", "#010205"
STYLE_NAMES = {INK: "currentColor", TRAIN: "var(--accent)", VALIDATION: "var(--second)"}

# The same for pictures that stand alone on a light or a dark page.
GREY, BLUE, ORANGE, DARK = "#7a7f87", "#2f6fdf", "#d97706", "#22262c"


def curve_svgs(history: Sequence[Epoch]) -> dict[str, str]:
    """Loss and accuracy per epoch by name, each as inline SVG that takes its colours and its type from the page.

    Without titles or legend: the page sets those as text.
    """
    return {name: _svg(_curve(history, name), name) for name in CURVES}


def calibration_svgs(found: Calibration) -> dict[str, str]:
    """The reliability curve and how many images it stands on, as inline SVG like `curve_svgs`."""
    return {
        "reliability": _svg(_reliability(found.bins), "reliability"),
        "sureness": _svg(_sureness(found), "sureness"),
    }


def pictures(document: Document) -> dict[str, bytes]:
    """Learning curves and confusion matrix as PNG, by title, for where SVG cannot go."""
    return {"Learning curves": _png(_curves(document.trained.history)), "Confusion matrix": _png(_confusion(document))}


def _curve(history: Sequence[Epoch], name: str) -> Figure:
    with _drawn((4.1, 2.3)) as figure:
        _draw_curve(figure.add_subplot(), history, name, INK, (TRAIN, VALIDATION))
        return figure


def _curves(history: Sequence[Epoch]) -> Figure:
    with _drawn((9, 2.9)) as figure:
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
            # A mark at each epoch tells a single one; many would hide the line.
            marker = "o" if len(values) <= 30 else ""
            axes.plot(range(1, len(values) + 1), values, marker=marker, markersize=4, color=colour, label=label)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    _dress(axes, ink, "epoch")


def _reliability(bins: Sequence[Bin]) -> Figure:
    """Share right over probability, with 95 % intervals: a bin of few images says little."""
    x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
    intervals = [_interval(round(each.accuracy * each.images), each.images) for each in bins]
    # Rounding must not put an end on the wrong side of its share.
    below, above = zip(
        *((max(0.0, share - low), max(0.0, high - share)) for share, (low, high) in zip(y, intervals, strict=True)),
        strict=True,
    )
    with _drawn((4.1, 2.9)) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], linestyle=(0, (4, 4)), linewidth=1, color=INK, alpha=0.5)
        axes.errorbar(x, y, (below, above), color=TRAIN, marker="o", markersize=4, elinewidth=1, linewidth=1.5)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        _dress(axes, INK, "probability that the model gives its guess")
        return figure


def _interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share, from the beta distribution (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(right, images - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, images - right, 0.975)) if right < images else 1.0
    return low, high


def _sureness(found: Calibration) -> Figure:
    with _drawn((4.1, 2.9)) as figure:
        axes = figure.add_subplot()
        lower = [each.lower for each in found.bins]
        axes.bar(lower, [each.images for each in found.bins], 0.92 / found.of, align="edge", color=TRAIN, alpha=0.75)
        from matplotlib.ticker import NullLocator

        # From half an image, so that a single one still shows.
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0, 1.02)
        _dress(axes, INK, "probability that the model gives its guess")
        return figure


def _dress(axes: Axes, ink: str, across: str) -> None:
    axes.set_xlabel(across, color=ink)
    axes.tick_params(colors=ink, length=3)
    axes.grid(axis="y", color=ink, alpha=0.15)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_edgecolor(ink)
        spine.set_alpha(0.4)


def _confusion(document: Document) -> Figure:
    counts = np.array(document.evaluation.confusion)
    # Coloured by mistakes alone: the diagonal would drown them. By the square root, so that single ones still show.
    heat = np.sqrt(counts * (1 - np.eye(len(counts))))
    with _drawn((5.2, 4.6)) as figure:
        axes = figure.add_subplot()
        axes.imshow(np.ma.masked_equal(heat, 0), cmap="Oranges", vmin=0, vmax=1.3 * max(1.0, heat.max()))
        for (truth, guess), count in np.ndenumerate(counts):
            colour, weight = DARK if heat[truth, guess] else GREY, "bold" if truth == guess else "normal"
            label = f"{count}" if count else "·"
            axes.text(guess, truth, label, ha="center", va="center", fontsize=8, color=colour, weight=weight)
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        axes.tick_params(colors=GREY, length=0)
        axes.set_xlabel("what the model took it for", color=GREY)
        axes.set_ylabel("what the image shows", color=GREY)
        axes.spines[:].set_visible(False)
        return figure


@contextmanager
def _drawn(size: tuple[float, float]) -> Iterator[Figure]:
    # Not pyplot: it keeps global state and looks for a screen.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9}):
        yield Figure(figsize=size, layout="constrained")


def _svg(figure: Figure, name: str) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "retrain"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    text = buffer.getvalue()
    for stand_in, colour in STYLE_NAMES.items():
        text = text.replace(stand_in, colour)
    # Two drawings on one page must not share an id.
    for reference in ('id="', "url(#", 'href="#'):
        text = text.replace(reference, f"{reference}{name}-")
    return text[text.index("<svg") :]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True, metadata={"Software": None})
    return buffer.getvalue()
