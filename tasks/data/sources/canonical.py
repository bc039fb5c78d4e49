"""The canonical form of labelled images: the same arrays and class names from whichever format.

Classes are sorted by name, as numbers where all are numbers; images by content. Called by `tasks.data.sources.read`,
and to join batches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from tasks.data.arrays import label_type
from tasks.data.content import Split, sort_by_content
from tasks.data.sources.interface import (
    LONGEST_NAME,
    Contents,
    Parts,
    check_classes,
    check_shape,
    shown,
    unreadable,
)

NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

# Control characters, line ends, halves of characters, and what changes the direction of the text after it.
UNPRINTABLE = {"Cc", "Zl", "Zp", "Cs"}
DIRECTIONS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def canonical(parts: Parts, where: str, form: str, whole: bool = True) -> Contents:
    """Bring what a format read into canonical form; the images are sorted in place.

    What is not `whole` is one batch of several: its classes are those that it has images of, be it one alone, and the
    numbers between them may be those of others.

    Raises:
        DataError: Splits that do not fit each other, names or a number of classes that cannot be used, or a class
            without a training image.
    """
    for part in parts.splits:
        check_shape(part.images.shape, part.where)
        if len(part.images) != len(part.labels):
            raise unreadable(part.where, f"{len(part.images):,} images have {len(part.labels):,} labels")
        if parts.train.images.shape[1:] != part.images.shape[1:]:
            sizes = f"{size(parts.train.images.shape[1:])} for training and {size(part.images.shape[1:])} for the test"
            raise unreadable(where, f"its images have {sizes}")
    if parts.names is None:
        parts = _named(parts, where, whole)
    names = [_usable(name, where) for name in parts.names or ()]
    for part in parts.splits:
        lowest, highest = int(part.labels.min()), int(part.labels.max())
        if lowest < 0 or highest >= len(names):
            why = f"label {lowest if lowest < 0 else highest} is none of the {len(names):,} classes that have names"
            raise unreadable(part.where, why)
    used = range(len(names)) if whole else {int(label) for part in parts.splits for label in np.unique(part.labels)}
    classes = ordered(names[label] for label in used)
    check_classes(classes, where, fewest=2 if whole else 1)
    place = {name: number for number, name in enumerate(classes)}
    new = np.array([place.get(name, 0) for name in names], label_type(len(classes)))
    train, *rest = (Split(part.images, new[part.labels]) for part in parts.splits)
    missing = np.flatnonzero(np.bincount(train.labels, minlength=len(classes)) == 0)
    if whole and len(missing):
        raise unreadable(parts.train.where, f"class {shown(classes[missing[0]])} has no training image")
    for split in (train, *rest):
        sort_by_content(*split)
    return Contents(train, rest[0] if rest else None, classes, form)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes, each once: sorted, as numbers where all are numbers."""
    once = set(names)
    return tuple(sorted(once, key=int if all(map(NUMBER.fullmatch, once)) else str))


def size(shape: Sequence[int]) -> str:
    """The size of an image of this shape, in words."""
    height, width, *channels = shape
    return f"{height} × {width} pixels{' in RGB' if channels else ''}"


def _named(parts: Parts, where: str, whole: bool) -> Parts:
    """The same with the labels' own digits as names. Of a whole source, none from 0 or 1 on may be missing."""
    for part in parts.splits:
        if int(part.labels.min()) < 0:
            raise unreadable(part.where, f"label {int(part.labels.min())} is below 0")
    numbers = np.unique(np.concatenate([np.unique(part.labels.astype(np.int64)) for part in parts.splits]))
    gaps = np.flatnonzero(np.diff(numbers) > 1)
    if whole and numbers[0] <= 1 and len(gaps):
        why = f"its labels go from {numbers[0]} to {numbers[-1]}, and none is {numbers[gaps[0]] + 1}"
        raise unreadable(where, why, "Number the classes without a gap, or give them names.")
    train, *rest = (part._replace(labels=np.searchsorted(numbers, part.labels)) for part in parts.splits)
    return Parts(train, rest[0] if rest else None, tuple(map(str, numbers.tolist())))


def _usable(name: str, where: str) -> str:
    """A class's name in Unicode's composed form: two systems write the same letters as different characters."""
    bad = [letter for letter in name if unicodedata.category(letter) in UNPRINTABLE or letter in DIRECTIONS]
    if bad:
        raise unreadable(where, f"the class {shown(name)} has the character U+{ord(bad[0]):04X} in its name")
    if not name.strip():
        raise unreadable(where, "a class has an empty name")
    if len(name) > LONGEST_NAME:
        why = f"the name of the class {shown(name[:20])}… has {len(name):,} characters"
        raise unreadable(where, f"{why}, and {LONGEST_NAME} can be used")
    return unicodedata.normalize("NFC", name)
