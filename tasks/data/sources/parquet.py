"""Parquet with pictures and labels, as Hugging Face writes them. Needs the extra `parquet`.

`train-00000-of-00001.parquet` and `test-…`, `train/0000.parquet` and `test/…`, or one file. The column `image` (or
`img`) holds the bytes of a picture's file, alone or as the field `bytes`; the column `label` numbers or names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tasks.data.sources.interface import (
    AS_BATCHES,
    MOST_BYTES,
    MOST_CLASSES,
    PIECE,
    Part,
    Parts,
    Progress,
    Tree,
    left_out,
    shown,
    unreadable,
)
from tasks.data.sources.pictures import LARGEST, Pictures, in_rgb

if TYPE_CHECKING:
    from pyarrow import Schema

NAME = "Parquet"
FILES = "train-*.parquet and test-*.parquet, or one .parquet file"

SPLIT = re.compile(r"(?:.*/)?(train|test|val|valid|validation)(?:[-_.][^/]*)?(?:/[^/]*)?\.parquet", re.IGNORECASE)
IMAGES = ("image", "img")
ROWS = 256  # decoded at once


def fits(names: Sequence[str]) -> bool:
    """See `Format`."""
    return any(name.lower().endswith(".parquet") for name in names)


def read(tree: Tree, names: Sequence[str], progress: Progress) -> Parts:
    """See `Format`. Several files of a split are read in the order of their names."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        why = "the package pyarrow is not installed"
        raise unreadable(tree.where, why, "Install the extra `parquet`: pip install '.[parquet]'.") from error
    files = [name for name in names if name.lower().endswith(".parquet")]
    matches = {name: SPLIT.fullmatch(name) for name in files}
    splits = {name: match[1].lower() for name, match in matches.items() if match}
    if len(files) == 1 and not splits:
        splits = {files[0]: "train"}
    if unknown := [name for name in files if name not in splits]:
        raise unreadable(unknown[0], "its name tells neither train nor test", f"Rename the files: {FILES}.{AS_BATCHES}")
    left_out([name for name, split in splits.items() if split not in {"train", "test"}], tree.where)
    shards = {split: [name for name in files if splits[name] == split] for split in ("train", "test")}
    if not shards["train"]:
        raise unreadable(tree.where, "it has no .parquet file of the training split", f"Rename the files: {FILES}.")
    classes = _Classes()
    train = _part(tree, shards["train"], classes, progress)
    test = _part(tree, shards["test"], classes, progress) if shards["test"] else None
    if test and train.images.ndim != test.images.ndim:
        train, test = (part._replace(images=in_rgb(part.images)) for part in (train, test))
    return Parts(train, test, classes.names)


class _Classes:
    """The names of the classes: those that the files declare, or else the labels themselves where they are text."""

    def __init__(self) -> None:
        self._declared: tuple[tuple[str, ...] | None, bool] | None = None
        self._codes: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...] | None:
        declared, text = self._declared or (None, False)
        return tuple(self._codes) if text else declared

    def declare(self, names: tuple[str, ...] | None, text: bool, file: str) -> None:
        """Raises DataError if another file declares something else."""
        if self._declared not in {None, (names, text)}:
            raise unreadable(file, "its label column has other classes, or another type, than that of the first file")
        self._declared = (names, text)

    def number(self, label: int | str, file: str) -> int:
        """The label as an integer."""
        if isinstance(label, int):
            return label
        number = self._codes.setdefault(label, len(self._codes))
        if number >= MOST_CLASSES:
            raise unreadable(file, f"its column label has more than {MOST_CLASSES:,} different names")
        return number


def _part(tree: Tree, names: list[str], classes: _Classes, progress: Progress) -> Part:
    from pyarrow import ArrowException

    pictures, labels = Pictures(), [np.empty(0, np.int64)]
    for name in names:
        try:
            with tree.open(name, MOST_BYTES) as file:
                labels.append(_read(file, name, pictures, classes, progress))
        except (ArrowException, OSError, ValueError, TypeError) as error:
            why = f"it is no Parquet file that can be read ({type(error).__name__})"
            raise unreadable(name, why) from error
    if not pictures.done:
        raise unreadable(names[0], "it has no image")
    return Part(pictures.images, np.concatenate(labels), names[0])


def _read(file: BinaryIO, name: str, pictures: Pictures, classes: _Classes, progress: Progress) -> NDArray[np.int64]:
    """Add the pictures of one file; gives its labels."""
    import pyarrow.parquet

    # Buffered, so that a group of rows is not held whole.
    table = pyarrow.parquet.ParquetFile(file, buffer_size=PIECE, pre_buffer=False)
    image, nested = _columns(table.schema_arrow, name, classes)
    count, labels = table.metadata.num_rows, list[int]()
    pictures.expect(count, name)
    column = f"{image}.bytes" if nested else image
    for batch in table.iter_batches(ROWS, columns=[column, "label"], use_threads=False):
        for cell, label in zip(batch.column(image).to_pylist(), batch.column("label").to_pylist(), strict=True):
            row = f"row {len(labels):,} of {name}"
            data = cell["bytes"] if nested and cell else cell
            if data is None or label is None:
                raise unreadable(row, f"its {'image' if data is None else 'label'} is empty")
            if len(data) > LARGEST:
                raise unreadable(row, f"its image has {len(data):,} bytes, and {LARGEST:,} may be read")
            if len(labels) == count:
                raise unreadable(name, f"it has more than the {count:,} rows that its footer tells of")
            pictures.add(data, row)
            labels.append(classes.number(label, name))
        progress(name, len(labels), count)
    if len(labels) < count:
        raise unreadable(name, f"it has {len(labels):,} rows instead of {count:,}")
    return np.array(labels, np.int64)


def _columns(schema: Schema, name: str, classes: _Classes) -> tuple[str, bool]:
    """The column of the images, and whether their bytes are a field of it; declares the classes."""
    from pyarrow import types

    image = next((column for column in IMAGES if column in schema.names), None)
    if image is None or "label" not in schema.names:
        found = ", ".join(shown(column) for column in schema.names[:8]) or "none"
        raise unreadable(name, f"its columns are {found}, and image and label are needed", "Rename the columns.")
    form, label = schema.field(image).type, schema.field("label").type
    if nested := types.is_struct(form):
        form = form.field("bytes").type if form.get_field_index("bytes") >= 0 else form
    if not (types.is_binary(form) or types.is_large_binary(form)):
        raise unreadable(name, f"its column {image} holds no bytes of pictures", "Write the pictures into the file.")
    text = label.value_type if types.is_dictionary(label) else label
    if not (types.is_integer(label) or types.is_string(text) or types.is_large_string(text)):
        raise unreadable(name, f"its column label is {shown(str(label))} instead of whole numbers or names")
    classes.declare(_declared(schema, name), not types.is_integer(label), name)
    return image, nested


def _declared(schema: Schema, name: str) -> tuple[str, ...] | None:
    """The names of the classes in Hugging Face's description of the columns."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = described.get("info", {}).get("features", {}).get("label", {}).get("names")
    except (ValueError, AttributeError, RecursionError) as error:
        raise unreadable(name, "its description of the columns for Hugging Face is damaged") from error
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise unreadable(name, "its description for Hugging Face has no list of class names")
    return tuple(names)
