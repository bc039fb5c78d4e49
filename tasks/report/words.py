"""How numbers and rows read: for report.md, the run's page, the command line's summary. Pure; no drawing library."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence

from tasks.report.facts import Facts
from tasks.values import Check, Decision, Epoch, Export, Spread

# What Markdown could take for markup, HTML or the end of a table's cell.
MARKUP = re.compile(r"([\\|<\[\]`*])")


def number(value: float, unit: float = 1.0) -> str:
    """A share with four decimals; a count (where the limit beside it is above 1) without."""
    return f"{value:.4f}" if abs(unit) <= 1 else f"{value:g}"


def percent(share: float) -> str:
    """A share as people read it, as exact as four decimals."""
    return f"{100 * share:.2f} %"


def sureness(probability: float) -> str:
    """A probability in per cent, never rounded up to certainty."""
    return "> 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"


def interval(decision: Decision) -> str:
    """The accuracy's 95 % interval in per cent."""
    low, high = decision.interval
    return f"{100 * low:.2f} – {100 * high:.2f} %"


def accuracy_line(decision: Decision) -> str:
    """Accuracy and its 95 % interval."""
    low, high = decision.interval
    return f"accuracy {decision.accuracy:.4f}, 95 % interval {low:.4f} to {high:.4f}"


def verdict_line(decision: Decision) -> str:
    """The verdict, and every check that failed."""
    failed = [check.name for check in decision.checks if not check.passed]
    return f"Rejected by the gate: {', '.join(failed)}" if failed else "Passed the gate"


def headline(decision: Decision) -> str:
    """The one sentence to read: what failed, or which check was the closest call."""
    failed = [check for check in decision.checks if not check.passed]
    if failed:
        text = "; ".join(map(_measured, failed))
        return f"{text[:1].upper()}{text[1:]}."
    shares = [check for check in decision.checks if check.limit < 1] or list(decision.checks)
    closest = min(shares, key=lambda check: check.margin)
    return f"Every check holds. The closest call: {_measured(closest)}."


def _measured(check: Check) -> str:
    return f"{check.name} is {number(check.value, check.limit)} and needs {number(check.limit, check.limit)}"


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
    title, summary, gate, *rest = _sections(facts)
    shown = [
        f"## {name}\n\n![{name}](data:image/png;base64,{base64.b64encode(png).decode()})"
        for name, png in pictures.items()
    ]
    return "\n\n".join([title, summary, gate, *shown, *rest]) + "\n"


def _sections(facts: Facts) -> list[str]:
    decision = facts.decision
    accuracy = f"{accuracy_line(decision)}, loss {facts.evaluation.loss:.4f}".capitalize()
    return [
        f"# {_plain(facts.model)}: {_plain(verdict_line(decision))}",
        f"{accuracy}. {_plain(headline(decision))}",
        "## Gate\n\n" + _table(gate_rows(decision)),
        "## Training\n\n" + _table(epoch_rows(facts.trained.history)),
        *_seeds(facts.spread),
        "## Classes\n\n" + _table(class_rows(facts)),
        "## Data\n\n" + _table(data_rows(facts)),
        "## Where it comes from\n\n"
        + "\n".join(f"- **{name}**: {_plain(value)}" for name, value in provenance_rows(facts)),
    ]


def epoch_rows(history: Sequence[Epoch]) -> list[dict[str, str]]:
    """Loss and accuracy per epoch, on the validation split too where there is one."""
    return [
        {"epoch": str(count), "loss": f"{epoch.loss:.4f}", "accuracy": f"{epoch.accuracy:.4f}"}
        | _validation(epoch)
        | {"time": duration(epoch.seconds)}
        for count, epoch in enumerate(history, 1)
    ]


def _validation(epoch: Epoch) -> dict[str, str]:
    if epoch.validation_loss is None or epoch.validation_accuracy is None:
        return {}
    return {
        "validation loss": f"{epoch.validation_loss:.4f}",
        "validation accuracy": f"{epoch.validation_accuracy:.4f}",
    }


def _seeds(spread: Spread | None) -> list[str]:
    return [f"## Seeds\n\n{spread_line(spread)}\n\n{_table(seed_rows(spread))}"] if spread else []


def spread_line(spread: Spread) -> str:
    """What the seeds came to, in one line."""
    return (
        f"{len(spread.scores)} seeds: mean accuracy {spread.mean:.4f}, standard deviation {spread.deviation:.4f}, "
        f"{spread.lowest:.4f} to {spread.highest:.4f}. The median, seed {spread.judged}, is judged."
    )


def seed_rows(spread: Spread) -> list[dict[str, str]]:
    """The accuracy of each seed."""
    return [
        {
            "seed": str(score.seed),
            "accuracy": f"{score.accuracy:.4f}",
            "": "the median: judged" if score.seed == spread.judged else "",
        }
        for score in spread.scores
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


def data_rows(facts: Facts) -> list[dict[str, str]]:
    """The size and the pixels of each split."""
    return [
        {
            "split": name,
            "images": f"{split.images:,}",
            "per class": f"{min(split.per_class):,} to {max(split.per_class):,}",
            "pixels": f"{split.minimum:g} to {split.maximum:g}",
            "mean": f"{split.mean:.4f}",
        }
        for name, split in facts.splits
    ]


def provenance_rows(facts: Facts) -> list[tuple[str, str]]:
    """Where the model comes from, a line each."""
    recipe, trained, origin, prepared = facts.recipe, facts.trained, facts.provenance, facts.prepared
    device, packages = trained.device, sorted(origin.packages.items())
    epochs = f"{recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'}"
    steps = f"{epochs}, batch {recipe.batch_size}, RMSprop {recipe.learning_rate:g}, seed {recipe.seed}"
    return [
        ("Recipe", f"{steps}; {trained.parameters:,} parameters"),
        ("Trained", f"{trained.finished:%Y-%m-%d %H:%M} UTC on the {device.kind.upper()}, {device.name}"),
        ("Code", origin.code),
        ("Packages", ", ".join(f"{name} {found}" for name, found in [("Python", origin.python), *packages])),
        ("Source of the data", origin.source),
        ("Training images, SHA-256", prepared.train.images.sha256),
        ("Test images, SHA-256", prepared.test.images.sha256),
        ("Weights, SHA-256", trained.weights_digest),
        *_onnx_rows(facts.exported),
        ("Time", ", ".join(f"{name} {duration(seconds)}" for name, seconds in facts.seconds)),
    ]


def _onnx_rows(exported: Export) -> list[tuple[str, str]]:
    if exported.left_out:
        return [("model.onnx", f"left out: {exported.left_out}")]
    if exported.file is None:
        return []
    return [("model.onnx", f"onnxruntime predicts the same, to within {exported.largest_difference:.1g}")]


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table whose columns line up in a terminal."""
    lines = [list(rows[0]), *([_plain(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    head, *body = (_row(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([head, _row("-" * width for width in widths), *body])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that stays text, and stays on its line, inside Markdown."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
