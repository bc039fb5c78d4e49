"""The report's pictures, through matplotlib: curves as SVG for the page, curves and confusion matrix as PNG.

Deterministic: no dates, fixed ids. Called by the report step; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tasks.report.facts import Facts
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


def pictures(facts: Facts) -> dict[str, bytes]:
    """Learning curves and confusion matrix as PNG, by title, for where SVG cannot go."""
    return {"Learning curves": _png(_curves(facts.trained.history)), "Confusion matrix": _png(_confusion(facts))}


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
    _dress(axes, ink)


def _dress(axes: Axes, ink: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch", color=ink)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(colors=ink, length=3)
    axes.grid(axis="y", color=ink, alpha=0.15)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_edgecolor(ink)
        spine.set_alpha(0.4)


def _confusion(facts: Facts) -> Figure:
    counts = np.array(facts.evaluation.confusion)
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
