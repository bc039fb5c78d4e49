"""What differs between two published versions: what was measured, how they were judged, what they were made of.

Pure: of what their manifests tell, and of their predictions. `markdown` is for a terminal, `page` for a browser.
Called by `retrain compare`.
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
    signed,
)
from tasks.report.html import comparison_shown, fill
from tasks.report.markdown import plain, table
from tasks.values import Check

Rows = list[dict[str, str]]

MISSING = "–"


@dataclass(frozen=True)
class Pair:
    """Two versions of a model: their numbers, what their manifests tell, and how they differ image by image.

    `comparison` is None where they were not tested on the same images; its champion is `old`.
    """

    model: str
    old: int
    new: int
    old_facts: Mapping[str, Any]
    new_facts: Mapping[str, Any]
    comparison: Comparison | None = field(default=None)

    @property
    def names(self) -> Names:
        """How the two are called."""
        return Names(f"version {self.old}", f"version {self.new}")

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{self.model}: version {self.old} → version {self.new}"

    @property
    def sentence(self) -> str:
        """What the images say."""
        if self.comparison is None:
            return "They were not tested on the same images, so no image can be compared."
        return comparison_sentence(self.comparison)


def sections(pair: Pair) -> dict[str, Rows]:
    """A table for each part in which they differ, by its title; those that are about how good they are come always."""
    found = {"Measured": _metrics(pair), "Gate": _gate(pair)}
    parts = {
        "Recipe": ("recipe",),
        "Data, SHA-256": ("data",),
        "Packages": ("provenance", "packages"),
        "Packages' files, SHA-256": ("provenance", "digests"),
        "Device": ("device",),
    }
    for title, path in parts.items():
        found[title] = _differing(pair, _at(pair.old_facts, *path), _at(pair.new_facts, *path))
    origins = [{"weights": facts.get("weights_digest"), **_origin(facts)} for facts in (pair.old_facts, pair.new_facts)]
    found["Origin"] = _differing(pair, *origins)
    return {title: rows for title, rows in found.items() if rows}


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


def page(pair: Pair, images: Bytes | None) -> bytes:
    """The difference as one HTML file that needs nothing else.

    Args:
        pair: The two versions.
        images: The test images, uint8 (n, 784), where they can be had; else images are named by their numbers.
    """
    shown = pair.comparison and comparison_shown(pair.comparison, images, pair.names)
    return fill("compare.html.jinja", {"pair": pair, "comparison": shown, "sections": sections(pair)})


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
    found = map(Check.model_validate, _at(facts, "decision").get("checks", []))
    return {check.name: check for check in found}


def _row(check: Check | None) -> str:
    if check is None:
        return MISSING
    row = gate_row(check)
    needs = row["needs"].replace(" ", "\N{NO-BREAK SPACE}")  # a narrow page must not part the sign from its number
    return f"{row['result']} {row['value']} {needs}"


def _origin(facts: Mapping[str, Any]) -> dict[str, Any]:
    told = _at(facts, "provenance")
    return {name: told.get(name) for name in ("code", "python", "source")}


def _differing(pair: Pair, old: Mapping[str, Any], new: Mapping[str, Any]) -> Rows:
    """The entries that are not the same on both sides."""
    return [
        {"": name, pair.names.old: _text(old.get(name)), pair.names.new: _text(new.get(name))}
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _at(facts: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """What a manifest tells there; nothing where it is of another time and has no such part."""
    found: Any = facts
    for name in path:
        found = found.get(name) or {}
    return dict(found)


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    return number(value) if isinstance(value, float) and 1e-3 <= abs(value) < 1e3 else str(value)


def _change(old: Any, new: Any) -> str:
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return MISSING
    return signed(new - old, 2 if isinstance(old, int) and isinstance(new, int) else 1)
