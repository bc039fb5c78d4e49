"""Settings from the command line, the environment and `retrain.toml`; `retrain config` and `retrain init`.

An option comes before its `RETRAIN_*` variable, that before the file, and that before the data set's own value. A name
that means nothing is an error: somebody believes that it does something. Called by `main`; no Prefect.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from flows.cli.command import Command, nearest
from flows.cli.layout import columns, say
from tasks.errors import RetrainError, UsageError
from tasks.settings import (
    DEFAULTS,
    FOLLOWERS,
    KNOWN,
    OWN_GATE,
    SECTIONS,
    GateSettings,
    RecipeSettings,
    Settings,
    allow_http,
    gate_for,
    history_decides,
    longest_training,
    recipe_for,
    require_judgeable,
    require_plain,
)

FILE = Path("retrain.toml")

# RETRAIN_* variables that are no settings of a run.
OTHER_VARIABLES = (
    "ALLOW_HTTP",
    "CONFIG",
    "HISTORY_DECIDES",
    "HOME",
    "LONGEST_TRAINING",
    "NETWORK_PATH",
    "REVISION",
    "VERSION",
)

# The section of each setting, "" for those above all sections.
PLACES = dict.fromkeys(("model", "store", "device", "seeds", "approve", "notify"), "") | {
    name: section for section, kind in SECTIONS.items() for name in kind.model_fields
}


# The names of settings in earlier versions.
FORMER = {"dataset": "source"}


# What is said of a switch that is neither on nor off.
SWITCH = "it is a switch, true or false"

# Settings that may be paths.
PATHS = {"store", "source"}


class Given(NamedTuple):
    """A value that somebody has chosen, and where: `--epochs`, `RETRAIN_EPOCHS` or the file's name."""

    value: Any
    origin: str


class ModelSettings(NamedTuple):
    """The settings of one model, what of them was chosen, and the file that it has; None without one."""

    settings: Settings
    chosen: Mapping[str, Given]
    file: Path | None

    @property
    def name(self) -> str:
        """What a message calls it: its file, or its name without one."""
        return str(self.file or self.settings.model_name)

    def origin(self, setting: str) -> str:
        """Where the value of a setting was written: an option, a variable, or the file and its key."""
        return _place(setting, self.chosen[setting].origin) if setting in self.chosen else flag(setting)


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
        where = _place(name, origin) + ("" if _is_name(origin, name) else ":")
        why = first["msg"].removeprefix("Value error, ")
        expected = re.findall("'([^']*)'", first.get("ctx", {}).get("expected", ""))
        choices = KNOWN if name == "source" else expected
        hint = nearest(str(first["input"]), choices) or "See `retrain run --help`."
        shown = "" if name == "notify" else f" {value!r}"  # that of a webhook is a secret as a whole
        raise UsageError(f"cannot use {where}{shown}", f"{why[:1].lower()}{why[1:]}", hint) from error


def located(error: RetrainError, chosen: Mapping[str, Given]) -> RetrainError:
    """The error, with the place where the value that cannot be used was written; itself where no setting has it."""
    value = error.value if isinstance(error, UsageError) else None
    origins = [_place(name, origin) for name, (given, origin) in chosen.items() if value is not None and given == value]
    return UsageError(f"{error.what} ({' and '.join(origins)})", error.why, error.next_step) if origins else error


def _place(name: str, origin: str) -> str:
    return origin if _is_name(origin, name) else f"{_dotted(name)} of {origin}"


def require_deployable(models: Sequence[ModelSettings]) -> None:
    """Refuse what a server must not keep, what no run could use, and two files that would deploy one model.

    Raises:
        UsageError: The files, and what is wrong with them.
    """
    for model in models:
        require_plain(model.origin("mirror"), model.settings.mirror)
        require_plain(model.origin("source"), [model.settings.source])
        require_judgeable(model.settings)
    for number, second in enumerate(models):
        for first in models[:number]:
            files, name = f"cannot deploy {first.name} and {second.name} together", second.settings.model_name
            if first.settings.model_name == name:
                raise UsageError(files, f"both are the model {name}", "Give each a model of its own, and one file.")
            if first.settings.deployment_prefix == second.settings.deployment_prefix:
                raise UsageError(
                    files,
                    f"{first.settings.model_name} and {name} would both be retrain/scheduled, as none has another name "
                    "than its source",
                    f"Set model in one of them, such as {name}-weekly.",
                )


def find_networks(models: Sequence[ModelSettings]) -> None:
    """Let this process, and the workers that it starts, look for own networks beside the files of settings.

    Raises:
        UsageError: Two files have a module of the same name beside them, of which only one would be found.
    """
    folders: dict[Path, ModelSettings] = {}
    for model in models:
        if model.settings.network:
            folders.setdefault(model.file.resolve().parent if model.file else Path.cwd(), model)
    if not folders or os.environ.get("RETRAIN_NETWORK_PATH"):
        return
    modules: dict[str, ModelSettings] = {}
    for folder, model in folders.items():
        top = re.split("[.:]", model.settings.network)[0]
        beside = (folder / top).exists() or (folder / f"{top}.py").exists()
        if beside and (first := modules.setdefault(top, model)) is not model:
            raise UsageError(
                f"cannot use {first.name} and {model.name} together",
                f"each has a module {top} of its own beside it, and Python knows one of a name",
                "Rename one.",
            )
    os.environ["RETRAIN_NETWORK_PATH"] = os.pathsep.join(map(str, folders))


