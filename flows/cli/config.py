"""Settings from the command line, the environment and `retrain.toml`; `retrain config` and `retrain init`.

An option comes before its `RETRAIN_*` variable, that before the file, and that before the data set's own value. A name
that means nothing is an error: somebody believes that it does something. Called by `main`; no Prefect.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from flows.cli.command import Command
from tasks.errors import UsageError
from tasks.settings import DEFAULTS, SECTIONS, GateSettings, RecipeSettings, Settings, defaults_for

FILE = Path("retrain.toml")

# RETRAIN_* variables that are no settings of a run.
OTHER_VARIABLES = ("ALLOW_HTTP", "CONFIG", "HISTORY_DECIDES", "HOME", "LONGEST_TRAINING", "REVISION", "VERSION")

# The section of each setting, "" for those above all sections.
PLACES = dict.fromkeys(("store", "device", "seeds", "notify"), "") | {
    name: section for section, kind in SECTIONS.items() for name in kind.model_fields
}


class Given(NamedTuple):
    """A value that somebody has chosen, and where: `--epochs`, `RETRAIN_EPOCHS` or the file's name."""

    value: Any
    origin: str


def read_settings(options: argparse.Namespace, fields: Collection[str], file: Path | None) -> dict[str, Given]:
    """All that was chosen, by the name of the setting. A section [schedule] is only for commands with these fields.

    Raises:
        UsageError: The file cannot be read, or a key or a variable means nothing.
    """
    written = _from_file(file) if file else {}
    if "cron" not in fields:
        written = {name: given for name, given in written.items() if PLACES[name] != "schedule"}
    typed = {name: Given(value, flag(name)) for name in fields if (value := getattr(options, name, None)) is not None}
    return {**written, **_from_environment(os.environ), **typed}


