"""IDX: four files of images and labels, with gzip or without, as MNIST and its relatives have them.

`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and `t10k-…` or `test-…`; with a dot before `idx` too, and with a
prefix (`emnist-letters-train-images-idx3-ubyte.gz`). Images have three dimensions, or a fourth of 1 or 3 channels.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.data.sources.interface import (
    AS_BATCHES,
    MOST_BYTES,
    MOST_IMAGES,
    Part,
    Parts,
    Progress,
    Readable,
    Tree,
    allocate,
    fill,
    shown,
    unreadable,
    without_channel,
)

NAME = "IDX"
FILES = "train-images-idx3-ubyte and train-labels-idx1-ubyte, with .gz or without"

FILE = re.compile(r"(?P<set>.*?)(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[134]-ubyte(\.gz)?", re.DOTALL)
UNSIGNED_BYTE = 0x08


def fits(names: Sequence[str]) -> bool:
    """See `Format`."""
    return any(map(FILE.fullmatch, names))


def read(tree: Tree, names: Sequence[str], progress: Progress) -> Parts:
    """See `Format`. Where a file is there twice, with gzip and without, the one without is read."""
    files: dict[str, dict[str, str]] = {}
    for name in sorted(names, reverse=True):  # so that NAME comes after NAME.gz
        if match := FILE.fullmatch(name):
            split = "train" if match["split"] == "train" else "test"
            files.setdefault(match["set"], {})[f"{split} {match['kind']}"] = name
    if len(files) > 1:
        sets = ", ".join(shown(name.rstrip("-") or "one without a prefix") for name in sorted(files)[:4])
        raise unreadable(
            tree.where, f"it has the files of {len(files)} data sets: {sets}", "Keep one of them." + AS_BATCHES
        )
    (found,) = files.values()
    train = _part(tree, found, "train", progress)
    has_test = any(kind.startswith("test") for kind in found)
    return Parts(train, _part(tree, found, "test", progress) if has_test else None)


def _part(tree: Tree, found: dict[str, str], split: str, progress: Progress) -> Part:
    for kind, other in (("images", "labels"), ("labels", "images")):
        if f"{split} {kind}" not in found:
            beside = f"beside {shown(found[f'{split} {other}'])}" if f"{split} {other}" in found else ""
            raise unreadable(tree.where, f"there is no IDX file of the {split} {kind} {beside}".rstrip())
    labels = _array(tree, found[f"{split} labels"], (1,), progress)
    return Part(_array(tree, found[f"{split} images"], (3, 4), progress), labels, found[f"{split} labels"])


def _array(tree: Tree, name: str, dimensions: tuple[int, ...], progress: Progress) -> NDArray[np.uint8]:
    try:
        with tree.open(name, MOST_BYTES) as file:
            if not name.endswith(".gz"):
                return _decode(file, name, dimensions, progress)
            with gzip.GzipFile(fileobj=file) as stream:
                return _decode(stream, name, dimensions, progress)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise unreadable(name, f"it is not a valid gzip file ({error})") from error
    except EOFError as error:
        raise unreadable(name, "the gzip file is cut off") from error
    except OSError as error:
        raise unreadable(name, error.strerror or type(error).__name__) from error


def _decode(file: Readable, name: str, dimensions: tuple[int, ...], progress: Progress) -> NDArray[np.uint8]:
    """Read header and content; the header decides how much is read, and nothing may follow."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[3] not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise unreadable(name, f"it starts with {magic.hex() or 'nothing'}, not as IDX of {wanted} dimensions")
    if magic[2] != UNSIGNED_BYTE:
        why = f"its numbers are of the type 0x{magic[2]:02x}, and only unsigned bytes (0x08) are read"
        raise unreadable(name, why, "Write more than 256 classes in another format: .npz, CSV or Parquet.")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise unreadable(name, "it ends inside its header")
    shape = without_channel(struct.unpack(f">{magic[3]}I", header))
    if len(shape) > 1:
        array = allocate(shape, name)
    elif shape[0] <= MOST_IMAGES:
        array = np.empty(shape, np.uint8)
    else:
        raise unreadable(name, f"it has {shape[0]:,} labels, and {MOST_IMAGES:,} images can be used")
    fill(file, array, name, progress)
    if file.read(1):
        raise unreadable(name, f"it has more than the {math.prod(shape):,} bytes that its header tells of")
    return array
