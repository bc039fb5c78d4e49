"""The JSON files of a registry: manifests, pointers (the champion's, and those of the history), and the pin.

Each carries the SHA-256 of what it says, and is read back only as exactly the bytes that `encode` makes of it: with one
byte changed it is refused. Called by the registry alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar

from pydantic import AwareDatetime, Field, model_validator

from tasks.errors import RegistryError
from tasks.storage.objects import ObjectStore
from tasks.storage.probe import Decider
from tasks.storage.verified import READS
from tasks.values import Sha256, Value

T = TypeVar("T", bound=Value)

ENTRY = re.compile(r"(\d{8,})-v(\d+)-([0-9a-f]{32})\.json")

# How the entries of a history are ordered: generation, version, publish id. Two writers may have made one generation.
Rank = tuple[int, int, str]


class File(Value):
    """One file of a version: its path below the version, bytes, and SHA-256."""

    path: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*(/[^/\\.][^/\\]*)*$")]  # never out of its folder
    size: int
    sha256: Sha256


class Manifest(Value):
    """A complete version. `identity` names its content; `facts` tell what it was made of and how it was judged."""

    version: int
    identity: Sha256
    created: AwareDatetime
    files: tuple[File, ...]
    facts: dict[str, Any]

    @model_validator(mode="after")
    def _names_its_content(self) -> Self:
        if self.identity != identity({file.path: file.sha256 for file in self.files}):
            raise ValueError("its identity is not that of its files")
        return self


class Pointer(Value):
    """Which version is the champion, since when and why.

    `identity` is the content's, `generation` counts the moves, `publish_id` names this one, `previous` was the champion
    before, `decides` tells who has the last word: this pointer, or the newest entry of the history.
    """

    version: int
    identity: Sha256
    publish_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    generation: int
    previous: int | None
    moved: AwareDatetime
    reason: str
    decides: Decider

    @property
    def rank(self) -> Rank:
        """See `Rank`."""
        return self.generation, self.version, self.publish_id

    @property
    def entry(self) -> str:
        """The name of its entry in the history."""
        return f"{self.generation:08d}-v{self.version}-{self.publish_id}.json"


class Pin(Value):
    """The version that every candidate is compared with beside the champion, since when and why."""

    version: int
    identity: Sha256
    moved: AwareDatetime
    reason: str


def rank(entry: str) -> Rank | None:
    """The rank that an entry's name tells; None for a name that is no entry's."""
    match = ENTRY.fullmatch(entry)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def identity(digests: Mapping[str, str]) -> str:
    """What names a content: the SHA-256 of every file's path and SHA-256."""
    return sha256(_canonical(digests))


def encode(value: Value) -> bytes:
    """Canonical JSON with one field more, `sha256`: the SHA-256 of the same JSON without it."""
    plain = value.model_dump(mode="json")
    return _canonical(plain | {"sha256": sha256(_canonical(plain))})


def parse(kind: type[T], data: bytes, address: str) -> T:
    """The value of exactly these bytes. Raises RegistryError where they are not what `encode` makes of it."""
    try:
        plain = json.loads(data)
        value = kind.model_validate_json(_canonical({name: plain[name] for name in plain if name != "sha256"}))
        intact = encode(value) == data
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(address, f"is no {kind.__name__.lower()}") from error
    if not intact:
        raise damaged(address, "was altered")
    return value


def read(store: ObjectStore, kind: type[T], key: str) -> tuple[T, str]:
    """A value from the store with its ETag, asked for again where it came damaged: the network may have done that.

    Raises KeyMissing, StoreError, and RegistryError where it stays damaged.
    """
    for _ in range(READS - 1):
        with suppress(RegistryError):
            return _read(store, kind, key)
    return _read(store, kind, key)


def _read(store: ObjectStore, kind: type[T], key: str) -> tuple[T, str]:
    data, etag = store.get(key)
    return parse(kind, data, store.address(key)), etag


def damaged(address: str, how: str) -> RegistryError:
    """The error of a file that is not what it should be."""
    return RegistryError(
        f"cannot trust {address}", f"the file {how}", "Run `retrain verify`, then roll back to a version that is whole."
    )


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def now() -> datetime:
    """To the second, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def _canonical(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False).encode()
