"""What every source of images has in common: where its bytes are, what a format makes of them, and its bounds.

All input is hostile. Each defect is one `DataError` with the name of the file, and sizes are checked before memory is
spent. Imported by the other modules of this room.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.data.content import Split
from tasks.errors import DataError

SMALLEST_SIDE, LARGEST_SIDE = 4, 512
MOST_CLASSES = 1_000
MOST_IMAGES = 10_000_000
MOST_BYTES = 64 * 10**9  # of pixels, and of one file
MOST_FILES = 1_000_000
LONGEST_NAME = 100  # of a class

LOG = logging.getLogger("retrain.download")

PIECE = 1 << 20  # bytes read at once

NEXT_STEP = "Correct the data, or give another source."

# What to do where a source holds several that are read apart.
AS_BATCHES = " If each is a batch of a source that grows, end its address in /*."

# (what, done, total): bytes or pictures; the total is None where it is not known.
Progress = Callable[[str, int, int | None], None]


class Contents(NamedTuple):
    """What a source holds, in canonical form: a label indexes `classes`, and `test` is None without a test split."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    format: str


class File(NamedTuple):
    """A file of a source: its path below the source, its size in bytes, and what changes when it is written again.

    Over HTTPS, where nothing is listed, the size is None and the identity is "". The name of an empty folder of this
    machine ends with a slash.
    """

    name: str
    size: int | None
    identity: str


class Tree(Protocol):
    """Where the files of a source are."""

    where: str
    """The address, as it may be shown."""

    @property
    def files(self) -> tuple[File, ...]:
        """All files by name, listed once. Raises DataError: a link, or too many."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole file. Raises DataError if it is not there or has more than `limit` bytes."""

    def open(self, name: str, limit: int) -> BinaryIO:
        """As `read`, to be read piece by piece; can be sought in."""


class Readable(Protocol):
    """Anything that bytes are read from, one after the other."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class Part(NamedTuple):
    """One split as a format reads it: images as in canonical form, labels any integers; `where` names the labels."""

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    where: str


class Parts(NamedTuple):
    """What a format reads. With `names` a label is an index into them; without, it is its own name."""

    train: Part
    test: Part | None
    names: tuple[str, ...] | None = None

    @property
    def splits(self) -> tuple[Part, ...]:
        """The one or two splits."""
        return (self.train, self.test) if self.test else (self.train,)


class Format(Protocol):
    """A file format: one module of this room."""

    NAME: str
    FILES: str  # what a source of this format holds, for an error

    def fits(self, names: Sequence[str]) -> bool:
        """Whether files of these names may be a source of this format."""

    def read(self, tree: Tree, names: Sequence[str], progress: Progress) -> Parts:
        """Read it. Raises DataError."""


def unreadable(name: str, why: str, next_step: str = NEXT_STEP) -> DataError:
    """The error for a file, or a part of one, that cannot be read."""
    return DataError(f"cannot read {shown(name)}", why, next_step)


def shown(name: str) -> str:
    """A name from the source as one short line that a terminal can print."""
    line = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in name)
    return line if len(line) <= 2 * LONGEST_NAME else f"{line[: 2 * LONGEST_NAME]}…"


def allocate(shape: tuple[int, ...], name: str) -> NDArray[np.uint8]:
    """An array for images of this shape, (n, height, width) or (n, height, width, 3), after checking the bounds."""
    check_shape(shape, name)
    try:
        return np.empty(shape, np.uint8)
    except MemoryError:
        size = math.prod(shape) / 1e9
        raise unreadable(name, f"this machine has no memory for its {size:,.1f} GB of pixels", NEXT_STEP) from None


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise DataError for images that are too small, too large, too many, or neither grey nor RGB."""
    if len(shape) not in {3, 4} or (len(shape) == 4 and shape[3] != 3):
        form = "(n, height, width) or (n, height, width, 3)"
        raise unreadable(name, f"its images have the shape {shape} instead of {form}")
    images, height, width = shape[:3]
    if not (SMALLEST_SIDE <= height <= LARGEST_SIDE and SMALLEST_SIDE <= width <= LARGEST_SIDE):
        sides = f"{SMALLEST_SIDE} to {LARGEST_SIDE} pixels a side"
        raise unreadable(name, f"its images have {height} × {width} pixels, and {sides} can be used", "Resize them.")
    if not 1 <= images <= MOST_IMAGES:
        raise unreadable(name, f"it has {images:,} images, and 1 to {MOST_IMAGES:,} can be used")
    if math.prod(shape) > MOST_BYTES:
        raise unreadable(
            name, f"its images have {math.prod(shape) / 1e9:,.0f} GB of pixels, and {MOST_BYTES / 1e9:.0f} can be used"
        )


def check_classes(classes: Sequence[str], where: str, fewest: int = 2) -> None:
    """Raise DataError for one class only, or too many."""
    if not fewest <= len(classes) <= MOST_CLASSES:
        found = f"one class only, {shown(classes[0])}" if len(classes) == 1 else f"{len(classes):,} classes"
        raise unreadable(where, f"it has {found}, and 2 to {MOST_CLASSES:,} can be used")


def fill(file: Readable, array: NDArray[Any], name: str, progress: Progress = lambda *_: None) -> None:
    """Read exactly the bytes of an array. Raises DataError if there are fewer."""
    content, done = array.reshape(-1).view(np.uint8).data, 0
    while done < len(content):
        piece = file.read(min(PIECE, len(content) - done))
        if not piece:
            raise unreadable(name, f"it has {done:,} bytes after its header instead of {len(content):,}")
        content[done : done + len(piece)] = piece
        done += len(piece)
        progress(name, done, len(content))


def left_out(names: Sequence[str], where: str, why: str = "a validation split, and a run holds out its own") -> None:
    """Log that files of a source are not read, and why."""
    if names:
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        files = f"{shown(', '.join(sorted(names)[:3]))}{more}"
        LOG.warning("%s: %s %s not read: %s", shown(where), files, "is" if len(names) == 1 else "are", why)


def without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of grey images (n, height, width, 1) without their channel; others as they are."""
    return shape[:3] if len(shape) == 4 and shape[3] == 1 else shape
