"""Standard input, output and error as a command finds them: closed, full, or not UTF-8.

What they cannot take must not change the exit code of a run, which tells of the model. Called by `main` and `run`.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

NAMES = ("stdin", "stdout", "stderr")


def prepare() -> None:
    """Open closed streams on the null device, and escape characters that an encoding does not have.

    A closed one must not stay so: the next file or socket would get its number, and what is printed.
    """
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:  # the lowest free number is this one
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Print what a run ends with. A standard output that cannot take it is a warning.

    Raises:
        BrokenPipeError: The reader has closed it.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop(sys.stdout)
        tell(f"warning: cannot write standard output: {error.strerror}")


def tell(text: str) -> None:
    """One line on standard error, as far as that takes it."""
    with suppress(OSError):
        print(f"retrain: {text}", file=sys.stderr, flush=True)


def stdout_is_closed() -> bool:
    """Whether the reader of standard output has closed it, as `head` does."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)
    return bool(stdout.poll(0))  # an event mask of 0 reports only errors and hang-ups


def stdout_fails() -> bool:
    """Whether standard output takes nothing; if it does, it gets an empty line."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def settle() -> None:
    """Drop what a stream cannot take: Python would try again when it ends, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            drop(stream)


def drop(stream: TextIO) -> None:
    """Send a stream, and what it holds back, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
