"""The batches of a source that grows: which there are, what is in one, and all of them together.

The address of such a source ends in `/*`. Whatever lies in the folder before it is a batch: a folder, a file, or the
IDX files of one prefix. Called by the flow, by `flows.watch`, and by `retrain data`; imports no Prefect.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from tasks.address import Address
from tasks.data.content import Split, split_by_content
from tasks.data.sources import idx_files, read
from tasks.data.sources.canonical import canonical, ordered, size
from tasks.data.sources.interface import (
    AS_BATCHES,
    MOST_FILES,
    Contents,
    File,
    Part,
    Parts,
    Progress,
    left_out,
    shown,
    unreadable,
)
from tasks.data.sources.trees import HTTP, SINGLE, Bucket, Folder, open_listed
from tasks.errors import DataError, UsageError
from tasks.settings import BATCH_NAME, EACH

# What tools add to a name until the file is whole.
UPLOADS = (".tmp", ".part", ".partial", ".crdownload")

# A source with such names is no folder of batches, and its test images would be learned from.
SPLITS = {"train", "test", "val", "valid", "validation"}

KINDS = "a folder, a file that ends in .npz, .csv or .parquet, or the IDX files of one prefix"

# What lies in the folder of the batches by its name, a folder's with a slash at its end: its files, or why it has none.
Entries = dict[str, tuple[File, ...] | DataError]


class BatchTree:
    """The files of one batch as a `Tree`, named as in a source of its own."""

    def __init__(self, source: Folder | Bucket, entries: Entries) -> None:
        self._source, self._entries, name = source, entries, min(entries)
        self.where = f"{source.where}/{name.rstrip('/')}"
        self._folder = name if name.endswith("/") else ""

    @property
    def files(self) -> tuple[File, ...]:
        """See `Tree`. Raises DataError if they cannot be listed."""
        return tuple(file._replace(name=file.name.removeprefix(self._folder)) for file in _all(self._entries))

    def read(self, name: str, limit: int) -> bytes:
        """See `Tree`."""
        return self._source.read(f"{self._folder}{name}", limit)

    def open(self, name: str, limit: int) -> BinaryIO:
        """See `Tree`."""
        return self._source.open(f"{self._folder}{name}", limit)

    def seen(self) -> str:
        """The SHA-256 of names, sizes and identities of the files as they are listed now. Raises DataError."""
        return _seen({name: self._source.entry(name) for name in self._entries})


class BatchFiles(NamedTuple):
    """A batch of which nothing was read yet. `seen` changes with the names, sizes and identities of its files."""

    name: str
    tree: BatchTree
    seen: str


class BatchContents(NamedTuple):
    """One batch in canonical form by itself: a label indexes `classes`, those of which it has images.

    `train` or `test` is None where it would have no image.
    """

    train: Split | None
    test: Split | None
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    format: str


def batches_of(address: str) -> tuple[BatchFiles, ...]:
    """The batches at an address that ends in `/*`, sorted by name. Lists once, and reads none of them.

    A batch that cannot be listed, as one with a link in it, is among them; to read it raises its error. What is no
    batch by its name is left out, and the log says so; hidden files, unfinished uploads and folders without a file are
    left out silently.

    Raises:
        UsageError: Nothing can be listed there.
        DataError: There is no batch, two have one name, or the folder is a plain source.
        StoreError: The bucket cannot be listed.
    """
    folder, where = address.removesuffix(EACH), str(Address(address))
    if address.lower().startswith(HTTP):
        why = "over HTTP nothing can be listed, and so no batch is noticed"
        raise UsageError(f"cannot use the source {where!r}", why, "Put the batches into a folder or a bucket.", address)
    source = open_listed(folder)
    found, others = _by_batch(source, where)
    if not found:
        why = f"none of its {len(others):,} files, as {shown(min(others))}, is a batch" if others else "it has no batch"
        raise DataError(f"cannot read the source {shown(where)}", why, f"Put batches there: each is {KINDS}.")
    left_out([name for name in others if not _batch(name)], where, f"a batch is {KINDS}")
    misnamed = [name for name in others if _batch(name)]
    left_out(
        misnamed, where, "the name of a batch is at most 100 letters, digits, _, - and ., and starts with no - or ."
    )
    return tuple(
        BatchFiles(name, BatchTree(source, entries), _seen(entries)) for name, entries in sorted(found.items())
    )


def read_batch(files: BatchFiles, progress: Progress = lambda *_: None) -> BatchContents:
    """Read one batch, in any format of a source. Without a test split of its own, `split_by_content` makes one.

    Raises:
        DataError: A defect, with the names of batch and file; or its files change while they are read.
        StoreError: The bucket cannot be listed.
    """
    try:
        contents = read(files.tree, progress, whole=False)
        if files.tree.seen() != files.seen:
            why = "its files change while they are read"
            raise unreadable(
                files.tree.where, why, "Give a batch its name when all of it is there, then never change it."
            )
    except DataError as error:
        why = f"{error.what.removeprefix('cannot read ')}: {error.why}"
        next_step = error.next_step.removesuffix(AS_BATCHES)
        raise DataError(f"cannot read the batch {files.name}", why, next_step) from error
    train, test = (contents.train, contents.test) if contents.test else split_by_content(contents.train)
    return BatchContents(
        train if len(train.labels) else None,
        test if len(test.labels) else None,
        contents.train.images.shape[1:],
        contents.classes,
        contents.format,
    )


def join(parts: Mapping[str, BatchContents]) -> Contents:
    """All batches, by name, as one source; their order and their names make no difference. Takes the memory again.

    Raises:
        DataError: Images of two sizes, no test image, a class without a training image, or a number of classes that
            cannot be used.
    """
    if not parts:
        raise unreadable("the batches", "there is none")
    (first, pattern), *others = sorted(parts.items())
    for name, part in others:
        if part.shape != pattern.shape:
            sizes = f"{size(part.shape)}, and those of {first} have {size(pattern.shape)}"
            raise DataError(f"cannot use the batch {name}", f"its images have {sizes}", "Bring all to one size.")
    classes = ordered(name for part in parts.values() for name in part.classes)
    place = {name: label for label, name in enumerate(classes)}
    train, test = (_joined(parts, split, place) for split in ("train", "test"))
    return canonical(
        Parts(train, test, classes), "the batches", " and ".join(sorted({part.format for part in parts.values()}))
    )


def _by_batch(source: Folder | Bucket, where: str) -> tuple[dict[str, Entries], list[str]]:
    """What lies in the folder, by the name of its batch; and the names of what is no batch."""
    found: dict[str, Entries] = {}
    others, files = list[str](), 0
    for entry, inside in source.entries():
        if entry.rstrip("/").lower().endswith(UPLOADS):
            continue
        if not isinstance(inside, DataError):
            files += len(inside)
            if all(file.name.endswith("/") for file in inside):  # a folder of this machine without a file
                continue
        if files > MOST_FILES:
            raise DataError(
                f"cannot list {shown(where)}", f"it has more than {MOST_FILES:,} files", "Pack the batches."
            )
        name = _batch(entry)
        if not name and isinstance(inside, DataError):  # a link to a folder, which looks like a batch
            name = entry
        if name.lower() in SPLITS:
            why = f"{shown(entry)} is a split, and no batch"
            raise DataError(f"cannot read the source {shown(where)}", why, f"Give the address without {EACH}.")
        if re.fullmatch(BATCH_NAME, name):
            found.setdefault(name, {})[entry] = inside
        else:
            others.append(entry)
    for name, entries in found.items():
        if len(kinds := {_kind(entry): entry for entry in entries}) > 1:
            one, other, *_ = sorted(kinds.values())
            why = f"{shown(one)} and {shown(other)} are both called {name}"
            raise DataError(f"cannot read the source {shown(where)}", why, "Give each batch a name of its own.")
    return found, others


def _batch(entry: str) -> str:
    """The name of the batch that something in the folder belongs to by its name; "" for none."""
    if entry.endswith("/"):
        return entry[:-1]
    if match := idx_files.FILE.fullmatch(entry):
        return match["set"].rstrip("-_.")
    return entry.rpartition(".")[0] if entry.lower().endswith(SINGLE) else ""


def _kind(entry: str) -> str:
    """What the entries of one batch have in common: the prefix of IDX files, or the name of the only one."""
    match = idx_files.FILE.fullmatch(entry)
    return match["set"] if match else entry


def _all(entries: Entries) -> Iterator[File]:
    for inside in entries.values():
        if isinstance(inside, DataError):
            raise inside
        yield from inside


def _seen(entries: Entries) -> str:
    files = [str(each) if isinstance(each, DataError) else list(map(list, each)) for _, each in sorted(entries.items())]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _joined(parts: Mapping[str, BatchContents], split: str, place: Mapping[str, int]) -> Part:
    """One split of all batches; raises DataError if none has an image in it."""
    images, labels = [], []
    for part in parts.values():
        if each := getattr(part, split):
            images.append(each.images)
            labels.append(np.array([place[name] for name in part.classes], np.uint16)[each.labels])
    if not images:
        raise unreadable("the batches", f"no batch has a {'test' if split == 'test' else 'training'} image")
    return Part(np.concatenate(images), np.concatenate(labels), "the batches")
