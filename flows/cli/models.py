"""The commands for the published versions of a model: list, show, verify, fetch, roll back, pin.

`overview` has the one for all models. Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, cast

from flows.cli.command import MARKDOWN, Command, positive, reason, seeds
from flows.cli.layout import columns, has_colours, plain, say, show_markdown
from tasks import approval
from tasks.errors import ChampionMoved, RegistryError, UsageError
from tasks.gate.recipes import REFERENCE_SEEDS
from tasks.learning import model_file
from tasks.learning.backend import require_backend
from tasks.model_page import enter
from tasks.registry import Registry
from tasks.registry.documents import Manifest, Pointer
from tasks.registry.fetch import fetch_version
from tasks.registry.looks import Looks, published_look
from tasks.registry.runs import RunIndex, rollback_row
from tasks.registry.verification import verify_everything
from tasks.report.formatting import count
from tasks.report.model_page import render
from tasks.settings import ONE_SEED, Data, Settings
from tasks.storage import open_store
from tasks.storage.local import LocalStore
from tasks.values import Outcome

LOG = logging.getLogger("retrain")

# Rows of a plot, and the columns of its axis.
PLOT_HEIGHT, BESIDE_PLOT = 12, 26

VERIFIED = (
    "verified: every file has the SHA-256 that its manifest names, and model.keras is a known network without code. "
    "Nothing is signed, so this does not say who wrote it."
)


def _of_known_model(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command, whose error names the models of the store where that has nothing of this one."""

    @wraps(command)
    def checked(options: argparse.Namespace) -> int:
        try:
            return command(options)
        except RegistryError:
            if nothing := _registry(options).nothing():
                raise nothing from None
            raise

    return checked


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
    code, waiting = 0, registry.waiting()
    for version in numbers:
        try:
            prefix, line = _version_row(registry.manifest(version))
        except RegistryError as error:
            if version not in registry.versions():  # its writer lost a race and has withdrawn it since it was listed
                continue
            code, prefix, line = 1, f"{version:>4}  ", f"{error.what}: {error.why}"
        roles = [role for role, of in (("champion", pointer), ("reference", pin)) if of and of.version == version]
        roles += [str(waiting[version])] if version in waiting else []
        say(f"{line}  {', '.join(roles)}", prefix)
    return code


def champion(options: argparse.Namespace) -> int:
    """`retrain champion`."""
    registry = _registry(options)
    pointer = _champion(registry)
    prefix, line = _version_row(registry.manifest(pointer))
    say(line, prefix)
    say(f"since {moment(pointer.moved)} UTC, generation {pointer.generation}, {pointer.reason}")
    say(registry.address(pointer.version, "model.keras"))
    if pin := registry.pinned():
        say(f"reference: version {pin.version}, pinned {moment(pin.moved)} UTC, {pin.reason}")
    return 0


@_of_known_model
def show(options: argparse.Namespace) -> int:
    """`retrain show VERSION`."""
    registry = _registry(options)
    manifest = registry.manifest(options.version)
    markdown = registry.read(options.version, "report.md").decode(errors="replace")
    if options.markdown:
        print(plain(markdown), end="")
        return 0
    show_markdown(markdown)
    print()
    for file in manifest.files:
        say(registry.address(options.version, file.path), f"{file.sha256}  {file.size:>10,}  ")
    return 0


def verify(options: argparse.Namespace) -> int:
    """`retrain verify [VERSION]`: 1 if anything differs from what was published, or there is nothing."""
    registry = _registry(options)
    if options.version is not None:
        problems = registry.verify(options.version)
        if problems and (nothing := registry.nothing()):
            raise nothing
        return 1 if _print_problems(f"version {options.version}", problems) else 0
    result = verify_everything(registry, _print_problems)
    say(f"verified {registry.model} in {options.settings.store}: {result}")
    if not result.problems:
        say(VERIFIED)
    return 1 if result.problems else 0


@_of_known_model
def fetch(options: argparse.Namespace) -> int:
    """`retrain fetch DIR`."""
    registry = _registry(options)
    which = _champion(registry) if options.version is None else options.version
    manifest = fetch_version(registry, which, options.folder)
    files = count(len(manifest.files), "file")
    say(f"{registry.model} version {manifest.version}, {files} verified, in {options.folder}")
    say(VERIFIED)
    return 0


