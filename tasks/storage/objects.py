"""The one interface to stored bytes: `ObjectStore`, with two implementations, `s3` and `local`.

Keys are relative to the store's prefix and `/`-separated. Artifacts, cache and registry use this interface only. It
imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol

from tasks.errors import ObjectTooLarge

# The most bytes of a document: JSON, or a report. A report with pictures has 0.1 MB; each epoch of a training adds 0.2
# kB, and 1,000 classes 8 MB. What is larger was not written here, and parsing JSON takes 25 times its bytes.
LARGEST_DOCUMENT = 16 << 20


class Stored(NamedTuple):
    """An object's bytes, and the ETag that identifies this content for `compare_and_swap`."""

    data: bytes
    etag: str


class Entry(NamedTuple):
    """One object of a listing: its key, its size in bytes, and when it was last written (with a time zone)."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Bytes under keys, with the two conditional writes that publishing needs.

    A conditional write of the bytes that are stored already succeeds: over a network it cannot be distinguished from a
    retry of a write whose answer was lost. So writers that compete must write different bytes.

    All methods raise `StoreError` if the store cannot be reached or refuses the request.
    """

    url: str

    def get(self, key: str, limit: int) -> Stored:
        """Read an object of at most `limit` bytes: its size, where that is known, else `LARGEST_DOCUMENT`.

        Raises `KeyMissing`, and `ObjectTooLarge` before a larger one is read.
        """

    def etag(self, key: str) -> str:
        """The ETag of an object of any size; not its bytes. Raises `KeyMissing`."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing what is there. Atomic: a reader sees the old bytes or the new."""

    def put_once(self, key: str, data: bytes) -> None:
        """Create an object. Raises `KeyConflict` if one with other bytes exists."""

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        """Replace the object that has this ETag. Raises `KeyConflict` if it was deleted or has other bytes."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects whose key starts with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Delete an object; a missing one is no error."""

    def address(self, key: str) -> str:
        """The object's address as a person would use it: a path, or an s3:// URL."""


def too_large(address: str, size: int | None, limit: int) -> ObjectTooLarge:
    """The error for an object of this size; None: what was sent is larger than what was announced."""
    why = f"more than the {limit:,} bytes that belong there were sent"
    if size is not None:
        why = f"it has {size:,} bytes, and at most {limit:,} belong there"
    return ObjectTooLarge(f"cannot read {address}", why, "Restore it from a backup of the store, or delete it.")
