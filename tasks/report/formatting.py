"""How numbers, sentences and rows read, in every form of the report and in the command line's summary.

Pure; called by the other modules of this folder, the flow and the command line. Imports no drawing library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tasks.data.arrays import class_name
from tasks.gate.comparison import Comparison
from tasks.gate.intervals import TWO_SIDED
from tasks.gate.paired import loss_bounds, mcnemar
from tasks.report.calibration import Bin, Calibration
from tasks.report.changes import BATCHES, CLASSES, NONE, Changes, Difference
from tasks.report.facts import Document
from tasks.values import Check, ClassScore, Decision, Epoch, Export, Prepared, Spread, Stage, StepRun

# Characters that Markdown could take for markup, HTML or the end of a table's cell. A `_` inside a word is none, nor is
# an `&` that begins no character reference.
MARKUP = re.compile(r"([\\|<\[\]`*~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_]))")

# Where GitHub and GitLab, whatever is escaped, see somebody to notify or an issue to link to: @team, #12, !12, GH-12,
# and the address of an issue. A space of no width, which nobody sees, after the first characters keeps them from it.
MENTION = re.compile(
    r"@(?=\w)|#(?=\d)|!(?=\d)|\bGH-(?=\d)|github(?=\.com/[^/\s]+/[^/\s]+/(?:issues|pull|discussions|commit)/)",
    re.IGNORECASE,
)
NO_WIDTH = "\u200b"

# As many classes, and no more, are shown one by one: each in a table, all in a confusion matrix.
LISTED = 30

# As many batches that came, went or changed are named.
NAMED = 5

DIGEST = re.compile(r"[0-9a-f]{64}")


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
        sentences = [failures(decision)]
    else:
        shares = [check for check in decision.checks if check.limit < 1] or list(decision.checks)
        closest = min(shares, key=lambda check: check.margin)
        sentences = ["every check holds", f"the closest call: {_value_and_limit(closest)}"]
    more = (decision.remark, _overridden(decision), _stages(decision.stages), _look(decision.look))
    sentences += [text for text in more if text]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in sentences)


def failures(decision: Decision) -> str:
    """Value and limit of each failed check."""
    return "; ".join(_value_and_limit(check) for check in decision.checks if not check.passed)


def _stages(stages: Sequence[Stage]) -> str:
    """Why further seeds were trained, and what each stage cost."""
    if len(stages) < 2:
        return ""
    parts = [f"after {each.seeds} ({each.seconds:.1f} s of training) {each.why}" for each in stages]
    return f"{stages[-1].seeds} seeds were trained: {', '.join(parts)}"


def _look(number: int) -> str:
    """What repeated verdicts on the same images leave of their confidence: Bonferroni's bound."""
    if number < 2:
        return ""
    together = max(0, 100 - 5 * number)
    worth = f"with {together} % at least" if together else "with none"
    return (
        f"this is look {number:,} at these test images: what the gate says with 95 % confidence each time holds for "
        f"all looks together {worth}"
    )


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
    return f"{check.name} is {_loss(check.value)}, allowed {_loss(check.limit)}"


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
        f"the probability that the model gives them. Over {count(calibration.of, 'equally wide bin')} of that "
        "probability." + (_only_bin(calibration.bins[0]) if len(calibration.bins) == 1 else "")
    )