def checked(chosen: Mapping[str, Given]) -> Settings:
    """The settings. Raises UsageError for a value that cannot be used, with its origin."""
    try:
        return Settings(**{name: given.value for name, given in chosen.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        value, origin = chosen[name]
        where = origin if origin in {flag(name), variable(name)} else f"{_dotted(name)} of {origin}:"
        why = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"cannot use {where} {value!r}", f"{why[:1].lower()}{why[1:]}", "See `retrain run --help`."
        ) from error


def config_file(options: argparse.Namespace) -> Path | None:
    """The file that `--config` or RETRAIN_CONFIG names, or `retrain.toml` of this folder; None if there is none.

    Raises:
        UsageError: The named file does not exist.
    """
    if named := options.config or os.environ.get("RETRAIN_CONFIG"):
        if not Path(named).exists():
            raise UsageError(f"cannot read the settings in {named}", "there is no such file", "Name another --config.")
        return Path(named)
    return FILE if FILE.exists() else None


def flag(name: str) -> str:
    """The option of a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"RETRAIN_{name.upper()}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    chosen = {variable(name): name for name in Settings.model_fields}
    known = [*chosen, *map(variable, OTHER_VARIABLES)]
    found = {name: value for name, value in environment.items() if name.startswith("RETRAIN_") and value}
    for name in found:
        if name not in known:
            hint = _nearest(name, known, "RETRAIN_")
            raise UsageError(f"cannot use the variable {name}", "there is no such setting", hint)
    return {chosen[name]: Given(value, name) for name, value in found.items() if name in chosen}


def _from_file(file: Path) -> dict[str, Given]:
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except (OSError, ValueError) as error:  # of TOML and of UTF-8 too
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read the settings in {file}", why, "Mend it, or name another --config.") from None
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    above = {key: value for key, value in content.items() if key not in sections}
    found: dict[str, Given] = {}
    for section, values in {"": above, **sections}.items():
        if section not in ("", *SECTIONS):
            raise _unknown(section, "", file)
        for name, value in values.items():
            if PLACES.get(name) != section:
                raise _unknown(name, section, file)
            if isinstance(value, bool):  # Pydantic would take true for 1
                raise UsageError(f"cannot use {_dotted(name)} of {file}: {value}", "it is no switch", "Give a value.")
            found[name] = Given(_from_folder(value, file) if name == "store" else value, str(file))
    return found


def _from_folder(store: object, file: Path) -> object:
    """A store's path as the file has it starts at the file's folder."""
    is_path = isinstance(store, str) and "://" not in store and not store.startswith(("~", "/"))
    return str(file.parent / str(store)) if is_path and file.parent != Path() else store


def _unknown(key: str, section: str, file: Path) -> UsageError:
    place = f" in [{section}]" if section else ""
    if key in SECTIONS:
        hint = f"It is a section: write [{key}] on a line of its own, and its settings below."
    elif key in PLACES:
        hint = f"It belongs in [{PLACES[key]}]." if PLACES[key] else "It belongs above all sections."
    else:
        hint = _nearest(key, [*PLACES, *SECTIONS])
    return UsageError(f"cannot use {key}{place} of {file}", "there is no such setting here", hint)


def _nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    close = get_close_matches(name.removeprefix(prefix), [each.removeprefix(prefix) for each in known], 1)
    return f"Did you mean {prefix}{close[0]}?" if close else "`retrain config` prints all there are."


def _dotted(name: str) -> str:
    return f"{PLACES[name]}.{name}" if PLACES.get(name) else name


def config(options: argparse.Namespace) -> int:
    """`retrain config`."""
    settings: Settings = options.settings
    dataset = settings.dataset
    recipe, gate = defaults_for(dataset, settings.card(RecipeSettings), settings.card(GateSettings))
    own = recipe.model_dump() | gate.model_dump()
    for section, names in _sections().items():
        print(f"\n[{section}]" if section else f"# {options.file or f'no {FILE} in this folder'}")
        for name in names:
            origin = options.chosen[name].origin if name in options.chosen else _default(name, settings, own)
            print(_aligned(name, own.get(name, getattr(settings, name)), origin))
    return 0


def _sections() -> dict[str, list[str]]:
    return {section: [name for name in PLACES if PLACES[name] == section] for section in ("", *SECTIONS)}


def _aligned(name: str, value: object, origin: str) -> str:
    line = f"{name} = {_toml(value)}" if value is not None else f"# {name} is unset"
    return f"{line:<44} # {origin}"


def _default(name: str, settings: Settings, own: Mapping[str, object]) -> str:
    """Where the value of a setting comes from that nobody has chosen."""
    if name == "train_on":
        return "here for `retrain run`, pool for deployments"
    if name not in own or name == "seed":
        return "default"
    follows = own[name] != getattr(DEFAULTS[settings.dataset][1], name, own[name])
    return "follows min_accuracy" if follows else f"own value of {settings.dataset}"


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # TOML's strings and numbers are those of JSON


def init(options: argparse.Namespace) -> int:
    """`retrain init`."""
    file = Path(options.config or os.environ.get("RETRAIN_CONFIG") or FILE)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write("\n".join(_commented(options.settings)))
    except FileExistsError:
        raise UsageError(f"cannot write {file}", "it is there already", "Edit it, or name another --config.") from None
    except OSError as error:
        raise UsageError(f"cannot write {file}", str(error.strerror), "Name another --config.") from None
    print(f"wrote {file}: edit it, look at `retrain config`, and keep it under version control")
    return 0


def _commented(settings: Settings) -> Iterator[str]:
    """The lines of a file with every setting and its description; what was not chosen is commented out."""
    yield "# Settings of retrain. An option comes before its RETRAIN_* variable, that before this file."
    recipe, gate = defaults_for(settings.dataset, settings.card(RecipeSettings), settings.card(GateSettings))
    values = settings.model_dump() | recipe.model_dump() | gate.model_dump()
    for section, names in _sections().items():
        yield f"\n[{section}]" if section else ""
        for name in names:
            yield from textwrap.wrap(
                Settings.model_fields[name].description or "", 110, initial_indent="# ", subsequent_indent="# "
            )
            mark = "" if name in settings.model_fields_set else "#"
            yield f"{mark}{name} = {_toml(values[name] if values[name] is not None else EXAMPLES[name])}"
    yield ""


# What a commented-out line of a setting without a default shows.
EXAMPLES = {"notify": "slack-webhook/ops", "train_on": "pool"}

COMMANDS = [
    Command(
        config,
        "print every setting, its value, and where that comes from",
        fields=list(PLACES),
        description="Print every setting as retrain.toml has it, with its origin: an option, a variable, the file, "
        "or the data set's own value.",
    ),
    Command(
        init,
        f"write a commented {FILE}",
        fields=list(PLACES),
        description=f"Write {FILE} (or --config) with every setting and its description; options given here are set, "
        "all others commented out.",
    ),
]
