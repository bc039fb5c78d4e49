"""What differs between two published versions: measurements, decisions, and what they were made from.

Pure: functions of the facts in their manifests and of their predictions. `markdown` is for a terminal, `page` for a
browser. Called by `retrain compare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.data.arrays import Bytes
from tasks.gate.comparison import Comparison
from tasks.report.formatting import (
    Names,
    changed_classes,
    comparison_rows,
    comparison_sentence,
    gate_row,
    number,
    plain,
    signed,
    table,
)
from tasks.report.html import comparison_context, render_template
from tasks.values import Check

Rows = list[dict[str, str]]

MISSING = "–"


@dataclass(frozen=True)
class Pair:
    """Two versions of a model: their numbers, the facts in their manifests, and the comparison image by image.

    `comparison` is None if they were not tested on the same images; its champion is `old`.
    """

    model: str
    old: int
    new: int
    old_facts: Mapping[str, Any]
    new_facts: Mapping[str, Any]
    comparison: Comparison | None = field(default=None)

    @property
    def names(self) -> Names:
        """The names of the two versions."""
        return Names(f"version {self.old}", f"version {self.new}")

    @property
    def title(self) -> str:
        """The title of the comparison."""
        return f"{self.model}: version {self.old} → version {self.new}"

    @property
    def sentence(self) -> str:
        """The result of the comparison image by image."""
        if self.comparison is None:
            return "They were not tested on the same images, so no image can be compared."
        return comparison_sentence(self.comparison)


def sections(pair: Pair) -> dict[str, Rows]:
    """A table for each part in which they differ, by its title; measurements and gate are always included."""
    tables = {"Measured": _metrics(pair), "Gate": _gate(pair)}
    parts = {
        "Recipe": ("recipe",),
        "Data, SHA-256": ("data",),
        "Packages": ("provenance", "packages"),
        "Packages' files, SHA-256": ("provenance", "digests"),
        "Device": ("device",),
    }
    for title, path in parts.items():
        tables[title] = _differing(pair, _at(pair.old_facts, *path), _at(pair.new_facts, *path))
    origins = [{"weights": facts.get("weights_digest"), **_origin(facts)} for facts in (pair.old_facts, pair.new_facts)]
    tables["Origin"] = _differing(pair, *origins)
    return {title: rows for title, rows in tables.items() if rows}


def markdown(pair: Pair) -> str:
    """The difference as Markdown whose tables line up in a terminal."""
    parts = [f"# {plain(pair.title)}", pair.sentence]
    if pair.comparison:
        parts += [table(comparison_rows(pair.comparison, pair.names)), table(changed_classes(pair.comparison))]
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
        pair: The two versions.
        images: The test images, uint8 (n, 784); None if they are not available: then images are named by number.
    """
    comparison = pair.comparison and comparison_context(pair.comparison, images, pair.names)
    context = {"pair": pair, "comparison": comparison, "sections": sections(pair)}
    return render_template("compare.html.jinja", context)


def _metrics(pair: Pair) -> Rows:
    old, new = (_at(facts, "metrics") for facts in (pair.old_facts, pair.new_facts))
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
        checks = [Check.model_validate(check) for check in _at(facts, "decision").get("checks", [])]
    except (TypeError, ValueError):  # another writer's
        return {}
    return {check.name: check for check in checks}


def _row(check: Check | None) -> str:
    if check is None:
        return MISSING
    row = gate_row(check)
    needs = row["needs"].replace(" ", "\N{NO-BREAK SPACE}")  # no line break between the sign and its number
    return f"{row['result']} {row['value']} {needs}"


def _origin(facts: Mapping[str, Any]) -> dict[str, Any]:
    origin = _at(facts, "provenance")
    return {name: origin.get(name) for name in ("code", "python", "source")}


def _differing(pair: Pair, old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """The entries that differ."""
    return [
        {"": name, pair.names.old: _text(old.get(name)), pair.names.new: _text(new.get(name))}
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _at(facts: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The part of a manifest's facts at this path; empty if it has none, as that of another writer may."""
    part: Any = facts
    for name in path:
        part = part.get(name) if isinstance(part, Mapping) else None
    return dict(part) if isinstance(part, Mapping) else {}


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    return number(value) if isinstance(value, float) and 1e-3 <= abs(value) < 1e3 else str(value)


def _change(old: Any, new: Any) -> str:
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return MISSING
    return signed(new - old, 2 if isinstance(old, int) and isinstance(new, int) else 1)
