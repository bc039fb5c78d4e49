"""The one interface to stored bytes: `ObjectStore`, with two implementations, `s3` and `local`.

Keys are relative to the store's prefix and `/`-separated. Artifacts, cache and registry use this interface only. It
imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol


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

    def get(self, key: str) -> Stored:
        """Read an object. Raises `KeyMissing`."""

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
