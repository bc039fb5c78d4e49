"""The report's pictures, through matplotlib: curves as SVG for the page, curves and confusion matrix as PNG.

Deterministic: no dates, fixed ids. Called by the report step; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tasks.report.facts import Facts
from tasks.values import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that the page's style sheet gives its own colours, light or dark.
INK, TRAIN, VALIDATION = "#010203", "#010204", "#010205"
STYLE_NAMES = {INK: "currentColor", TRAIN: "var(--accent)", VALIDATION: "var(--second)"}

# The same for pictures that stand alone on a light or a dark page.
GREY, BLUE, ORANGE = "#7a7f87", "#2f6fdf", "#d97706"


def curve_svgs(history: Sequence[Epoch]) -> dict[str, str]:
    """Loss and accuracy per epoch, each as inline SVG that takes its colours from the page."""
    return {title: _svg(_curve(history, title, INK, TRAIN, VALIDATION)) for title in ("Loss", "Accuracy")}


def pictures(facts: Facts) -> dict[str, bytes]:
    """Learning curves and confusion matrix as PNG, by title, for where SVG cannot go."""
    return {"Learning curves": _png(_curves(facts.trained.history)), "Confusion matrix": _png(_confusion(facts))}


def _curve(history: Sequence[Epoch], title: str, ink: str, train: str, validation: str) -> Figure:
    with _drawn((4.6, 2.7)) as figure:
        _draw_curve(figure.add_subplot(), history, title, ink, train, validation)
        return figure


def _curves(history: Sequence[Epoch]) -> Figure:
    with _drawn((9, 2.9)) as figure:
        for place, title in enumerate(("Loss", "Accuracy"), 1):
            _draw_curve(figure.add_subplot(1, 2, place), history, title, GREY, BLUE, ORANGE)
        return figure


def _draw_curve(axes: Axes, history: Sequence[Epoch], title: str, ink: str, train: str, validation: str) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, len(history) + 1)
    name = title.lower()
    series: list[tuple[str, str, Callable[[Epoch], float | None]]] = [
        ("training", train, lambda epoch: getattr(epoch, name)),
        ("validation", validation, lambda epoch: getattr(epoch, f"validation_{name}")),
    ]
    for label, colour, value in series:
        values = [found for epoch in history if (found := value(epoch)) is not None]
        if values:
            axes.plot(epochs, values, marker="o", markersize=4, linewidth=1.8, color=colour, label=label)
    axes.set_title(title, color=ink, fontsize=11, loc="left")
    axes.set_xlabel("epoch", color=ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(colors=ink, length=3)
    axes.grid(axis="y", color=ink, alpha=0.15)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_edgecolor(ink)
        spine.set_alpha(0.4)
    if history[0].validation_loss is not None:
        axes.legend(frameon=False, labelcolor=ink)


def _confusion(facts: Facts) -> Figure:
    counts = np.array(facts.evaluation.confusion)
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    with _drawn((5.2, 4.6)) as figure:
        axes = figure.add_subplot()
        # Coloured by mistakes alone: the diagonal would drown them.
        axes.imshow(np.sqrt(errors), cmap="Oranges", vmin=0, vmax=max(1.0, float(np.sqrt(errors.max())) * 1.3))
        for (truth, guess), count in np.ndenumerate(counts):
            axes.text(guess, truth, f"{count}" if count else "·", ha="center", va="center", fontsize=8, color="#22262c")
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        axes.tick_params(colors=GREY, length=0)
        axes.set_xlabel("guess", color=GREY)
        axes.set_ylabel("truth", color=GREY)
        axes.spines[:].set_visible(False)
        return figure


@contextmanager
def _drawn(size: tuple[float, float]) -> Iterator[Figure]:
    # Not pyplot: it keeps global state and looks for a screen.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9}):
        yield Figure(figsize=size, layout="constrained")


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "retrain"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for stand_in, colour in STYLE_NAMES.items():
        text = text.replace(stand_in, colour)
    return text[text.index("<svg") :]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True, metadata={"Software": None})
    return buffer.getvalue()
