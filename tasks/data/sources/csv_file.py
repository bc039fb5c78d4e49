"""CSV with an image a line, as Kaggle has them: `label,pixel0,pixel1,…`, with that header or without.

`train.csv` and `test.csv` (`mnist_train.csv` too), or one file. The label is a number or a name; a pixel is a whole
number from 0 to 255. Images are square: rows from the top, in RGB the three values of a pixel side by side.
"""

from __future__ import annotations

import codecs
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.data.sources.interface import (
    AS_BATCHES,
    LARGEST_SIDE,
    MOST_BYTES,
    MOST_CLASSES,
    PIECE,
    Part,
    Parts,
    Progress,
    Tree,
    allocate,
    left_out,
    shown,
    unreadable,
)

NAME = "CSV"
FILES = "train.csv and test.csv, or one .csv file"

SPLIT = re.compile(r"(?:.*[-_/])?(train|test|val|valid|validation)\.csv", re.IGNORECASE | re.DOTALL)
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
QUOTED = re.compile(rb'"((?:[^"]|"")*)",(.*)', re.DOTALL)
LABELS = {b"label", b"labels", b"class", b"target", b"y"}
COMMA, ZERO = b",0"

LONGEST_LINE = 4 * 3 * LARGEST_SIDE**2 + 4096
BATCH = 1 << 20  # bytes parsed at once: their numbers take some 20 times as much


class _Lines(NamedTuple):
    """Lines of a file: the numbers, the labels, and the pixels as `1,2,3`."""

    numbers: list[int]
    labels: list[bytes]
    pixels: list[bytes]


def fits(names: Sequence[str]) -> bool:
    """See `Format`."""
    return any(name.lower().endswith(".csv") for name in names)


def read(tree: Tree, names: Sequence[str], progress: Progress) -> Parts:
    """See `Format`."""
    files = [name for name in names if name.lower().endswith(".csv")]
    splits: dict[str, str] = {}
    for name in files:
        if match := SPLIT.fullmatch(name):
            if (split := match[1].lower()) in splits:
                raise unreadable(tree.where, f"{shown(splits[split])} and {shown(name)} are both of the {split} split")
            splits[split] = name
    if len(files) == 1 and not splits:
        splits["train"] = files[0]
    if "train" not in splits:
        why = f"none of its {len(files)} .csv files is train.csv"
        raise unreadable(tree.where, why, f"Name one of them so.{AS_BATCHES}")
    left_out([name for split, name in splits.items() if split not in {"train", "test"}], tree.where)
    left_out([name for name in files if name not in splits.values()], tree.where, "neither train.csv nor test.csv")
    codes: dict[bytes, int] = {}
    train = _part(tree, splits["train"], codes, progress)
    test = _part(tree, splits["test"], codes, progress, train) if "test" in splits else None
    classes = tuple(_text(label, tree.where) for label in codes)
    if not all(map(INTEGER.fullmatch, classes)):
        return Parts(train, test, classes)
    numbers = np.array(list(map(int, classes)), np.int64)
    return Parts(train._replace(labels=numbers[train.labels]), test and test._replace(labels=numbers[test.labels]))


def _part(tree: Tree, name: str, codes: dict[bytes, int], progress: Progress, train: Part | None = None) -> Part:
    try:
        with tree.open(name, MOST_BYTES) as file:
            return _parse(file, name, codes, progress, train)
    except OSError as error:
        raise unreadable(name, error.strerror or type(error).__name__) from error


