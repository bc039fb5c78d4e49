"""How numbers and rows read: for report.md, the run's page, the command line's summary. Pure; no drawing library."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence

from tasks.report.facts import Facts
from tasks.values import Check, Decision


def number(value: float, unit: float = 1.0) -> str:
    """A share with four decimals; a count (where the limit beside it is above 1) without."""
    return f"{value:.4f}" if abs(unit) <= 1 else f"{value:g}"


def accuracy_line(decision: Decision) -> str:
    """Accuracy and its 95 % interval."""
    low, high = decision.interval
    return f"accuracy {decision.accuracy:.4f}, 95 % interval {low:.4f} to {high:.4f}"


def verdict_line(decision: Decision) -> str:
    """The verdict, and every check that failed."""
    failed = [check.name for check in decision.checks if not check.passed]
    return f"Rejected by the gate: {', '.join(failed)}" if failed else "Passed the gate"


def gate_rows(decision: Decision) -> list[dict[str, str]]:
    """The gate as rows of text."""
    return [_gate_row(check) for check in decision.checks]


def _gate_row(check: Check) -> dict[str, str]:
    return {
        "check": check.name,
        "value": number(check.value, check.limit),
        "needs": f"≥ {number(check.limit, check.limit)}",
        "margin": f"{'+' if check.margin >= 0 else '−'}{number(abs(check.margin), check.limit)}",
        "result": "pass" if check.passed else "FAIL",
        "because": check.sentence,
    }


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.1f} s"


def markdown(facts: Facts) -> str:
    """report.md: for a terminal or a pull request."""
    return "\n\n".join(_sections(facts)) + "\n"


def run_page(facts: Facts, pictures: Mapping[str, bytes]) -> str:
    """The report for the run's page in the Prefect interface, with its pictures (PNG) inside."""
    head, *rest = _sections(facts)
    shown = [f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})" for title, png in pictures.items()]
    return "\n\n".join([head, *shown, *rest]) + "\n"


def _sections(facts: Facts) -> list[str]:
    decision = facts.decision
    return [
        f"# {facts.model}: {verdict_line(decision)}",
        f"{accuracy_line(decision)}, loss {facts.evaluation.loss:.4f}".capitalize() + ".",
        "## Gate\n\n" + _table(gate_rows(decision)),
        "## Training\n\n" + _table(epoch_rows(facts)),
        "## Classes\n\n" + _table(class_rows(facts)),
        "## Where it comes from\n\n" + _table([{"": name, " ": value} for name, value in provenance_rows(facts)]),
    ]


def epoch_rows(facts: Facts) -> list[dict[str, str]]:
    """Loss and accuracy per epoch."""
    return [
        {"epoch": str(count), "loss": f"{epoch.loss:.4f}", "accuracy": f"{epoch.accuracy:.4f}"}
        | (
            {}
            if epoch.validation_loss is None
            else {
                "validation loss": f"{epoch.validation_loss:.4f}",
                "validation accuracy": f"{epoch.validation_accuracy:.4f}",
            }
        )
        | {"time": duration(epoch.seconds)}
        for count, epoch in enumerate(facts.trained.history, 1)
    ]


def class_rows(facts: Facts) -> list[dict[str, str]]:
    """Precision and recall per class."""
    return [
        {
            "class": str(score.label),
            "test images": f"{score.support:,}",
            "precision": f"{score.precision:.4f}",
            "recall": f"{score.recall:.4f}",
        }
        for score in facts.evaluation.classes
    ]


def provenance_rows(facts: Facts) -> list[tuple[str, str]]:
    """Where the model comes from, a line each."""
    recipe, trained, origin, prepared = facts.recipe, facts.trained, facts.provenance, facts.prepared
    counts = ", ".join(f"{split.images:,} {name}" for name, split in prepared.statistics.items())
    return [
        (
            "Recipe",
            f"{recipe.epochs} epochs, batch {recipe.batch_size}, RMSprop {recipe.learning_rate:g}, seed {recipe.seed}",
        ),
        (
            "Trained",
            f"{trained.finished:%Y-%m-%d %H:%M} UTC on the {trained.device.kind.upper()}, {trained.device.name}",
        ),
        ("Model", f"{trained.parameters:,} parameters, weights {trained.weights_digest[:16]}…"),
        ("Data", f"{counts} images from {origin.source}"),
        ("Data digests", f"train {prepared.train.images.sha256[:16]}…, test {prepared.test.images.sha256[:16]}…"),
        ("Code", origin.code),
        (
            "Packages",
            f"Python {origin.python}, "
            + ", ".join(f"{name} {found}" for name, found in sorted(origin.packages.items())),
        ),
        ("Time", ", ".join(f"{name} {duration(seconds)}" for name, seconds in origin.seconds.items())),
    ]


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "\n".join(_row(line) for line in lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
