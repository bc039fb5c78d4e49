"""The one interface to stored bytes: `ObjectStore`, with two real implementations, `s3` and `local`.

Keys are relative, `/`-separated, below the store's own prefix. Everything above this module (artifacts, cache,
registry) is written against it alone. It imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol


class Stored(NamedTuple):
    """An object's bytes and the tag that names exactly this content for `compare_and_swap`."""

    data: bytes
    etag: str


class Entry(NamedTuple):
    """One object of a listing."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Bytes under keys, with the two conditional writes that publishing needs.

    A conditional write of the bytes that are there already succeeds: over a network, one whose answer was lost and
    that is sent again cannot be told from it. So writers who must be told apart write different bytes.

    All methods raise `StoreError` where the store cannot be reached or refuses.
    """

    url: str

    def get(self, key: str) -> Stored:
        """Read an object. Raises `KeyMissing`."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing what is there. Atomic: a reader sees the old bytes or the new."""

    def put_once(self, key: str, data: bytes) -> None:
        """Create an object. Raises `KeyConflict` where one with other bytes exists."""

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        """Replace the object that has this tag. Raises `KeyConflict` where it is gone or has other bytes by now."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects whose key starts with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def address(self, key: str) -> str:
        """The object's address as a person would use it: a path, or an s3:// URL."""
