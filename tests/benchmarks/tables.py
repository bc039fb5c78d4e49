"""The measurements as Markdown: medians, ranges, and ratios to the first row, round by round."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from tests.benchmarks import protocol
from tests.benchmarks.measure import Measured, ratio, spread
from tests.benchmarks.protocol import FLOPS_PER_IMAGE, Training


def processes(rows: Mapping[str, Sequence[Measured]]) -> str:
    """The table of whole processes."""
    base = [run.seconds for run in next(iter(rows.values()))]
    lines = ["| whole process | wall s, median (range) | × reference | peak MB |", "|---|---|---|---|"]
    for name, runs in rows.items():
        seconds = [run.seconds for run in runs]
        peak = statistics.median(run.megabytes for run in runs)
        lines.append(f"| {name} | {spread(seconds)} | {ratio(seconds, base):.2f} | {peak:.0f} |")
    return "\n".join(lines)


def trainings(rows: Mapping[str, Sequence[Measured]], images: int, limits: Mapping[str, float]) -> str:
    """The table of the training alone, as each process has printed it.

    Args:
        rows: The runs of each row, the reference first.
        images: The number of images in an epoch.
        limits: For each row, the operations per second of the machine's best matrix product in the row's precision.
    """
    parsed = {name: [protocol.parse(run.printed) for run in runs] for name, runs in rows.items()}
    base = [each.fit for each in next(iter(parsed.values()))]
    lines = [
        "| training alone | fit s, median (range) | × reference | first epoch | later ones | of the limit "
        "| accuracy, median (range) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, results in parsed.items():
        later = statistics.median(map(_later_epoch, results))
        cells = [
            spread([each.fit for each in results]),
            f"{ratio((each.fit for each in results), base):.2f}",
            f"{statistics.median(each.first_epoch for each in results):.1f} s",
            f"{later:.2f} s",
            f"{images * FLOPS_PER_IMAGE / later / limits[name]:.0%}",
            spread([each.accuracy for each in results], 4),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _later_epoch(training: Training) -> float:
    """The median seconds of the epochs after the first one, which also traces and compiles."""
    return statistics.median(training.epochs[1:])


def scaling(rows: Mapping[int, Sequence[Measured]]) -> str:
    """The table of time and memory by the number of images, of 784 bytes each."""
    lines = [
        "| one epoch, training alone | s | images/s | peak MB | beyond the images | runs |",
        "|---|---|---|---|---|---|",
    ]
    for images, runs in rows.items():
        seconds = statistics.median(protocol.parse(run.printed).fit for run in runs)
        peak = statistics.median(run.megabytes for run in runs)
        beyond = peak - images * 784 / 1e6
        cells = [f"{seconds:.1f}", f"{images / seconds:,.0f}", f"{peak:.0f}", f"{beyond:.0f}", str(len(runs))]
        lines.append(f"| {images:,} images | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps(runs: Sequence[Measured]) -> str:
    """The median seconds of each step of the job, as text."""
    by_run = [{step["name"]: step["seconds"] for step in json.loads(run.printed)["steps"]} for run in runs]
    return ", ".join(f"{name} {statistics.median(run[name] for run in by_run):.1f} s" for name in by_run[0])
