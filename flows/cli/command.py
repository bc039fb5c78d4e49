"""What a command of the command line is made of. Called by the modules that declare commands, and by `main`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command: its name is the function's; the function returns the exit code."""

    function: Callable[[argparse.Namespace], int]
    text: str
    """What it does, for the list of commands."""
    arguments: Mapping[str, Mapping[str, Any]] = {}
    """Its own, as `add_argument` takes them."""
    fields: Sequence[str] = ("store", "dataset")
    """The settings that are its options too."""
    description: str = ""
    """What its own help says first; by default its text."""


# An option of `up` and `deploy`.
NOTIFY = {
    "default": "",
    "metavar": "BLOCK",
    "help": "a Prefect notification block to tell of runs that publish nothing",
}