def config_files(options: argparse.Namespace) -> list[Path]:
    """The files that `--config` or RETRAIN_CONFIG names, or `retrain.toml` of this folder; none if there is none.

    Raises:
        UsageError: A named file does not exist; or several are named, for a command that takes one.
    """
    named = _named_files(options)
    for each in named:
        if not Path(each).exists():
            named_by = "--config" if options.config else "RETRAIN_CONFIG"
            raise UsageError(
                f"cannot read the settings in {each} ({named_by})", "there is no such file", "Name another file."
            )
    return [Path(each) for each in named] or ([FILE] if FILE.exists() else [])


def _named_files(options: argparse.Namespace) -> list[str]:
    """What `--config` names, or else RETRAIN_CONFIG."""
    named: list[str] = options.config or []
    if len(named) > 1 and not options.several:
        raise UsageError(
            f"cannot use {len(named)} files of settings (--config)",
            "each is one model, and only up and deploy take several",
            "Name one.",
        )
    return named or [each for each in [os.environ.get("RETRAIN_CONFIG")] if each]


def _is_name(origin: str, name: str) -> bool:
    """Whether a value came from the option or the variable of a setting, and not from a file."""
    return origin in {flag(name), *(variable(each) for each in (name, *FORMER) if FORMER.get(each, name) == name)}


def flag(name: str) -> str:
    """The option of a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"RETRAIN_{name.upper()}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    chosen = {variable(name): name for name in Settings.model_fields}
    chosen |= {variable(former): name for former, name in FORMER.items()}
    known = [*chosen, *map(variable, OTHER_VARIABLES)]
    found = {name: value for name, value in environment.items() if name.startswith("RETRAIN_") and value}
    for name in found:
        if name not in known:
            hint = _nearest(name, known, "RETRAIN_")
            raise UsageError(f"cannot use the variable {name}", "there is no such setting", hint)
    for read in (allow_http, history_decides, longest_training):
        read()  # a value that means nothing is an error now, and not in the middle of a run
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
        for key, value in values.items():
            name = FORMER.get(key, key)
            if PLACES.get(name) != section:
                raise _unknown(key, section, file)
            if isinstance(value, bool) != (Settings.model_fields[name].annotation is bool):  # Pydantic takes true for 1
                shown = str(value).lower() if isinstance(value, bool) else repr(value)
                why, hint = ("it is no switch", "Give a value.") if isinstance(value, bool) else (SWITCH, "Correct it.")
                raise UsageError(f"cannot use {_dotted(name)} of {file}: {shown}", why, hint)
            found[name] = Given(_from_folder(value, file.parent) if name in PATHS else value, str(file))
    return found


def _from_folder(address: object, folder: Path) -> object:
    """A path that starts at a folder, such as that of the file it stands in, as one that starts here."""
    is_path = isinstance(address, str) and "://" not in address and not address.startswith(("~", "/"))
    is_path = is_path and address not in KNOWN
    return str(folder / str(address)) if is_path and folder != Path() else address


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
    question = nearest(name.removeprefix(prefix), [each.removeprefix(prefix) for each in known])
    return question.replace("mean ", f"mean {prefix}") or "`retrain config` prints all there are."


def described(name: str) -> str:
    """The description of a setting with its bounds, for the help and the file."""
    text, bounds = Settings.model_fields[name].description or "", _bounds(name)
    first, dot, rest = text.partition(". ")
    return f"{first.rstrip('.')}, {bounds}.{dot[1:]}{rest}" if bounds else text


def _bounds(name: str) -> str:
    """The least and the greatest value that a setting takes: "1 to 1,000"; "" where it has none."""
    schema = _schema()[name]
    limits = schema.get("anyOf", [schema])[0]
    most = limits.get("maximum", limits.get("exclusiveMaximum", 0) - 1)
    if "exclusiveMinimum" in limits:
        return f"above {limits['exclusiveMinimum']:,} and at most {most:,}"
    return f"{limits['minimum']:,} to {most:,}" if "minimum" in limits else ""


@cache
def _schema() -> dict[str, Any]:
    return dict(Settings.model_json_schema()["properties"])


def _dotted(name: str) -> str:
    return f"{PLACES[name]}.{name}" if PLACES.get(name) else name


def config(options: argparse.Namespace) -> int:
    """`retrain config`."""
    settings: Settings = options.settings
    own = _own_values(settings)
    width = columns(sys.stdout)
    (model,) = options.models
    for section, names in _sections().items():
        print(f"\n[{section}]" if section else f"# {model.file or f'no {FILE} in this folder'}")
        for name in names:
            origin = model.chosen[name].origin if name in model.chosen else _default(name, settings, own)
            print(_aligned(name, own.get(name, getattr(settings, name)), origin, width))
    return 0


def _own_values(settings: Settings) -> dict[str, Any]:
    """Recipe and gate with the data set's own values; None for the accuracy that own data need and nobody has given."""
    recipe, gate = recipe_for(settings.source, settings.card(RecipeSettings)).model_dump(), settings.card(GateSettings)
    if settings.source in DEFAULTS or gate.min_accuracy is not None:
        return recipe | gate_for(settings.source, gate, settings.seeds).model_dump()
    return recipe | OWN_GATE.model_dump() | gate.model_dump(exclude_none=True) | {"min_accuracy": None}


