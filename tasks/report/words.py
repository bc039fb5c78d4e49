"""How numbers and rows read: for report.md, the run's page, the command line's summary. Pure; no drawing library."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from tasks.paired import loss_bounds, mcnemar
from tasks.report.calibration import Calibration
from tasks.report.comparison import Comparison
from tasks.report.facts import Document, Facts
from tasks.values import Check, Decision, Epoch, Export, Spread


class Names(NamedTuple):
    """How two models that are compared are called."""

    old: str = "the champion"
    new: str = "the candidate"


# Normal quantile of a two-sided 95 % interval.
TWO_SIDED = NormalDist().inv_cdf(0.975)

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
    """The verdict, and every check that failed; who published a model that was rejected, and why."""
    failed = ", ".join(check.name for check in decision.checks if not check.passed)
    if decision.override:
        return f"Rejected by the gate: {failed}. {_overridden(decision)}"
    if failed:
        return f"Rejected by the gate: {failed}"
    return "Passed the gate" if decision.verdict == "publish" else f"No change: {decision.remark}"


def badge(decision: Decision) -> str:
    """The verdict in the fewest words."""
    if decision.override:
        return "Rejected by the gate, published by override"
    return verdict_line(decision).partition(":")[0]


def headline(decision: Decision) -> str:
    """The one sentence to read: what failed, or which check was the closest call; then what else there is to say."""
    failed = [check for check in decision.checks if not check.passed]
    if failed:
        said = ["; ".join(map(_measured, failed))]
    else:
        shares = [check for check in decision.checks if check.limit < 1] or list(decision.checks)
        closest = min(shares, key=lambda check: check.margin)
        said = ["every check holds", f"the closest call: {_measured(closest)}"]
    said += [text for text in (decision.remark, _overridden(decision)) if text]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in said)


def _overridden(decision: Decision) -> str:
    return f"Published all the same by {decision.override.by}: {decision.override.reason}" if decision.override else ""


def _measured(check: Check) -> str:
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
    """One of the gate's rows as text."""
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
    """A loss of accuracy as a person reads it; below no possible one, it is unknown."""
    if negated < -1:
        return "unknown"
    text = number(abs(negated))
    return f"−{text}" if negated > 0 and text.strip("0.") else text


def signed(value: float, unit: float = 1.0) -> str:
    """A difference with its sign; see `number`."""
    return f"{'+' if value >= 0 else '−'}{number(abs(value), unit)}"


def calibration_sentence(found: Calibration) -> str:
    """The expected calibration error, and what it is."""
    return (
        f"Expected calibration error {found.error:.4f}: how far, on average, the share of right guesses is from the "
        f"probability that the model gives them. Over {found.of} equally wide bins of that probability."
    )


def calibration_rows(found: Calibration) -> list[dict[str, str]]:
    """Each bin that holds images."""
    return [
        {
            "probability": f"{each.lower:.3f} to {each.upper:.3f}",
            "images": f"{each.images:,}",
            "mean probability": f"{each.confidence:.4f}",
            "share right": f"{each.accuracy:.4f}",
            "gap": signed(each.accuracy - each.confidence),
        }
        for each in found.bins
    ]


def comparison_sentence(found: Comparison) -> str:
    """What was won and lost against the champion, and whether that says anything."""
    low, high = loss_bounds(found.counts, TWO_SIDED)
    return (
        f"Accuracy {signed(-found.counts.loss)}, 95 % interval {signed(-high)} to {signed(-low)} (Tango). "
        f"Two equally good models would differ this much in {percent(mcnemar(found.counts))} of cases (McNemar)."
    )


def comparison_rows(found: Comparison, names: Names = Names()) -> list[dict[str, str]]:
    """The four kinds of images."""
    rows = {
        f"lost: only {names.old} is right": found.lost.count,
        f"won: only {names.new} is right": found.won.count,
        "both wrong": found.both_wrong,
        "both right": found.both_right,
    }
    return [{"test images": name, "count": f"{count:,}"} for name, count in rows.items()]


