"""What differs between two models, versions or runs: measurements, decisions, and what they were made from.

Pure: functions of the facts in their manifests or reports, and of their predictions. `markdown` is for a terminal,
`html` for a browser. Called by `retrain compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.data.arrays import Bytes
from tasks.gate.comparison import Comparison
from tasks.report.changes import BATCHES, CLASSES, at, class_names, differing, made_from
from tasks.report.formatting import (
    DIGEST,
    LISTED,
    Names,
    changed_classes,
    changed_classes_shown,
    comparison_rows,
    comparison_sentence,
    gate_row,
    number,
    plain,
    short,
    signed,
    table,
)
from tasks.report.html import comparison_context, render_template
from tasks.values import Check

Rows = list[dict[str, str]]

MISSING = "–"


@dataclass(frozen=True)
class Pair:
    """Two models of one name: what to call each ("version 3", "run 1f0c9a2b"), its facts, and the comparison of both.

    `comparison` is None if they cannot be compared image by image: they were not tested on the same ones, or `why_not`.
    """

    model: str
    old: str
    new: str
    old_facts: Mapping[str, Any]
    new_facts: Mapping[str, Any]
    comparison: Comparison | None = field(default=None)
    why_not: str = ""

    @property
    def names(self) -> Names:
        """The names of the two."""
        return Names(self.old, self.new)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that both were tested on; () where none are recorded for all of them."""
        recorded = class_names(self.new_facts) or class_names(self.old_facts)
        tested = len(self.comparison.lost.per_class) if self.comparison else 0
        return recorded if len(recorded) >= tested else ()

    @property
    def title(self) -> str:
        """The title of the comparison."""
        return f"{self.model}: {self.old} → {self.new}"

    @property
    def sentence(self) -> str:
        """The result of the comparison image by image."""
        if self.comparison is None:
            return self.why_not or "They were not tested on the same images, so no image can be compared."
        return comparison_sentence(self.comparison)


def sections(pair: Pair) -> dict[str, Rows]:
    """A table for each part in which they differ, by its title; measurements and gate are always included."""
    tables = {"Measured": _metrics(pair), "Gate": _gate(pair)}
    old, new = made_from(pair.old_facts), made_from(pair.new_facts)
    for facts, parts in ((pair.old_facts, old), (pair.new_facts, new)):
        parts["Origin"] = {"weights": facts.get("weights_digest"), **parts["Origin"]}
    tables |= {title: _differing(pair, old[title], new[title]) for title in old}
    for title in (CLASSES, BATCHES):
        tables[title] = _came_and_went(pair, old[title], new[title])
    return {title: rows for title, rows in tables.items() if rows}


def markdown(pair: Pair) -> str:
    """The difference as Markdown whose tables line up in a terminal."""
    parts = [f"# {plain(pair.title)}", pair.sentence]
    if pair.comparison:
        parts += [table(comparison_rows(pair.comparison, pair.names))]
        parts += filter(None, [changed_classes_shown(pair.comparison)])
        parts += [table(changed_classes(pair.comparison, pair.classes))]
        parts += [
            f"{name.capitalize()}: {', '.join(str(change.image) for change in side.images)}"
            + (" …" if side.count > len(side.images) else "")
            for name, side in (("lost images", pair.comparison.lost), ("won images", pair.comparison.won))
            if side.count
        ]
    parts += [f"## {title}\n\n{table(rows)}" for title, rows in sections(pair).items()]
    return "\n\n".join(parts) + "\n"


def html(pair: Pair, images: Bytes | None) -> bytes:
    """The difference as one HTML file, UTF-8, that needs no other.

    Args:
        pair: The two models.
        images: The test images, uint8 (n, height, width) or (n, height, width, 3); None if they are not available:
            then images are named by number.
    """
    comparison = pair.comparison and comparison_context(pair.comparison, pair.classes, images, pair.names)
    context = {"pair": pair, "comparison": comparison, "sections": sections(pair)}
    return render_template("compare.html.jinja", context)


def _metrics(pair: Pair) -> Rows:
    old, new = (at(facts, "metrics") for facts in (pair.old_facts, pair.new_facts))
    rows = []
    for name in sorted({*old, *new}):
        pieces = {"": name, pair.names.old: _text(old.get(name)), pair.names.new: _text(new.get(name))}
        rows.append(pieces | {"change": _change(old.get(name), new.get(name))})
    return rows


def _gate(pair: Pair) -> Rows:
    old, new = (_checks(facts) for facts in (pair.old_facts, pair.new_facts))
    rows = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        change = signed(after.value - before.value, after.limit) if before and after else MISSING
        rows.append({"": name, pair.names.old: _row(before), pair.names.new: _row(after), "change": change})
    return rows


def _checks(facts: Mapping[str, Any]) -> dict[str, Check]:
    try:
        checks = [Check.model_validate(check) for check in at(facts, "decision").get("checks", [])]
    except (TypeError, ValueError):  # another writer's
        return {}
    return {check.name: check for check in checks}


def _row(check: Check | None) -> str:
    if check is None:
        return MISSING
    row = gate_row(check)
    needs = row["needs"].replace(" ", "\N{NO-BREAK SPACE}")  # no line break between the sign and its number
    return f"{row['result']} {row['value']} {needs}"


def _differing(pair: Pair, old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """The entries that differ."""
    return [
        {"": name, pair.names.old: _recorded(old, name), pair.names.new: _recorded(new, name)}
        for name in differing(old, new)
    ]


def _came_and_went(pair: Pair, old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """The classes, or batches, that only one of the two has, or that changed, where both have recorded theirs."""
    if not old or not new:
        return []
    names = differing(old, new)
    rows = [
        {"": name, pair.names.old: _mark(old.get(name)), pair.names.new: _mark(new.get(name))}
        for name in names[:LISTED]
    ]
    more = {"": f"and {len(names) - LISTED:,} more", pair.names.old: "", pair.names.new: ""}
    return [*rows, more] if len(names) > LISTED else rows


def _mark(value: str | None) -> str:
    return MISSING if value is None else short(value) if DIGEST.fullmatch(value) else "has it"


def _recorded(part: Mapping[str, Any], name: str) -> str:
    return _text(part[name]) if name in part else "not recorded"


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return number(value) if isinstance(value, float) and 1e-3 <= abs(value) < 1e3 else str(value)


def _change(old: Any, new: Any) -> str:
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return MISSING
    return signed(new - old, 2 if isinstance(old, int) and isinstance(new, int) else 1)
