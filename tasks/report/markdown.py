"""The report as Markdown: report.md, and the artifact `report` on the run's page in the Prefect interface.

Pure; called when a report is rendered, and by the other forms that are Markdown. Imports no drawing library.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from tasks.gate.comparison import Comparison
from tasks.report.facts import Document
from tasks.report.formatting import (
    accuracy_line,
    calibration_sentence,
    changed_classes,
    class_rows,
    comparison_rows,
    comparison_sentence,
    data_rows,
    epoch_rows,
    gate_rows,
    headline,
    plain,
    provenance_rows,
    seed_rows,
    spread_line,
    table,
    verdict_line,
)
from tasks.values import Spread


def markdown(document: Document) -> str:
    """The text of report.md."""
    return "\n\n".join(_sections(document)) + "\n"


def run_page(document: Document, pictures: Mapping[str, bytes]) -> str:
    """The report for the run's page in the Prefect interface, with the pictures (PNG, by title) as data URLs."""
    title, summary, gate, *rest = _sections(document)
    images = [
        f"## {name}\n\n![{name}](data:image/png;base64,{base64.b64encode(png).decode()})"
        for name, png in pictures.items()
    ]
    return "\n\n".join([title, summary, gate, *images, *rest]) + "\n"


def _sections(document: Document) -> list[str]:
    decision = document.decision
    accuracy = f"{accuracy_line(decision)}, loss {document.evaluation.loss:.4f}".capitalize()
    return [
        f"# {plain(document.model)}: {plain(verdict_line(decision))}",
        f"{accuracy}. {plain(headline(decision))}",
        "## Gate\n\n" + table(gate_rows(decision)),
        *([comparison_section(document.comparison)] if document.comparison else []),
        "## Training\n\n" + table(epoch_rows(document.trained.history)),
        *_seeds(document.spread),
        "## Classes\n\n" + table(class_rows(document)),
        "## Calibration\n\n" + calibration_sentence(document.calibration),
        "## Data\n\n" + table(data_rows(document)),
        "## Where it comes from\n\n"
        + "\n".join(f"- **{name}**: {plain(value)}" for name, value in provenance_rows(document)),
    ]


def comparison_section(comparison: Comparison) -> str:
    """The comparison with the champion, with its title."""
    title = f"## Compared with the champion, version {comparison.champion}"
    tables = [table(comparison_rows(comparison)), table(changed_classes(comparison))]
    return "\n\n".join([title, comparison_sentence(comparison), *tables])


def _seeds(spread: Spread | None) -> list[str]:
    return [f"## Seeds\n\n{spread_line(spread)}\n\n{table(seed_rows(spread))}"] if spread else []
