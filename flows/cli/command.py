"""How a command is declared. Used by the modules that have commands, and by `main`; imports none of them."""

from __future__ import annotations

import argparse
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


# The settings and an option of `up` and `deploy`.
DEPLOYED = [name for name in Settings.model_fields if name not in OF_ONE_RUN]
OVERWRITE = {"action": "store_true", "help": "set what was changed on the server since the last deploy too"}