@_of_known_model
def rollback(options: argparse.Namespace) -> int:
    """`retrain rollback`."""
    registry = _registry(options)
    before = None
    with suppress(RegistryError):  # of a damaged pointer: the rollback says what to do, or repairs it
        before = registry.champion()
    pointer = registry.rollback(options.to, options.reason, getattr(options, "from"))
    model, version, previous = registry.model, pointer.version, pointer.previous
    if before is None or pointer.publish_id != before.publish_id:
        say(f"the champion of {model} was version {previous} and is version {version}, {_generation(pointer)}")
        enter(registry.store, model, rollback_row(pointer))
    elif options.to is None and getattr(options, "from") is None:
        say(
            f"nothing to do: the champion of {model} was moved from version {previous} to version {version} already, "
            f"{_generation(pointer)}; to go back further, `retrain rollback --from {version}`"
        )
    else:
        say(f"nothing to do: the champion of {model} is version {version} already, {_generation(pointer)}")
    return 0


@_of_known_model
def approve(options: argparse.Namespace) -> int:
    """`retrain approve VERSION`."""
    registry = _registry(options)
    before = registry.checked_champion()
    try:
        pointer = approval.approve(registry, options.version, options.reason or "")
    except ChampionMoved:
        LOG.info("the champion has changed since version %d was judged: it is judged again", options.version)
        return _judge_again(options)
    if before and before.publish_id == pointer.publish_id:
        say(f"nothing to do: the champion of {registry.model} is version {pointer.version} already")
    else:
        say(f"the champion of {registry.model} is version {pointer.version}, {_generation(pointer)}")
    return 0


def _judge_again(options: argparse.Namespace) -> int:
    """Approve a version by the flow, which judges it beside the champion of now; the exit code is that of a run."""
    from flows.cli.progress import show_progress
    from flows.cli.run import on_server, outcome_of, tell

    settings: Settings = options.settings

    def call() -> Outcome:
        from flows.approve import approve

        why, store = options.reason or "", settings.store
        state = approve(options.version, settings.model_name, reason=why, store=store, return_state=True)
        return cast(Outcome, state.result())

    require_backend()
    show_progress()
    return tell(outcome_of(lambda: on_server(settings, call)))


@_of_known_model
def decline(options: argparse.Namespace) -> int:
    """`retrain decline VERSION`."""
    registry = _registry(options)
    declined = approval.decline(registry, options.version, options.reason)
    say(f"version {declined.version} of {registry.model} was {declined}")
    return 0


@_of_known_model
def pin(options: argparse.Namespace) -> int:
    """`retrain pin VERSION`."""
    registry = _registry(options)
    pinned = registry.pin(options.version, options.reason)
    say(f"every candidate of {registry.model} is compared with version {pinned.version} too")
    if options.seeds == 1 or options.settings.seeds == ONE_SEED:
        return 0
    if registry.manifest(pinned).fact("plan") is None:
        say("it counts as one seed, as it was published by an earlier version of this project")
        return 0
    known = _train_seeds(options.settings, pinned.version, options.seeds)
    why = "" if known >= options.seeds else ", as its data, code or recipe are not what they were"
    say(f"it counts as {count(known, 'seed')}{why}")
    return 0


def _train_seeds(settings: Settings, version: int, number: int) -> int:
    """Train the seeds of a pinned version; how many it has."""
    from flows.cli.progress import show_progress
    from flows.cli.run import on_server

    def call() -> int:
        from flows import pin

        where, store = settings.train_on or "here", settings.store
        state = pin.pin(
            settings.model_name,
            version,
            number,
            settings.card(Data),
            device=settings.device,
            train_on=where,
            store=store,
            return_state=True,
        )
        return cast(int, state.result())

    require_backend()
    show_progress()
    return on_server(settings, call)


def unpin(options: argparse.Namespace) -> int:
    """`retrain unpin`."""
    registry = _registry(options)
    if nothing := registry.nothing():
        raise nothing
    registry.unpin()
    say(f"every candidate of {registry.model} is compared with the champion alone")
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
    if looks := _looks(registry, pointers[-1], options.settings.store):
        say(looks)
    for pointer in pointers:
        prefix = f"{pointer.generation:>4}  {moment(pointer.moved)}  version {pointer.version}  "
        say(pointer.reason, prefix)
    if options.plot:
        print(_curve(registry))
    return 0


def _curve(registry: Registry) -> str:
    """The accuracy of each version that has one, to see in a terminal; a line that says so where none has."""
    rows = [row for row in RunIndex(registry.store, registry.model).shown() if row["verdict"] == "published"]
    points = {row["version"]: row["accuracy"] for row in rows if row["accuracy"] is not None}
    if not points:
        return "no version says its accuracy"
    import plotille

    figure = plotille.Figure()
    figure.width, figure.height = max(20, columns(sys.stdout) - BESIDE_PLOT), PLOT_HEIGHT
    figure.color_mode, figure.with_colors = "names", has_colours(sys.stdout)
    figure.x_label, figure.y_label = "version", "accuracy"
    low, high = min(points.values()), max(points.values())
    room = (high - low) / 10 or 0.001
    figure.set_x_limits(min(points) - 0.5, max(points) + 0.5)
    figure.set_y_limits(low - room, high + room)
    figure.x_ticks_fkt = lambda value, _: f"{value:.0f}"
    figure.y_ticks_fkt = lambda value, _: f"{100 * value:7.2f} %"
    figure.plot(list(points), list(points.values()), lc="cyan")
    return str(figure.show())