def _only_bin(only: Bin) -> str:
    return (
        f" All the images are in one, {only.lower:.3f} to {only.upper:.3f}: mean probability {only.confidence:.4f}, "
        f"share right {only.accuracy:.4f}."
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


def changed_classes(comparison: Comparison, classes: tuple[str, ...]) -> list[dict[str, str]]:
    """How many images of each class were lost and won; of many classes, those that lost most."""
    numbers = list(enumerate(zip(comparison.lost.per_class, comparison.won.per_class, strict=True)))
    if len(numbers) > LISTED:
        numbers = sorted(numbers, key=lambda each: (each[1][1] - each[1][0], -each[1][0]))[:LISTED]
    return [
        {"class": class_name(classes, label), "lost": f"{lost:,}", "won": f"{won:,}", "net": signed(won - lost, 2)}
        for label, (lost, won) in numbers
    ]


def changed_classes_shown(comparison: Comparison) -> str:
    """Which classes `changed_classes` lists; "" for all."""
    total = len(comparison.lost.per_class)
    return f"The {LISTED} of {total:,} classes that lost most." if total > LISTED else ""


def changes_sentence(changes: Changes) -> str:
    """How much changed since the champion, and what nobody can tell."""
    if not changes.recorded:
        return f"Version {changes.champion} does not say what it was made from, so nothing can be compared."
    changed = count(len(changes.differences), "thing") if changes.differences else "nothing"
    if not changes.unrecorded:
        same = "" if changes.differences else ": recipe, data, gate limits, packages, device and code are the same"
        return f"{changed} changed{same}.".capitalize()
    return f"{changed} changed of what both have recorded.".capitalize()


def changed_parts(changes: Changes) -> list[tuple[str, str]]:
    """What changed in each part ("Recipe", "learning_rate 0.001 → 0.002"), then what is not recorded."""
    parts: dict[str, list[str]] = {}
    for difference in changes.differences:
        parts.setdefault(difference.part, []).append(_difference(difference))
    if len(names := parts.get(CLASSES, [])) > LISTED:
        parts[CLASSES] = [*names[:LISTED], f"and {len(names) - LISTED:,} more"]
    if BATCHES in parts:
        parts[BATCHES] = _changed_batches(changes)
    unrecorded = [("Not recorded", "; ".join(changes.unrecorded))] if changes.unrecorded and changes.recorded else []
    return [*((part, ", ".join(texts)) for part, texts in parts.items()), *unrecorded]


def _changed_batches(changes: Changes) -> list[str]:
    """How many batches came, went and changed, and the names of a few."""
    groups: dict[str, list[str]] = {}
    for each in changes.differences:
        if each.part == BATCHES:
            groups.setdefault(_what(each), []).append(each.name)
    return [
        f"{len(names):,} {what.removeprefix('is ')}: {', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}"
        for what, names in groups.items()
    ]


def _what(difference: Difference) -> str:
    return "is new" if difference.old == NONE else "is gone" if difference.new == NONE else "changed"


def _difference(difference: Difference) -> str:
    if difference.part in {"Code", CLASSES}:
        return f"{difference.name} {_what(difference)}"
    return f"{difference.name} {short(difference.old)} → {short(difference.new)}"


def short(value: str) -> str:
    """A value without most of its digits if it is a SHA-256."""
    return f"{value[:12]}…" if DIGEST.fullmatch(value) else value


def duration(seconds: float) -> str:
    """Seconds, or minutes from 100 s on, with one decimal."""
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.1f} s"


def training_sentence(history: Sequence[Epoch]) -> str:
    """How many epochs, and the last one's values: what there is to say of a training of one epoch."""
    row = epoch_rows(history)[-1]
    values = ", ".join(f"{name} {value}" for name, value in row.items() if name != "epoch")
    return f"{count(len(history), 'epoch')}: {values}."


def shown(listed: int, total: int) -> str:
    """How many of so many a gallery shows."""
    return f"The {listed:,} surest of {total:,}." if total > listed else f"All {total:,}." if total > 1 else ""


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
        f"{count(len(spread.scores), 'seed')}: mean accuracy {spread.mean:.4f}, "
        f"standard deviation {spread.deviation:.4f}, "
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


def listed_classes(document: Document) -> list[ClassScore]:
    """The classes that a table shows: all of them, or of many the weakest, by recall."""
    scores = list(document.evaluation.classes)
    return scores if len(scores) <= LISTED else sorted(scores, key=lambda score: score.recall)[:LISTED]


