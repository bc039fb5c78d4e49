"""How numbers, sentences and rows read, in every form of the report and in the command line's summary.

Pure; called by the other modules of this folder, the flow and the command line. Imports no drawing library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tasks.gate.comparison import Comparison
from tasks.gate.intervals import TWO_SIDED
from tasks.gate.paired import loss_bounds, mcnemar
from tasks.report.calibration import Calibration
from tasks.report.facts import Document
from tasks.values import Check, Decision, Epoch, Export, Spread, StepRun

# Characters that Markdown could take for markup, HTML or the end of a table's cell.
MARKUP = re.compile(r"([\\|<\[\]`*])")


class Names(NamedTuple):
    """The names of two models that are compared."""

    old: str = "the champion"
    new: str = "the candidate"


def number(value: float, unit: float = 1.0) -> str:
    """A share with four decimals, or a count without: `unit`, its limit, is above 1 for a count."""
    return f"{value:.4f}" if abs(unit) <= 1 else f"{value:g}"


def percent(share: float) -> str:
    """A share in per cent, as exact as four decimals."""
    return f"{100 * share:.2f} %"


def confidence(probability: float) -> str:
    """A probability in per cent, never rounded up to 100 %."""
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
    """The verdict with every failed check; for an override also who published, and why."""
    failed = ", ".join(check.name for check in decision.checks if not check.passed)
    if decision.override:
        return f"Rejected by the gate: {failed}. {_overridden(decision)}"
    if failed:
        return f"Rejected by the gate: {failed}"
    return "Passed the gate" if decision.verdict == "publish" else f"No change: {decision.remark}"


def badge(decision: Decision) -> str:
    """The verdict in a few words."""
    if decision.override:
        return "Rejected by the gate, published by override"
    return verdict_line(decision).partition(":")[0]


def headline(decision: Decision) -> str:
    """The sentences to read first: which checks failed, or which has the smallest margin; then remark and override."""
    failed = [check for check in decision.checks if not check.passed]
    if failed:
        sentences = ["; ".join(map(_value_and_limit, failed))]
    else:
        shares = [check for check in decision.checks if check.limit < 1] or list(decision.checks)
        closest = min(shares, key=lambda check: check.margin)
        sentences = ["every check holds", f"the closest call: {_value_and_limit(closest)}"]
    sentences += [text for text in (decision.remark, _overridden(decision)) if text]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in sentences)


def _overridden(decision: Decision) -> str:
    return f"Published all the same by {decision.override.by}: {decision.override.reason}" if decision.override else ""


def _value_and_limit(check: Check) -> str:
    value, limit = number(check.value, check.limit), number(check.limit, check.limit)
    if not check.loss:
        return f"{check.name} is {value} and needs {limit}"
    if check.value < -1:
        return f"{check.name} is unknown, as it {check.sentence}"
    if check.value >= 0:
        return f"no {check.name} is shown, and up to {_loss(check.limit)} is allowed"
    return f"{check.name} is at least {_loss(check.value)}, allowed {_loss(check.limit)}"


def gate_rows(decision: Decision) -> list[dict[str, str]]:
    """The gate as rows of text."""
    return [gate_row(check) for check in decision.checks]


def gate_row(check: Check) -> dict[str, str]:
    """A row of the gate as text."""
    needs = f"≤ {_loss(check.limit)}" if check.loss else f"≥ {number(check.limit, check.limit)}"
    return {
        "check": check.name,
        "value": _loss(check.value) if check.loss else number(check.value, check.limit),
        "needs": needs,
        "margin": signed(check.margin, check.limit),
        "result": "pass" if check.passed else "FAIL",
        "because": check.sentence,
    }


def _loss(negated: float) -> str:
    """A loss of accuracy, stored negated, with its own sign; "unknown" below any possible value."""
    if negated < -1:
        return "unknown"
    text = number(abs(negated))
    return f"−{text}" if negated > 0 and text.strip("0.") else text


def signed(value: float, unit: float = 1.0) -> str:
    """A difference with its sign; see `number`."""
    return f"{'+' if value >= 0 else '−'}{number(abs(value), unit)}"


def calibration_sentence(calibration: Calibration) -> str:
    """The expected calibration error and its meaning."""
    return (
        f"Expected calibration error {calibration.error:.4f}: how far, on average, the share of right guesses is from "
        f"the probability that the model gives them. Over {calibration.of} equally wide bins of that probability."
    )


def calibration_rows(calibration: Calibration) -> list[dict[str, str]]:
    """Each bin that holds images."""
    return [
        {
            "probability": f"{each.lower:.3f} to {each.upper:.3f}",
            "images": f"{each.images:,}",
            "mean probability": f"{each.confidence:.4f}",
            "share right": f"{each.accuracy:.4f}",
            "gap": signed(each.accuracy - each.confidence),
        }
        for each in calibration.bins
    ]


def comparison_sentence(comparison: Comparison) -> str:
    """The difference of the accuracies with its 95 % interval and McNemar's p-value."""
    low, high = loss_bounds(comparison.counts, TWO_SIDED)
    return (
        f"Accuracy {signed(-comparison.counts.loss)}, 95 % interval {signed(-high)} to {signed(-low)} (Tango). "
        f"Two equally good models would differ this much in {percent(mcnemar(comparison.counts))} of cases (McNemar)."
    )


