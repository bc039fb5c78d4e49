"""The report as Markdown: report.md, and the artifact `report` on the run's page in the Prefect interface.

Pure; called when a report is rendered, and by the other forms that are Markdown. Imports no drawing library.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from tasks.gate.comparison import Comparison
from tasks.report.changes import Changes
from tasks.report.facts import Document
from tasks.report.formatting import (
    accuracy_line,
    batches_sentence,
    calibration_sentence,
    changed_classes,
    changed_classes_shown,
    changed_parts,
    changes_sentence,
    class_rows,
    classes_shown,
    comparison_rows,
    comparison_sentence,
    confusion_rows,
    confusions_shown,
    data_rows,
    epoch_rows,
    gate_rows,
    headline,
    leak_sentence,
    plain,
    provenance_rows,
    seed_rows,
    spread_line,
    table,
    too_many_for_a_matrix,
    verdict_line,
)
from tasks.values import Prepared, Spread


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
        f"# {plain(document.model_name)}: {plain(verdict_line(decision))}",
        f"{accuracy}. {plain(headline(decision))}",
        _gate(document),
        *([changes_section(document.changes)] if document.changes else []),
        *([comparison_section(document.comparison, document.prepared.classes)] if document.comparison else []),
        "## Training\n\n" + table(epoch_rows(document.trained.history)),
        *_seeds(document.spread),
        classes_section(document),
        *_confusions(document),
        "## Calibration\n\n" + calibration_sentence(document.calibration),
        "\n\n".join(["## Data", table(data_rows(document)), *filter(None, _about(document.prepared))]),
        "## Where it comes from\n\n"
        + "\n".join(f"- **{name}**: {plain(value)}" for name, value in provenance_rows(document)),
    ]


def _about(data: Prepared) -> tuple[str, str]:
    return plain(batches_sentence(data)), leak_sentence(data)


def with_changes(page: str, document: Document) -> str:
    """A page of `run_page` that was rendered without changes since the champion, and those of the document."""
    gate = _gate(document)
    return page.replace(gate, f"{gate}\n\n{changes_section(document.changes)}", 1) if document.changes else page


def _gate(document: Document) -> str:
    return "## Gate\n\n" + table(gate_rows(document.decision))


def changes_section(changes: Changes) -> str:
    """What changed since the champion, with its title."""
    parts = "\n".join(f"- **{plain(part)}**: {plain(text)}" for part, text in changed_parts(changes))
    return f"## Since champion v{changes.champion}\n\n{plain(changes_sentence(changes))}" + (
        f"\n\n{parts}" if parts else ""
    )


def comparison_section(comparison: Comparison, classes: tuple[str, ...]) -> str:
    """The comparison with the champion, with its title; `classes` are the names of the classes."""
    title = f"## Compared with the champion, version {comparison.champion}"
    changed = [*filter(None, [changed_classes_shown(comparison)]), table(changed_classes(comparison, classes))]
    return "\n\n".join([title, comparison_sentence(comparison), table(comparison_rows(comparison)), *changed])


def classes_section(document: Document) -> str:
    """The table of the classes, with its title."""
    return "\n\n".join(["## Classes", *filter(None, [classes_shown(document)]), table(class_rows(document))])


def _confusions(document: Document) -> list[str]:
    """What stands in the place of a confusion matrix that is too large."""
    if not too_many_for_a_matrix(document):
        return []
    rows = confusion_rows(document)
    title = "## Most frequent confusions"
    return ["\n\n".join([title, confusions_shown(document), *([table(rows)] if rows else [])])]


def _seeds(spread: Spread | None) -> list[str]:
    return [f"## Seeds\n\n{spread_line(spread)}\n\n{table(seed_rows(spread))}"] if spread else []