def classes_shown(document: Document) -> str:
    """Which classes `class_rows` lists; "" for all."""
    total = len(document.evaluation.classes)
    return f"The {LISTED} weakest of {total:,}; all are in report.json." if total > LISTED else ""


def class_rows(document: Document) -> list[dict[str, str]]:
    """Precision and recall of each class that `listed_classes` names."""
    return [
        {
            "class": document.class_name(score.label),
            "test images": f"{score.support:,}",
            "precision": f"{score.precision:.4f}",
            "recall": f"{score.recall:.4f}",
        }
        for score in listed_classes(document)
    ]


def class_list(document: Document) -> str:
    """The names of the classes, in one line: "A, B, C", and of many how many more there are."""
    total = len(document.evaluation.confusion)
    names = ", ".join(map(document.class_name, range(min(total, LISTED))))
    return f"{names} and {total - LISTED:,} more" if total > LISTED else names


def too_many_for_a_matrix(document: Document) -> bool:
    """Whether the most frequent confusions are listed because a confusion matrix could not be read."""
    return len(document.evaluation.confusion) > LISTED


def confusion_rows(document: Document) -> list[dict[str, str]]:
    """The most frequent confusions; for equal counts in the order of the classes."""
    counts = [
        (-count, truth, guess)
        for truth, row in enumerate(document.evaluation.confusion)
        for guess, count in enumerate(row)
        if count and truth != guess
    ]
    return [
        {
            "the image shows": document.class_name(truth),
            "taken for": document.class_name(guess),
            "images": f"{-count:,}",
        }
        for count, truth, guess in sorted(counts)[:LISTED]
    ]


def confusions_shown(document: Document) -> str:
    """How many of the confusions `confusion_rows` lists."""
    total = sum(
        1
        for truth, row in enumerate(document.evaluation.confusion)
        for guess, n in enumerate(row)
        if n and truth != guess
    )
    pairs = f"{count(total, 'pair')} of classes"
    return (
        f"The {LISTED} most frequent of {pairs}." if total > LISTED else f"All {pairs}." if total else "There are none."
    )


def leak_sentence(prepared: Prepared) -> str:
    """How many training images were left out because they are test images; "" for none."""
    if not prepared.leaked:
        return ""
    were = "was" if prepared.leaked == 1 else "were"
    return f"{count(prepared.leaked, 'training image')} stood in the test split too and {were} left out."


def batches_sentence(prepared: Prepared) -> str:
    """How many batches the images come from, the first and the last; "" for a source that does not grow."""
    batches = prepared.batches
    if not batches:
        return ""
    last = f" … {batches[-1].name}" if len(batches) > 1 else ""
    return f"{len(batches):,} batch{'es' * bool(last)}, {batches[0].name}{last}."


def batches_shown(prepared: Prepared) -> str:
    """Which batches `batch_rows` lists."""
    total = len(prepared.batches)
    return f"The last {LISTED} of {total:,} batches in numbers" if total > LISTED else "Every batch in numbers"


def batch_rows(prepared: Prepared) -> list[dict[str, str]]:
    """The size and the content of each batch; of many, the last ones."""
    return [
        {
            "batch": batch.name,
            "images": f"{batch.images:,}",
            "test images": f"{batch.test_images:,}",
            "SHA-256": short(batch.digest),
        }
        for batch in prepared.batches[-LISTED:]
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
    epochs = count(recipe.epochs, "epoch")
    steps = f"{epochs}, batch {recipe.batch_size}, RMSprop {recipe.learning_rate:g}, seed {recipe.seed}"
    network = [("Network", recipe.network)] if recipe.network else []
    return [
        *network,
        ("Recipe", f"{steps}; {count(trained.parameters, 'parameter')}"),
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
    """Escape a text, on one line, so that Markdown takes nothing in it for markup, and a forge for nobody's name."""
    return MARKUP.sub(r"\\\1", MENTION.sub(rf"\g<0>{NO_WIDTH}", " ".join(text.split())))


def count(number: int, noun: str) -> str:
    """ "1 epoch", "10,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
