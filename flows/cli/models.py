"""The commands for published versions: list, show, verify, fetch, roll back, pin.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.cli.command import Command, escaped, positive, reason
from tasks.errors import RegistryError, UsageError
from tasks.registry import Registry
from tasks.registry.documents import Manifest, Pointer
from tasks.registry.fetch import fetch_version
from tasks.registry.verification import verify_everything
from tasks.storage import open_store


def versions(options: argparse.Namespace) -> int:
    """`retrain versions`."""
    registry = _registry(options)
    pointer, pin, numbers = registry.champion(), registry.pinned(), registry.versions()
    if not numbers:
        raise registry.nothing() or RegistryError(
            f"there is no version of {registry.model} in {options.settings.store}",
            "the history names versions, and all are gone",
            "Restore them from a backup of the store. See `retrain history`.",
        )
    code = 0
    for version in numbers:
        try:
            line = _version_line(registry.manifest(version))
        except RegistryError as error:
            if version not in registry.versions():  # its writer lost a race and has withdrawn it since it was listed
                continue
            code, line = 1, f"{version:>4}  {error.what}: {error.why}"
        roles = [("champion", pointer), ("reference", pin)]
        print(line, ", ".join(role for role, target in roles if target and target.version == version), sep="  ")
    return code


def champion(options: argparse.Namespace) -> int:
    """`retrain champion`."""
    registry = _registry(options)
    pointer = _champion(registry)
    print(_version_line(registry.manifest(pointer)))
    print(f"since {_moment(pointer.moved)} UTC, generation {pointer.generation}, {escaped(pointer.reason)}")
    print(registry.address(pointer.version, "model.keras"))
    if pin := registry.pinned():
        print(f"reference: version {pin.version}, pinned {_moment(pin.moved)} UTC, {escaped(pin.reason)}")
    return 0


def show(options: argparse.Namespace) -> int:
    """`retrain show VERSION`."""
    registry = _registry(options)
    manifest = registry.manifest(options.version)
    print(registry.read(options.version, "report.md").decode())
    for file in manifest.files:
        print(f"{file.sha256}  {file.size:>10,}  {registry.address(options.version, file.path)}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """`retrain verify [VERSION]`: 1 if anything differs from what was published, or there is nothing."""
    registry = _registry(options)
    if options.version is not None:
        return 1 if _print_problems(f"version {options.version}", registry.verify(options.version)) else 0
    result = verify_everything(registry, _print_problems)
    print(f"verified {registry.model} in {options.settings.store}: {result}")
    return 1 if result.problems else 0


def fetch(options: argparse.Namespace) -> int:
    """`retrain fetch DIR`."""
    registry = _registry(options)
    which = _champion(registry) if options.version is None else options.version
    manifest = fetch_version(registry, which, options.folder)
    print(f"{registry.model} version {manifest.version}, {len(manifest.files)} files verified, in {options.folder}")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """`retrain rollback`."""
    registry = _registry(options)
    before = None
    with suppress(RegistryError):  # of a damaged pointer: the rollback says what to do, or repairs it
        before = registry.champion()
    pointer = registry.rollback(options.to, options.reason, getattr(options, "from"))
    model, version, previous = registry.model, pointer.version, pointer.previous
    if before is None or pointer.publish_id != before.publish_id:
        print(f"the champion of {model} was version {previous} and is version {version}, {_generation(pointer)}")
    elif options.to is None and getattr(options, "from") is None:
        print(
            f"nothing to do: the champion of {model} was moved from version {previous} to version {version} already, "
            f"{_generation(pointer)}; to go back further, `retrain rollback --from {version}`"
        )
    else:
        print(f"nothing to do: the champion of {model} is version {version} already, {_generation(pointer)}")
    return 0


def pin(options: argparse.Namespace) -> int:
    """`retrain pin VERSION`."""
    registry = _registry(options)
    pinned = registry.pin(options.version, options.reason)
    print(f"every candidate of {registry.model} is compared with version {pinned.version} too")
    return 0


def unpin(options: argparse.Namespace) -> int:
    """`retrain unpin`."""
    registry = _registry(options)
    registry.unpin()
    print(f"every candidate of {registry.model} is compared with the champion alone")
    return 0


def history(options: argparse.Namespace) -> int:
    """`retrain history`."""
    registry = _registry(options)
    if not (pointers := registry.history()):
        raise registry.nothing() or RegistryError(
            f"there is no history of {registry.model} in {options.settings.store}",
            "no version was ever champion",
            "See `retrain versions`.",
        )
    for pointer in pointers:
        print(
            f"{pointer.generation:>4}  {_moment(pointer.moved)}  version {pointer.version}  {escaped(pointer.reason)}"
        )
    return 0


def _print_problems(what: str, problems: list[RegistryError]) -> list[RegistryError]:
    print(f"{what}: {f'{len(problems)} bad' if problems else 'intact'}", flush=True)
    for problem in problems:
        print(f"retrain: {problem}", file=sys.stderr, flush=True)
    return problems


def _registry(options: argparse.Namespace) -> Registry:
    return Registry(open_store(options.settings.store), options.settings.dataset)


def _champion(registry: Registry) -> Pointer:
    pointer = registry.checked_champion()
    if pointer is None:
        raise UsageError(f"there is no champion of {registry.model}", "nothing was published yet", "See `retrain run`.")
    return pointer


def _version_line(manifest: Manifest) -> str:
    accuracy = "unknown" if manifest.accuracy is None else f"{manifest.accuracy:.4f}"
    return f"{manifest.version:>4}  {_moment(manifest.created)}  accuracy {accuracy}"


def _generation(pointer: Pointer) -> str:
    return f"generation {pointer.generation}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


VERSION: dict[str, Any] = {"type": positive, "metavar": "VERSION", "help": "the version's number"}


COMMANDS = [
    Command(versions, "list the published versions"),
    Command(champion, "show which version is the champion, since when and why"),
    Command(show, "show a version's report and files", {"version": VERSION}),
    Command(
        verify,
        "hash everything that is published again, say what was verified, and name each file that differs or is missing",
        {"version": VERSION | {"nargs": "?", "help": "only this one"}},
    ),
    Command(
        fetch,
        "copy the champion into a folder: verified, all or nothing",
        {
            "folder": {"type": Path, "metavar": "DIR", "help": "a folder: new, empty, or with another fetched version"},
            "--version": VERSION | {"metavar": "V", "help": "this version instead of the champion"},
        },
    ),
    Command(
        rollback,
        "make an earlier version the champion again",
        {
            "--to": VERSION | {"metavar": "V", "help": "this version. Default: the one that the champion replaced"},
            "--from": VERSION | {"metavar": "V", "help": "only if this version is the champion"},
            "--reason": {"type": reason, "default": "rolled back", "metavar": "TEXT", "help": "why, for the history"},
        },
    ),
    Command(
        pin,
        "compare every candidate with this version too, so that quality cannot creep down in small steps",
        {
            "version": VERSION,
            "--reason": {
                "type": reason,
                "default": "pinned",
                "metavar": "TEXT",
                "help": "why, for `retrain champion`",
            },
        },
    ),
    Command(unpin, "compare candidates with the champion alone again"),
    Command(history, "list who was champion when, and why"),
]
