"""What a deploy changes, and what it leaves because somebody has changed it on the server: a three-way merge.

A value on the server that is no longer what was deployed last was changed by a person, in the interface; a deploy keeps
it unless told to overwrite. Values are flat, "gate.min_accuracy"; None is unset. Pure: no Prefect, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

Flat = Mapping[str, Any]


class Difference(NamedTuple):
    """One value that differs between the server and the settings."""

    name: str
    current: Any
    desired: Any


class Merge(NamedTuple):
    """What a deploy does.

    `values` are what the server shall have, `deployed` what counts as deployed from then on: for a value that is kept,
    what did before. `changed` are those that thereby change, `kept` those that stay although the settings differ.
    """

    values: dict[str, Any]
    deployed: dict[str, Any]
    changed: list[Difference]
    kept: list[Difference]


def merge(deployed: Flat, current: Flat, desired: Flat, overwrite: bool = False, unset: Collection[str] = ()) -> Merge:
    """Bring the settings to the server, where it is as it was deployed.

    Args:
        deployed: The values of the last deploy.
        current: The values on the server.
        desired: The values of the settings.
        overwrite: Replace what was changed on the server too.
        unset: Names of which the settings say nothing: whatever is on the server stays.
    """
    merged = Merge({}, {}, [], [])
    for name in sorted({*deployed, *current, *desired}):
        there, before = current.get(name), deployed.get(name)
        wanted = there if name in unset else desired.get(name)
        ours = overwrite or there in (before, wanted)
        merged.values[name] = wanted if ours else there
        merged.deployed[name] = wanted if ours and name not in unset else before
        if there != wanted:
            (merged.changed if ours else merged.kept).append(Difference(name, there, wanted))
    return merged


def flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name; those of a card as "card.name". What is None or empty is left out."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        fields = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}.{inner}": each for inner, each in fields} or {name: value}
    return {name: value for name, value in found.items() if value not in (None, {})}


def nested(values: Flat) -> dict[str, Any]:
    """The inverse of `flat`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        card, _, inner = name.rpartition(".")
        if value is not None:
            (found.setdefault(card, {}) if card else found)[inner] = value
    return found