def changed_classes(found: Comparison) -> list[dict[str, str]]:
    """How many images of each class were lost and won."""
    return [
        {"class": str(label), "lost": f"{lost:,}", "won": f"{won:,}", "net": signed(won - lost, 2)}
        for label, (lost, won) in enumerate(zip(found.lost.per_class, found.won.per_class, strict=True))
    ]


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.1f} s"


def markdown(told: Document) -> str:
    """report.md: for a terminal or a pull request."""
    return "\n\n".join(_sections(told)) + "\n"


def run_page(told: Document, pictures: Mapping[str, bytes]) -> str:
    """The report for the run's page in the Prefect interface, with its pictures (PNG) inside."""
    title, summary, gate, *rest = _sections(told)
    shown = [
        f"## {name}\n\n![{name}](data:image/png;base64,{base64.b64encode(png).decode()})"
        for name, png in pictures.items()
    ]
    return "\n\n".join([title, summary, gate, *shown, *rest]) + "\n"


def _sections(facts: Document) -> list[str]:
    decision = facts.decision
    accuracy = f"{accuracy_line(decision)}, loss {facts.evaluation.loss:.4f}".capitalize()
    return [
        f"# {plain(facts.model)}: {plain(verdict_line(decision))}",
        f"{accuracy}. {plain(headline(decision))}",
        "## Gate\n\n" + table(gate_rows(decision)),
        *([comparison_section(facts.comparison)] if facts.comparison else []),
        "## Training\n\n" + table(epoch_rows(facts.trained.history)),
        *_seeds(facts.spread),
        "## Classes\n\n" + table(class_rows(facts)),
        "## Calibration\n\n" + calibration_sentence(facts.calibration),
        "## Data\n\n" + table(data_rows(facts)),
        "## Where it comes from\n\n"
        + "\n".join(f"- **{name}**: {plain(value)}" for name, value in provenance_rows(facts)),
    ]


def comparison_section(found: Comparison) -> str:
    """The comparison with the champion, with its title."""
    title = f"## Compared with the champion, version {found.champion}"
    parts = [title, comparison_sentence(found), table(comparison_rows(found)), table(changed_classes(found))]
    return "\n\n".join(parts)


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
    return [f"## Seeds\n\n{spread_line(spread)}\n\n{table(seed_rows(spread))}"] if spread else []


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
    recipe, trained, origin = facts.recipe, facts.trained, facts.provenance
    device, packages = trained.device, sorted(origin.packages.items())
    epochs = f"{recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'}"
    steps = f"{epochs}, batch {recipe.batch_size}, RMSprop {recipe.learning_rate:g}, seed {recipe.seed}"
    return [
        ("Recipe", f"{steps}; {trained.parameters:,} parameters"),
        ("Trained", f"{trained.finished:%Y-%m-%d %H:%M} UTC on the {device.kind.upper()}, {device.name}"),
        ("Arithmetic", device.arithmetic),
        ("Code", origin.code),
        ("Packages", ", ".join(f"{name} {found}" for name, found in [("Python", origin.python), *packages])),
        ("Source of the data", origin.source),
        *((f"{name.capitalize()}, SHA-256", digest) for name, digest in facts.digests),
        *_onnx_rows(facts.exported),
        ("Time", ", ".join(f"{name} {duration(seconds)}" for name, seconds in facts.seconds)),
    ]


def _onnx_rows(exported: Export) -> list[tuple[str, str]]:
    if exported.left_out:
        return [("model.onnx", f"left out: {exported.left_out}")]
    if exported.file is None:
        return []
    return [("model.onnx", f"onnxruntime predicts the same, to within {exported.largest_difference:.1g}")]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table whose columns line up in a terminal."""
    lines = [list(rows[0]), *([plain(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    head, *body = (_row(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([head, _row("-" * width for width in widths), *body])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Text that stays text, and stays on its line, inside Markdown."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
