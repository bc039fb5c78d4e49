"""The commands for published versions: list, show, verify, fetch, roll back, pin.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.cli.command import Command, escaped, positive, reason
from tasks.errors import RegistryError, UsageError
from tasks.registry import Registry
from tasks.registry.documents import Manifest, Pointer
from tasks.registry.fetch import fetch_version
from tasks.storage import open_store


def versions(options: argparse.Namespace) -> int:
    """`retrain versions`."""
    registry = _registry(options)
    pointer, pin, numbers = registry.champion(), registry.pinned(), registry.versions()
    if not numbers:
        print(f"no version of {registry.model} was published to {options.settings.store} yet", file=sys.stderr)
    code = 0
    for version in numbers:
        try:
            line = _version_line(registry.manifest(version))
        except RegistryError as error:
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
    """`retrain verify [VERSION]`: 1 if anything differs from what was published."""
    registry = _registry(options)
    problems = []
    for version in registry.versions() if options.version is None else [options.version]:
        problems += _print_problems(f"version {version}", registry.verify(version))
    if options.version is None:
        problems += _print_problems("champion, history and reference", registry.verify_champion())
    return 1 if problems else 0


def fetch(options: argparse.Namespace) -> int:
    """`retrain fetch DIR`."""
    registry = _registry(options)
    manifest = fetch_version(registry, options.version or _champion(registry), options.folder)
    print(f"{registry.model} version {manifest.version}, {len(manifest.files)} files verified, in {options.folder}")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """`retrain rollback`."""
    registry = _registry(options)
    pointer = registry.rollback(options.to, options.reason)
    print(f"the champion of {registry.model} is version {pointer.version}, generation {pointer.generation}")
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
    for pointer in registry.history():
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
    pointer = registry.champion()
    if pointer is None:
        raise UsageError(f"there is no champion of {registry.model}", "nothing was published yet", "See `retrain run`.")
    return pointer


def _version_line(manifest: Manifest) -> str:
    accuracy = manifest.facts["metrics"]["accuracy"]
    return f"{manifest.version:>4}  {_moment(manifest.created)}  accuracy {accuracy:.4f}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


VERSION: dict[str, Any] = {"type": positive, "metavar": "VERSION", "help": "the version's number"}


COMMANDS = [
    Command(versions, "list the published versions"),
    Command(champion, "show which version is the champion, since when and why"),
    Command(show, "show a version's report and files", {"version": VERSION}),
    Command(
        verify,
        "hash everything that is published again, and name each file that differs",
        {"version": VERSION | {"nargs": "?", "help": "only this one"}},
    ),
    Command(
        fetch,
        "copy the champion into a folder: verified, all or nothing",
        {
            "folder": {"type": Path, "metavar": "DIR", "help": "a new or empty folder"},
            "--version": VERSION | {"metavar": "V", "help": "this version instead of the champion"},
        },
    ),
    Command(
        rollback,
        "make an earlier version the champion again",
        {
            "--to": VERSION | {"metavar": "V", "help": "this version. Default: the previous champion"},
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
