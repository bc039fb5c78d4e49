"""How a command is declared. Used by the modules that have commands, and by `main`; imports none of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.settings import OF_ONE_RUN, Settings


class Command(NamedTuple):
    """One command. Its name is that of the function."""

    function: Callable[[argparse.Namespace], int]
    """Takes the parsed options, with the checked settings in `options.settings`, and returns the exit code."""
    text: str
    """What it does, for the list of commands."""
    arguments: Mapping[str, Mapping[str, Any]] = {}
    """Its own arguments, as `add_argument` takes them, by name or flag."""
    fields: Sequence[str] = ("store", "dataset")
    """The fields of `tasks.settings.Settings` that are options of it too."""
    description: str = ""
    """The first paragraph of its own help; `text` if empty."""


def positive(text: str) -> int:
    """The type of an argument that counts from 1."""
    return _number(text, 1, None)


def writers(text: str) -> int:
    """The type of a number of threads."""
    return _number(text, 1, 256)


def days(text: str) -> float:
    """The type of an age in days."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST:  # not a number is neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 0 to {LONGEST:,}")
    return value


def reason(text: str) -> str:
    """The type of a text that is kept and shown in lists: one line, and nothing that a terminal obeys."""
    if not text.strip():
        raise argparse.ArgumentTypeError("give a reason")
    if not text.strip().isprintable():
        raise argparse.ArgumentTypeError("give a reason in one line, without control characters")
    return text.strip()


def escaped(text: str) -> str:
    """A text from a store, where anybody may have written it, for one row of a list."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _number(text: str, least: int, most: int | None) -> int:
    bounds = f"{least} or more" if most is None else f"{least} to {most}"
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: {bounds}")
    return value


# The oldest age that --older-than takes, in days.
LONGEST = 36_500

# The settings and an option of `up` and `deploy`.
DEPLOYED = [name for name in Settings.model_fields if name not in OF_ONE_RUN]
OVERWRITE = {"action": "store_true", "help": "set what was changed on the server since the last deploy too"}