def comparison_rows(comparison: Comparison, names: Names = Names()) -> list[dict[str, str]]:
    """How many images were lost, won, and answered by both models right or wrong."""
    rows = {
        f"lost: only {names.old} is right": comparison.lost.count,
        f"won: only {names.new} is right": comparison.won.count,
        "both wrong": comparison.both_wrong,
        "both right": comparison.both_right,
    }
    return [{"test images": name, "count": f"{count:,}"} for name, count in rows.items()]


def changed_classes(comparison: Comparison) -> list[dict[str, str]]:
    """How many images of each class were lost and won."""
    return [
        {"class": str(label), "lost": f"{lost:,}", "won": f"{won:,}", "net": signed(won - lost, 2)}
        for label, (lost, won) in enumerate(zip(comparison.lost.per_class, comparison.won.per_class, strict=True))
    ]


def duration(seconds: float) -> str:
    """Seconds, or minutes from 100 s on, with one decimal."""
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.1f} s"


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


def spread_line(spread: Spread) -> str:
    """Mean, standard deviation and range over the seeds, in one line."""
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


def class_rows(document: Document) -> list[dict[str, str]]:
    """Precision and recall per class."""
    return [
        {
            "class": str(score.label),
            "test images": f"{score.support:,}",
            "precision": f"{score.precision:.4f}",
            "recall": f"{score.recall:.4f}",
        }
        for score in document.evaluation.classes
    ]


def data_rows(document: Document) -> list[dict[str, str]]:
    """The size and the pixels of each split."""
    return [
        {
            "split": name,
            "images": f"{split.images:,}",
            "per class": f"{min(split.per_class):,} to {max(split.per_class):,}",
            "pixels": f"{split.minimum:g} to {split.maximum:g}",
            "mean": f"{split.mean:.4f}",
        }
        for name, split in document.splits
    ]


def provenance_rows(document: Document) -> list[tuple[str, str]]:
    """Where the model comes from: names and values."""
    recipe, trained, origin = document.recipe, document.trained, document.provenance
    device, packages = trained.device, sorted(origin.packages.items())
    epochs = f"{recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'}"
    steps = f"{epochs}, batch {recipe.batch_size}, RMSprop {recipe.learning_rate:g}, seed {recipe.seed}"
    return [
        ("Recipe", f"{steps}; {trained.parameters:,} parameters"),
        ("Trained", f"{trained.finished:%Y-%m-%d %H:%M} UTC on the {device.kind.upper()}, {device.name}"),
        ("Arithmetic", device.arithmetic),
        ("Code", origin.code),
        ("Packages", ", ".join(f"{name} {version}" for name, version in [("Python", origin.python), *packages])),
        ("Source of the data", origin.source),
        *((f"{name.capitalize()}, SHA-256", digest) for name, digest in document.digests),
        *_onnx_rows(document.exported),
        ("Time", ", ".join(f"{name} {duration(seconds)}" for name, seconds in document.seconds)),
    ]


def _onnx_rows(exported: Export) -> list[tuple[str, str]]:
    if exported.left_out:
        return [("model.onnx", f"left out: {exported.left_out}")]
    if exported.file is None:
        return []
    return [("model.onnx", f"onnxruntime predicts the same, to within {exported.largest_difference:.1g}")]


def step_rows(steps: Sequence[StepRun]) -> list[dict[str, str]]:
    """The time of each step of a run, and why it ran or was reused: the artifact `steps` on the run's page."""
    return [{"step": step.name, "time": duration(step.seconds), "why": step.reason} for step in steps]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table whose columns line up in a terminal."""
    lines = [list(rows[0]), *([plain(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    head, *body = (_row(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([head, _row("-" * width for width in widths), *body])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Escape a text, on one line, so that Markdown takes nothing in it for markup."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