def _looks(registry: Registry, champion: Pointer, store: str) -> str:
    """How many verdicts the champion's test images have seen; "" if nobody counted, or its manifest cannot be read."""
    try:
        manifest = registry.manifest(champion)
    except RegistryError:  # who was champion is known all the same; `verify` names the damage
        return ""
    images, labels = manifest.fact("data", "test"), manifest.fact("data", "test_labels")
    if not (isinstance(images, str) and isinstance(labels, str)):
        return ""
    seen = Looks(open_store(store), images, labels).count(published_look(manifest.facts, images, labels))
    if not seen:  # earlier versions did not count
        return ""
    return f"{count(seen, 'verdict')} on the test images of version {manifest.version}, whoever asked"


@_of_known_model
def page(options: argparse.Namespace) -> int:
    """`retrain page FILE`."""
    registry = _registry(options)
    lines = RunIndex(registry.store, registry.model).lines()
    if not lines:
        raise registry.nothing() or RegistryError(
            f"there is no run of {registry.model} in {options.settings.store}",
            "none has ended there",
            "See `retrain run`.",
        )
    store = registry.store
    base = f"{store.root.resolve().as_uri()}/" if isinstance(store, LocalStore) else ""
    try:
        options.file.write_bytes(render(registry.model, lines, base))
    except OSError as error:
        raise UsageError(f"cannot write {options.file}", str(error.strerror), "Give another file.") from error
    say(f"the page of {registry.model}, {count(len(lines.splitlines()), 'run')}: {options.file}")
    return 0


def _print_problems(what: str, problems: list[RegistryError]) -> list[RegistryError]:
    say(f"{what}: {f'{len(problems)} bad' if problems else 'intact'}")
    for problem in problems:
        print(f"retrain: {problem}", file=sys.stderr, flush=True)
    return problems


def _registry(options: argparse.Namespace) -> Registry:
    return Registry(open_store(options.settings.store), options.settings.model_name, check_model=model_file.check)


def _champion(registry: Registry) -> Pointer:
    pointer = registry.checked_champion()
    if pointer is None:
        nothing, waiting = registry.nothing(), registry.waiting()
        next_step = nothing.next_step if nothing else "See `retrain run`."
        if waiting:
            next_step = f"Version {max(waiting)} {waiting[max(waiting)]}: see `retrain approve`."
        raise UsageError(f"there is no champion of {registry.model}", "nothing was published yet", next_step)
    return pointer


def _version_row(manifest: Manifest) -> tuple[str, str]:
    accuracy = "unknown" if manifest.accuracy is None else f"{manifest.accuracy:.4f}"
    return f"{manifest.version:>4}  {moment(manifest.created)}  ", f"accuracy {accuracy}"


def _generation(pointer: Pointer) -> str:
    return f"generation {pointer.generation}"


def moment(when: datetime) -> str:
    """A moment in a row, in UTC."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M}"


VERSION: dict[str, Any] = {"type": positive, "metavar": "VERSION", "help": "the version's number"}


COMMANDS = [
    Command(versions, "list the published versions"),
    Command(champion, "show which version is the champion, since when and why"),
    Command(show, "show a version's report and files", {"version": VERSION, "--markdown": MARKDOWN}),
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
        approve,
        "make a version that waits for approval the champion; judged again if the champion has changed since",
        {
            "version": VERSION,
            "--reason": {"type": reason, "metavar": "TEXT", "help": "why, for the history"},
        },
    ),
    Command(
        decline,
        "decline a version that waits for approval; it stays stored",
        {
            "version": VERSION,
            "--reason": {"type": reason, "required": True, "metavar": "TEXT", "help": "why; it is recorded"},
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
            "--seeds": {
                "type": seeds,
                "default": REFERENCE_SEEDS,
                "metavar": "K",
                "help": "train its seeds up to this number, 1 to 100, by whose mean candidates are judged. "
                f"Default: {REFERENCE_SEEDS}",
            },
        },
        fields=["store", "model", "device", "train_on", *Data.model_fields],
    ),
    Command(unpin, "compare candidates with the champion alone again"),
    Command(
        history,
        "list who was champion when, and why",
        {"--plot": {"action": "store_true", "help": "also draw the accuracy of each version"}},
    ),
    Command(
        page,
        "write the page of the model, with its accuracy over versions and runs, as the store has it in index.html",
        {"file": {"type": Path, "metavar": "FILE", "help": "the file to write, which needs no other"}},
    ),
]
