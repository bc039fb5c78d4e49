"""`retrain calibrate`: limits for the gate from several seeds, written into the file of settings as a change to review.

Called by `main`; imports Prefect only when it runs.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from flows.cli.command import Command
from flows.cli.config import FILE
from flows.cli.layout import say
from flows.cli.progress import show_progress
from flows.cli.run import on_server
from tasks.errors import UsageError
from tasks.gate.limits import FEWEST_SEEDS, Proposal
from tasks.learning.backend import require_backend
from tasks.settings import ONE_SEED, Data, RecipeSettings, Settings, model_name, recipe_for
from tasks.storage import open_store

SEEDS = 20

GATE = re.compile(r"^\[gate\][^\n]*\n", re.MULTILINE)
SECTION = re.compile(r"^\[", re.MULTILINE)


def calibrate(options: argparse.Namespace) -> int:
    """`retrain calibrate`."""
    settings: Settings = options.settings
    model_name(settings.model, settings.source)  # this and the next ones before a server starts
    open_store(settings.store)
    require_backend()
    show_progress()
    proposals = on_server(settings, lambda: _call_flow(settings, options.seeds))
    for prefix, text in _rows(proposals):
        say(text, prefix)
    if options.models[0].file is None:
        say(f"nothing is written, as there is no {FILE} in this folder: `retrain init` makes one")
    else:
        _write(options.models[0].file, {each.name: each.limit for each in proposals})
    return 0


def _call_flow(settings: Settings, seeds: int) -> list[Proposal]:
    from flows.calibrate import calibrate

    state = calibrate(
        settings.model_name,
        settings.card(Data),
        recipe_for(settings.source, settings.card(RecipeSettings)),
        seeds,
        settings.seeds == ONE_SEED,
        device=settings.device,
        train_on=settings.train_on or "here",
        store=settings.store,
        return_state=True,
    )
    return cast(list[Proposal], state.result())


def _rows(proposals: Sequence[Proposal]) -> Iterator[tuple[str, str]]:
    """The limits, as a line of the file and what it means."""
    for each in proposals:
        reached = f"the seeds reached {each.lowest:.4f} to {each.highest:.4f}"
        if each.name == "max_regression":
            reached = f"seeds lost at most {max(0.0, each.highest):.4f} to others"
        alarms = f"{100 * each.false_alarms:g} of 100 healthy retrainings fail it"
        yield f"{each.name} = {each.limit:g}".ljust(36), f"# {reached}; at most about {alarms}"


def _write(file: Path, limits: Mapping[str, float]) -> None:
    """Change the file, and show the change."""
    before = file.read_text("utf-8")
    after = with_limits(before, limits)
    if after == before:
        say(f"{file} has these limits already")
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(after, "utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"cannot write {file}", error.strerror or str(error), "Write the limits by hand.") from error
    old, new = before.splitlines(), after.splitlines()
    for line in difflib.unified_diff(old, new, f"{file}, before", str(file), lineterm="", n=0):
        print(line)
    say(f"changed {file}: review the change, and commit it")


def with_limits(text: str, limits: Mapping[str, float]) -> str:
    """The text of a file of settings with these limits below [gate]; everything else in it stays.

    A limit that is commented out, as `retrain init` writes it, stays in its place.

    Raises:
        UsageError: The file is laid out so that this cannot be done.
    """
    before = tomllib.loads(text)
    text = f"{text.rstrip()}\n"
    if not GATE.search(text):
        text += "\n[gate]\n"
    start = GATE.search(text).end()  # type: ignore[union-attr]
    following = SECTION.search(text, start)
    end = following.start() if following else len(text)
    gate = text[start:end]
    for name, limit in limits.items():
        line, present = f"{name} = {limit:g}\n", re.compile(rf"^#?[ \t]*{name}[ \t]*=[^\n]*\n", re.MULTILINE)
        gate = present.sub(line, gate, count=1) if present.search(gate) else line + gate
    changed = text[:start] + gate + text[end:]
    try:
        correct = tomllib.loads(changed) == before | {"gate": before.get("gate", {}) | limits}
    except tomllib.TOMLDecodeError:
        correct = False
    if not correct:
        lines = "; ".join(f"{name} = {limit:g}" for name, limit in limits.items())
        raise UsageError("cannot write the limits", "the file is laid out in a way of its own", f"Write them: {lines}")
    return changed


def seeds(text: str) -> int:
    """The type of --seeds."""
    value = int(text) if text.isdecimal() else 0
    if not FEWEST_SEEDS <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seeds: {FEWEST_SEEDS} to 100")
    return value


COMMANDS = [
    Command(
        calibrate,
        "propose the limits of the gate from several seeds, and write them into the file of settings",
        {
            "--seeds": {
                "type": seeds,
                "default": SEEDS,
                "metavar": "K",
                "help": f"how many seeds to train, {FEWEST_SEEDS} to 100. Default: {SEEDS}. Runs reuse the trainings",
            }
        },
        fields=[
            "store",
            "model",
            "device",
            "train_on",
            *Data.model_fields,
            *RecipeSettings.model_fields,
        ],
        description="Train several seeds of the recipe, see how far they differ, and propose limits that a healthy "
        "retraining rarely fails. Changes [gate] of the file of settings, and shows the change.",
    ),
]
