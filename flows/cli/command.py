"""How a command is declared, and how its arguments are parsed: a mistake is one line, which names the nearest word.

Used by the modules that have commands, and by `main`; imports none of them.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, NoReturn

from tasks.address import hidden
from tasks.settings import NO_LINE, OF_ONE_RUN, Retention, Settings, is_line


class Command(NamedTuple):
    """One command. Its name is that of the function."""

    function: Callable[[argparse.Namespace], int]
    """Takes the parsed options, with the checked settings in `options.settings`, and returns the exit code."""
    text: str
    """What it does, for the list of commands."""
    arguments: Mapping[str, Mapping[str, Any]] = {}
    """Its own arguments, as `add_argument` takes them, by name or flag."""
    fields: Sequence[str] = ("store", "model", "source")
    """The fields of `tasks.settings.Settings` that are options of it too."""
    description: str = ""
    """The first paragraph of its own help; `text` if empty."""
    several: bool = False
    """Whether it takes files of several models: `options.models`. `options.settings` are those of the first one."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on standard error, without the usage; exit code 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See the base class; an argument that means nothing is an error of the command that it was given to."""
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers and words and words[0].startswith("-") and not self._is_option(words[0]):
            hint = nearest(words[0], self._option_string_actions)
            self.fail(f"there is no option {words[0]} before the command", hint or "Put options after the command.")
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            what = f"there is no option {word}" if word.startswith("-") else f"cannot use the argument {word!r}"
            self.fail(what, nearest(word, self._option_string_actions) if word.startswith("-") else "")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """End with one line. `message` is argparse's."""
        self.fail(re.sub("^argument (?=[^ ])", "cannot use ", message))

    def fail(self, what: str, hint: str = "") -> NoReturn:
        """End with what is wrong, and the hint, or else where the help is. `what` may repeat what was typed."""
        self.exit(2, f"retrain: {hidden(what)}. {hint or f'See `{self.prog} --help`.'}\n")

    def _is_option(self, word: str) -> bool:
        return any(option.startswith(word.partition("=")[0]) for option in self._option_string_actions)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        hint = nearest(str(value), action.choices)
        if isinstance(action, argparse._SubParsersAction):
            self.fail(f"there is no command {value!r}", hint)
        name = "/".join(action.option_strings) or action.metavar or action.dest
        self.fail(f"cannot use {name} {value!r}: it is none of {', '.join(map(str, action.choices))}", hint)


def nearest(word: str, known: Iterable[str]) -> str:
    """A question that names the known word which was probably meant; "" where none is near."""
    close = get_close_matches(word, list(known), 1, cutoff=0.7)
    return f"Did you mean {close[0]}?" if close else ""


def positive(text: str) -> int:
    """The type of an argument that counts from 1."""
    return _number(text, 1, None)


def seeds(text: str) -> int:
    """The type of a number of seeds."""
    return _number(text, 1, 100)


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
    """The type of a reason, which is kept and shown in lists."""
    if not is_line(text):
        raise argparse.ArgumentTypeError(f"give a reason in one line: {NO_LINE}")
    return text.strip()


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

# An option of the commands that render Markdown.
MARKDOWN = {"action": "store_true", "help": "print it as Markdown, for a file or a comment"}

# The settings and an option of `up` and `deploy`.
DEPLOYED = [name for name in Settings.model_fields if name not in {*OF_ONE_RUN, *Retention.model_fields}]
OVERWRITE = {"action": "store_true", "help": "set what was changed on the server since the last deploy too"}
