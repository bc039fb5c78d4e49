"""Verify everything of one model, and say what was verified. Called by `retrain verify`.

May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tasks.errors import RegistryError
from tasks.registry.registry import Registry

# Told about each part, as soon as it is verified: what it is, and its problems.
Tell = Callable[[str, list[RegistryError]], object]


class Verification(NamedTuple):
    """What was verified: how many versions, files and generations, and which versions are champion and reference.

    `retired` is how many versions the retention policy has removed.
    """

    versions: int
    retired: int
    files: int
    generations: int
    champion: int | None
    reference: int | None
    problems: list[RegistryError]

    def __str__(self) -> str:
        return (
            f"{_count(self.versions, 'version')}{f' and {self.retired} retired' if self.retired else ''}, "
            f"{_count(self.files, 'file')}, "
            f"{_count(self.generations, 'generation')}, champion {self.champion or 'none'}, "
            f"reference {self.reference or 'none'}"
        )


def verify_everything(registry: Registry, tell: Tell) -> Verification:
    """Read and hash everything of a model again.

    A version that another process withdraws meanwhile, as it lost a race, is neither verified nor a problem, nor is one
    that is being retired.

    Raises:
        RegistryError: The store has nothing of this model.
        StoreError: The store cannot be read.
    """
    if nothing := registry.nothing():
        raise nothing
    problems: list[RegistryError] = []
    versions = files = 0
    for number in registry.versions():
        found = registry.verify(number)
        if found and (number not in registry.versions() or _is_being_retired(registry, number)):
            continue
        tell(f"version {number}", found)
        problems += found
        versions += 1
        files += _files(registry, number)
    found = registry.verify_champion()
    tell("champion, history and reference", found)
    problems += found
    champion, reference = (_version(role) for role in (registry.champion, registry.pinned))
    return Verification(versions, len(registry.retired()), files, registry.generations(), champion, reference, problems)


def _is_being_retired(registry: Registry, number: int) -> bool:
    """Whether a version has a tombstone, and nothing needs it: who plants one hides no damage of the champion."""
    needed = {_version(role) for role in (registry.champion, registry.pinned)}
    return number not in needed and registry.tombstone(number) is not None


def _files(registry: Registry, number: int) -> int:
    try:
        return len(registry.manifest(number).files)
    except RegistryError:
        return 0


def _version(role: Callable[[], object]) -> int | None:
    try:
        return getattr(role(), "version", None)
    except RegistryError:  # `verify_champion` names it
        return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
