"""What a model was made from, and what of that differs from another model: recipe, data, gate, packages, device, code.

Pure: functions of the facts in manifests. Those of another writer or of an earlier version may lack any. Called for the
report, and by `version_comparison`; imports `tasks.values` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.values import Value

Facts = Mapping[str, Any]

LIMITS = "Gate limits"
VERSIONS, FILES, CODE = "Packages", "Packages' files, SHA-256", "Code, SHA-256"
IMAGES, CLASSES, BATCHES = "Images", "Classes", "Batches"

# How a value reads that is not there.
NONE = "none"

# Parts whose entries come and go. In any other part, an entry that is not there was not recorded.
OPEN = (VERSIONS, FILES, CODE, CLASSES, BATCHES)


class Difference(Value):
    """One thing in which a candidate differs from the champion: its part, its name, and both values as text."""

    part: str
    name: str
    old: str
    new: str


class Changes(Value):
    """In what a candidate differs from the champion, version `champion`, before anything was measured.

    `unrecorded` are the things that one of the two has not recorded: nobody can tell whether they changed. `recorded`
    is false where the champion has recorded nothing at all.
    """

    champion: int
    differences: tuple[Difference, ...]
    unrecorded: tuple[str, ...] = ()
    recorded: bool = True


def made_from(facts: Facts) -> dict[str, dict[str, Any]]:
    """What a model was made from: names and values of each part, by its title; a part may be empty."""
    origin, data = at(facts, "provenance"), at(facts, "data")
    return {
        "Recipe": at(facts, "recipe"),
        "Data, SHA-256": {name: data[name] for name in data if name not in {"shape", "classes", "batches"}},
        IMAGES: {"shape": data["shape"]} if "shape" in data else {},
        CLASSES: dict.fromkeys(class_names(facts), "a class"),
        BATCHES: batch_digests(facts),
        VERSIONS: at(origin, "packages"),
        FILES: at(origin, "digests"),
        CODE: at(origin, "modules"),
        "Device": at(facts, "device"),
        "Origin": {name: origin[name] for name in ("code", "python", "source") if name in origin},
    }


def changes(champion: int, old: Facts, new: Facts) -> Changes:
    """What differs between the facts of the champion, of that version, and those of a candidate."""
    before, after = ({**made_from(facts), "Seeds": _seeds(facts), LIMITS: _limits(facts)} for facts in (old, new))
    differences: list[Difference] = []
    unrecorded: list[str] = []
    for title in before:
        part, one, other = title.partition(",")[0], before[title], after[title]
        if bool(one) != bool(other):
            unrecorded.append(part)
        elif title == LIMITS:  # a row that only one of them has is no limit that changed
            differences += _differences(part, one, other, one.keys() & other.keys())
        elif title == FILES:  # those of another release differ, of course
            same = {name for name in one if before[VERSIONS].get(name) == after[VERSIONS].get(name)}
            differences += _differences(part, one, other, same)
        else:
            unknown = [] if title in OPEN else [name for name in {**one, **other} if (name in one) != (name in other)]
            unrecorded += [f"{part}: {name}" for name in unknown]
            differences += _differences(part, one, other, {*one, *other} - set(unknown))
    return Changes(
        champion=champion,
        differences=tuple(differences),
        unrecorded=tuple(unrecorded),
        recorded=any(before.values()),
    )


def class_names(facts: Facts) -> tuple[str, ...]:
    """The names of the classes; () where none are recorded."""
    names = at(facts, "data").get("classes")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def batch_digests(facts: Facts) -> dict[str, str]:
    """The digest of each batch by its name; empty where none are recorded."""
    batches = at(facts, "data").get("batches")
    known = [each for each in batches if isinstance(each, Mapping)] if isinstance(batches, list) else []
    pairs = ((each.get("name"), each.get("digest")) for each in known)
    return {name: digest for name, digest in pairs if isinstance(name, str) and isinstance(digest, str)}


def differing(old: Facts, new: Facts) -> list[str]:
    """The names of the entries that differ, in the order in which they are recorded."""
    return [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]


def at(facts: Facts, *path: str) -> dict[str, Any]:
    """The part of a manifest's facts at this path; empty if it has none, as that of another writer may."""
    part: Any = facts
    for name in path:
        part = part.get(name) if isinstance(part, Mapping) else None
    return dict(part) if isinstance(part, Mapping) else {}


def _differences(part: str, old: Facts, new: Facts, names: set[str]) -> list[Difference]:
    return [
        Difference(part=part, name=name, old=_text(old.get(name)), new=_text(new.get(name)))
        for name in differing(old, new)
        if name in names
    ]


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(facts: Facts) -> dict[str, int]:
    """How many seeds were trained: the spread is recorded for more than one."""
    scores = at(facts, "seeds").get("scores")
    return {"trained": len(scores) if isinstance(scores, list) else 1} if "seeds" in facts else {}


def _limits(facts: Facts) -> dict[str, float]:
    """The limit of each row of the gate, by the row's name without the version that it compares with."""
    rows = at(facts, "decision").get("checks")
    known = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return {
        re.sub(r" v\d+$", "", str(row.get("name"))): abs(limit)
        for row in known
        if isinstance(limit := row.get("limit"), int | float)
    }
