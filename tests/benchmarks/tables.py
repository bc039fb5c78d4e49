"""What was measured, as Markdown: medians, ranges, and ratios to the first row, round by round."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from tests.benchmarks import protocol
from tests.benchmarks.measure import Measured, ratio, spread
from tests.benchmarks.protocol import FLOPS_PER_IMAGE, Training


def processes(found: Mapping[str, Sequence[Measured]]) -> str:
    """Whole processes."""
    base = [run.seconds for run in next(iter(found.values()))]
    lines = ["| whole process | wall s, median (range) | × reference | peak MB |", "|---|---|---|---|"]
    for name, runs in found.items():
        seconds = [run.seconds for run in runs]
        peak = statistics.median(run.megabytes for run in runs)
        lines.append(f"| {name} | {spread(seconds)} | {ratio(seconds, base):.2f} | {peak:.0f} |")
    return "\n".join(lines)


def trainings(found: Mapping[str, Sequence[Measured]], images: int, limit: float) -> str:
    """The training alone, as each process tells it.

    Args:
        found: The rows, the reference first.
        images: In an epoch.
        limit: Floating point operations a second that the machine can multiply at best.
    """
    told = {name: [protocol.parse(run.printed) for run in runs] for name, runs in found.items()}
    base = [each.fit for each in next(iter(told.values()))]
    lines = [
        "| training alone | fit s, median (range) | × reference | first epoch | later ones | of the limit | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in told.items():
        later = statistics.median(map(_later, runs))
        cells = [
            spread([each.fit for each in runs]),
            f"{ratio((each.fit for each in runs), base):.2f}",
            f"{statistics.median(each.first_epoch for each in runs):.1f} s",
            f"{later:.2f} s",
            f"{images * FLOPS_PER_IMAGE / later / limit:.0%}",
            f"{statistics.median(each.accuracy for each in runs):.4f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _later(training: Training) -> float:
    """Seconds of an epoch after the first, in which things are traced and compiled."""
    return statistics.median(training.epochs[1:])


def scaling(found: Mapping[int, Sequence[Measured]]) -> str:
    """How time and memory grow with the number of images, of which each is 784 bytes."""
    lines = [
        "| one epoch, training alone | s | images/s | peak MB | beyond the images | runs |",
        "|---|---|---|---|---|---|",
    ]
    for images, runs in found.items():
        seconds = statistics.median(protocol.parse(run.printed).fit for run in runs)
        peak = statistics.median(run.megabytes for run in runs)
        beyond = peak - images * 784 / 1e6
        cells = [f"{seconds:.1f}", f"{images / seconds:,.0f}", f"{peak:.0f}", f"{beyond:.0f}", str(len(runs))]
        lines.append(f"| {images:,} images | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps(runs: Sequence[Measured]) -> str:
    """The median seconds of each step of some runs of the job."""
    seen = [{step["name"]: step["seconds"] for step in json.loads(run.printed)["steps"]} for run in runs]
    return ", ".join(f"{name} {statistics.median(run[name] for run in seen):.1f} s" for name in seen[0])
