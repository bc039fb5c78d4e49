"""The JSON files of a registry: manifests, pointers (the champion's, and those of the history), pin, tombstones.

Each file carries the SHA-256 of its own content. `parse` accepts only the exact bytes that `encode` returns for the
value, so that it refuses a file with one byte changed. The registry writes and reads these files; the gate and the
command line use the types. May import neither Prefect nor TensorFlow.
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

from tasks.errors import ObjectTooLarge, RegistryError
from tasks.storage.objects import LARGEST_DOCUMENT, ObjectStore
from tasks.storage.probe import Capabilities, Decider
from tasks.storage.verified import READS, require
from tasks.values import LARGEST_FILE, Sha256, Value

T = TypeVar("T", bound=Value)

# In ASCII alone: other digits, or leading zeros of a version, are numbers too, and the names of other files.
NUMBER = re.compile("[1-9][0-9]*")
ENTRY_NAME = re.compile(rf"([0-9]{{8,}})-v({NUMBER.pattern})-([0-9a-f]{{32}})\.json")

# The path of a file, which cannot leave its folder, and which every file system can have.
PATH = r"^[^/\\.\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*(/[^/\\.\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*)*$"

# The order of history entries: generation, version, publish id. Two writers may have written one generation.
Rank = tuple[int, int, str]


class File(Value):
    """One file of a version: its path below the version, its size in bytes, and its SHA-256."""

    path: Annotated[str, Field(pattern=PATH)]
    size: Annotated[int, Field(ge=0, le=LARGEST_FILE)]
    sha256: Sha256


class Manifest(Value):
    """A complete version: `identity` is that of its content; `facts` holds its data, code, metrics and decision."""

    version: int
    identity: Sha256
    created: AwareDatetime
    files: tuple[File, ...]
    facts: dict[str, Any]

    @model_validator(mode="after")
    def _check_identity(self) -> Self:
        digests = {file.path: file.sha256 for file in self.files}
        if len(digests) < len(self.files) or self.identity != identity(digests):
            raise ValueError("the identity does not match the files")
        return self

    def fact(self, *path: str) -> object:
        """A fact below these names; None where another writer has recorded none, or something else."""
        found: object = self.facts
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    @property
    def accuracy(self) -> float | None:
        """The test accuracy it was published with; None where the manifest does not say."""
        found = self.fact("metrics", "accuracy")
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
            return None
        return float(found)


class Pointer(Value):
    """Which version is the champion, since when and why.

    `identity` is that of the version's content. `generation` counts the moves from 1, and `publish_id` identifies this
    move. `previous` is the number of the champion before. `decides` says what makes a version the champion: this
    pointer, or the newest entry of the history.
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
        """Its place in the order of history entries."""
        return self.generation, self.version, self.publish_id

    @property
    def entry(self) -> str:
        """The file name of its history entry."""
        return f"{self.generation:08d}-v{self.version}-{self.publish_id}.json"


class Pin(Value):
    """The version that the gate compares every candidate with, beside the champion; since when and why."""

    version: int
    identity: Sha256
    moved: AwareDatetime
    reason: str


class Retired(Value):
    """The tombstone of a version that the retention policy removed: what it was, and when it was removed."""

    version: int
    identity: Sha256
    created: AwareDatetime
    accuracy: float | None
    retired: AwareDatetime


def rank(entry: str) -> Rank | None:
    """The rank in the file name of a history entry; None for any other name."""
    match = ENTRY_NAME.fullmatch(entry)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def identity(digests: Mapping[str, str]) -> str:
    """The identity of a version's content: the SHA-256 of canonical JSON that maps each path to its SHA-256."""
    return sha256(_canonical(digests))


def encode(value: Value) -> bytes:
    """Canonical JSON with a field `sha256`: the SHA-256 of the same JSON without that field."""
    plain = value.model_dump(mode="json")
    return _canonical(plain | {"sha256": sha256(_canonical(plain))})


def parse(kind: type[T], data: bytes, address: str) -> T:
    """The value that `encode` turns into exactly these bytes.

    Raises:
        RegistryError: The bytes are no such file, or were altered. `address` names the file in the error.
    """
    try:
        plain = dict(json.loads(data))
        plain.pop("sha256", None)
        value = kind.model_validate_json(_canonical(plain))
        intact = encode(value) == data
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(address, f"is no {kind.__name__.lower()}") from error
    if not intact:
        raise damaged(address, "was altered")
    return value


def read(store: ObjectStore, kind: type[T], key: str) -> tuple[T, str]:
    """A value from the store, and its ETag. Reads damaged bytes again, as the network may have altered them.

    Raises:
        KeyMissing: There is no such file.
        RegistryError: The file is damaged in every read.
        StoreError: The store cannot be read.
    """
    for _ in range(READS - 1):
        with suppress(RegistryError):
            return _read(store, kind, key)
    return _read(store, kind, key)


def replace(store: ObjectStore, value: Value, key: str, etag: str | None, capabilities: Capabilities) -> None:
    """Write a value in place of that with this ETag, None for none, and read it back.

    Where the store enforces no conditions, in place of any other.

    Raises:
        KeyConflict: Another writer was first.
        StoreError: The store refused, or returns other bytes.
    """
    data = encode(value)
    if capabilities.decides == "history":
        store.put(key, data)
    elif etag is None:
        store.put_once(key, data)
    else:
        store.compare_and_swap(key, data, capabilities.tag(etag))
    require(store, key, data)


def _read(store: ObjectStore, kind: type[T], key: str) -> tuple[T, str]:
    try:
        data, etag = store.get(key, LARGEST_DOCUMENT)
    except ObjectTooLarge as error:
        raise damaged(store.address(key), f"is too large: {error.why}") from error
    return parse(kind, data, store.address(key)), etag


def damaged(address: str, how: str, remedy: int | None = None) -> RegistryError:
    """The error for a damaged file; `how` continues "the file …", `remedy` is the version to roll back to."""
    way_out = "Run `retrain verify`, then roll back to a version that is whole."
    if remedy:
        way_out = f"Run `retrain rollback --to {remedy}`: it writes the file anew."
    return RegistryError(f"cannot trust {address}", f"the file {how}", way_out)


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def now() -> datetime:
    """The time in UTC, without the fraction of the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _canonical(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False).encode()
