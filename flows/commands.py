"""What a command of the command line is made of. Called by the modules that declare commands, and by cli.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command: its name is the function's; the function returns the exit code."""

    function: Callable[[argparse.Namespace], int]
    text: str
    """What it does, for the help."""
    arguments: Mapping[str, Mapping[str, Any]] = {}
    """Its own, as `add_argument` takes them."""
    fields: Sequence[str] = ("store", "dataset")
    """The settings that are its options too."""