def _parse(file: BinaryIO, name: str, codes: dict[bytes, int], progress: Progress, train: Part | None) -> Part:
    size, start, columns = _measure(file, name)
    if train and columns - 1 != math.prod(train.images.shape[1:]):
        why = f"it has {columns:,} columns, and {train.where} has {math.prod(train.images.shape[1:]) + 1:,}"
        raise unreadable(name, why, "The test images need labels too; without a test file a split is made.")
    shape = _shape(columns - 1, name)
    # No more rows than there are lines, and than there are bytes for.
    file.seek(start)
    lines = 1 + sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE), b""))
    images = allocate((max(1, min(lines, size // (2 * (columns - 1)) + 1)), *shape), name)
    flat, labels, done = images.reshape(len(images), -1), np.empty(len(images), np.int64), 0
    file.seek(start)
    for batch in _batches(file, name, first=2 if start > 3 else 1):
        rows = slice(done, done + len(batch.labels))
        flat[rows] = _pixels(batch, columns, name)
        for label in batch.labels:
            codes.setdefault(label, len(codes))
        if len(codes) > MOST_CLASSES:
            raise unreadable(name, f"its first column has more than {MOST_CLASSES:,} different labels")
        labels[rows] = [codes[label] for label in batch.labels]
        done = rows.stop
        progress(name, file.tell(), size)
    if not done:
        raise unreadable(name, "it has no image")
    return Part(images[:done], labels[:done], name)


def _measure(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """The file's size, where its first image starts, and the number of columns."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    line = file.readline(LONGEST_LINE)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise unreadable(name, "it is UTF-16", "Save it as UTF-8.")
    mark = 3 if line.startswith(b"\xef\xbb\xbf") else 0  # the mark that some programs put before UTF-8
    cells = [cell.strip(b'"') for cell in line[mark:].strip().split(b",")]
    if len(cells) < 2:
        raise unreadable(name, "its first line has no commas", "Write each line as label,pixel,pixel,…")
    if cells[1].isdigit():
        return size, mark, len(cells)
    heads = [cell.strip().lower() for cell in cells]
    if heads[0] not in LABELS and (labels := [head for head in heads if head in LABELS]):
        why = f"the column {labels[0].decode()} is number {heads.index(labels[0]) + 1:,}"
        raise unreadable(name, why, "Put the labels first.")
    return size, file.tell(), len(cells)


def _shape(pixels: int, name: str) -> tuple[int, ...]:
    """A number of pixels is a square or three times one, never both: 3 has no whole root."""
    if (side := math.isqrt(pixels)) ** 2 == pixels:
        return side, side
    if pixels % 3 == 0 and (side := math.isqrt(pixels // 3)) ** 2 * 3 == pixels:
        return side, side, 3
    why = f"its {pixels:,} columns after the label are no square image, neither grey nor RGB"
    raise unreadable(name, why, "Images that are not square can be read from .npz, IDX, Parquet and pictures.")


def _batches(file: BinaryIO, name: str, first: int) -> Iterator[_Lines]:
    batch, size = _Lines([], [], []), 0
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), first):
        if len(line) == LONGEST_LINE:
            raise unreadable(name, f"line {number:,} has more than {LONGEST_LINE:,} bytes")
        if not (line := line.rstrip(b"\r\n")):
            continue
        label, _, pixels = line.partition(b",")
        if line.startswith(b'"'):
            if not (match := QUOTED.fullmatch(line)):
                raise unreadable(name, f"the label in line {number:,} has no second quotation mark")
            label, pixels = match[1].replace(b'""', b'"'), match[2]
        batch.numbers.append(number)
        batch.labels.append(label)
        batch.pixels.append(pixels)
        if (size := size + len(line)) > BATCH:
            yield batch
            batch, size = _Lines([], [], []), 0
    if batch.labels:
        yield batch


def _pixels(batch: _Lines, columns: int, name: str) -> NDArray[np.uint8]:
    """The pixels of some lines: uint8 (lines, columns - 1)."""
    for number, line in zip(batch.numbers, batch.pixels, strict=True):
        if (count := line.count(b",") + 2) != columns:
            raise unreadable(name, f"line {number:,} has {count:,} columns instead of {columns:,}")
    text = np.frombuffer(b",".join((*batch.pixels, b"")), np.uint8)
    ends = np.flatnonzero(text == COMMA)
    digits = np.diff(ends, prepend=-1) - 1
    values = text - np.uint8(ZERO)  # whatever is no digit becomes more than 9
    pixels = values[ends - 1].astype(np.uint16)
    pixels += np.where(digits > 1, values[ends - 2], 0) * np.uint16(10)
    pixels += np.where(digits > 2, values[ends - 3], 0) * np.uint16(100)
    wrong = (digits < 1) | (digits > 3) | (pixels > 255)
    wrong[np.searchsorted(ends, np.flatnonzero((values > 9) & (text != COMMA)))] = True
    if wrong.any():
        row, column = divmod(int(wrong.argmax()), columns - 1)
        cell = shown(batch.pixels[row].split(b",")[column][:20].decode("utf-8", "replace"))
        why = f"line {batch.numbers[row]:,}, column {column + 2:,} is '{cell}', not a whole number from 0 to 255"
        raise unreadable(name, why)
    return pixels.astype(np.uint8).reshape(-1, columns - 1)


def _text(label: bytes, where: str) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError:
        raise unreadable(where, f"the label {label[:20]!r} is not UTF-8") from None