def _sections() -> dict[str, list[str]]:
    return {section: [name for name in PLACES if PLACES[name] == section] for section in ("", *SECTIONS)}


def _aligned(name: str, value: object, origin: str, width: int) -> str:
    """A setting as the file has it, and its origin; on several lines where one is too narrow."""
    line = f"{name} = {_toml(value)}" if value is not None else f"# {name} is unset"
    if len(f"{line:<40} # {origin}") <= width:
        return f"{line:<40} # {origin}"
    if isinstance(value, tuple) and len(line) > width:
        line = "\n".join([f"{name} = [", *(f"    {_toml(each)}," for each in value), "]"])
    return f"{line}\n{'':<40} # {origin}"


def _default(name: str, settings: Settings, own: Mapping[str, object]) -> str:
    """Where the value of a setting comes from that nobody has chosen."""
    if name == "train_on":
        return "here for run, pool for deployments"
    if name not in own or name in ("seed", "network"):
        return "default"
    _, known = DEFAULTS.get(settings.source, (None, OWN_GATE))
    if name in FOLLOWERS and own[name] != getattr(known, name):
        return "follows min_accuracy"
    return f"own value of {settings.source}" if settings.source in DEFAULTS else "value for your own data"


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)  # TOML's strings and numbers are those of JSON


def init(options: argparse.Namespace) -> int:
    """`retrain init`."""
    require_plain("--mirror", options.settings.mirror)
    require_plain("--source", [options.settings.source])
    file = Path((_named_files(options) or [str(FILE)])[0])
    settings, found = options.settings, list[str]()
    if settings.source not in KNOWN and not file.exists():
        settings, found = _looked_into(settings)
    if file.parent != Path():  # where the file is read, its paths start there
        here = {name: _from_folder(getattr(settings, name), Path.cwd()) for name in settings.model_fields_set & PATHS}
        settings = settings.model_copy(update=here)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write("\n".join(_commented(settings, found)))
    except FileExistsError:
        raise UsageError(f"cannot write {file}", "it is there already", "Edit it, or name another --config.") from None
    except OSError as error:
        raise UsageError(f"cannot write {file}", str(error.strerror), "Name another --config.") from None
    say(f"wrote {file}: edit it, look at `retrain config`, and keep it under version control")
    return 0


def _looked_into(settings: Settings) -> tuple[Settings, list[str]]:
    """The settings with what the data propose where nothing was chosen, and what was found, line by line."""
    from flows.cli.data import described, guessing, listed, look_into, proposed, read_batches

    batches = read_batches(settings)
    found = look_into(settings, batches)
    lines = [f"{name:<10}{text}" for name, text in (*listed(batches), *described(found))]
    lines.append(f"{'guessing':<10}the most frequent class alone gives an accuracy of {guessing(found):.4f}")
    for line in lines:
        say(line)
    chosen = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**proposed(found, settings) | chosen), lines


def _commented(settings: Settings, found: Sequence[str]) -> Iterator[str]:
    """The lines of a file with every setting and its description; what was not chosen is commented out."""
    if found:
        yield "# What `retrain init` found in the data, and began with; min_accuracy is only better than guessing:"
        yield "# `retrain calibrate` proposes limits that fit."
        yield from (f"#   {line}" for line in found)
        yield ""
    yield "# Settings of retrain. An option comes before its RETRAIN_* variable, that before this file."
    values = settings.model_dump() | _own_values(settings)
    for section, names in _sections().items():
        yield f"\n[{section}]" if section else ""
        for name in names:
            yield from textwrap.wrap(described(name), 110, initial_indent="# ", subsequent_indent="# ")
            mark = "" if name in settings.model_fields_set else "#"
            yield f"{mark}{name} = {_toml(values[name] if values[name] is not None else EXAMPLES[name])}"
    yield ""


# What a commented-out line of a setting without a default shows.
EXAMPLES = {"notify": "slack-webhook/ops", "train_on": "pool", "min_accuracy": 0.9}
EXAMPLES |= {"keep_champions": 10, "keep_months": 24, "keep_runs_days": 180}

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
