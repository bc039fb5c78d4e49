"""The registry: immutable versions of one model, and the pointer that says which of them is the champion.

    models/<model>/versions/<n>/claim.json      taken first: makes n this content's number
    models/<model>/versions/<n>/…               the files
    models/<model>/versions/<n>/manifest.json   written last: a version without it does not exist for readers
    models/<model>/champion.json                the pointer, moved by compare-and-swap only
    models/<model>/history/<generation>.json    every pointer there ever was

Readers go pointer → manifest → file and verify each hash, so they see the old champion or the complete new one.
A writer may be killed after any request: publishing the same content again completes what it began.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import AwareDatetime, ValidationError

from tasks.errors import KeyConflict, KeyMissing, RegistryError, StoreError
from tasks.storage.objects import ObjectStore, Stored
from tasks.values import Receipt, Sha256, Value

T = TypeVar("T", bound=Value)

# How often a publish tries to move the pointer while others move it too.
MOVES = 20


class File(Value):
    """One file of a version: its path below the version, bytes, and SHA-256."""

    path: str
    size: int
    sha256: Sha256


class Manifest(Value):
    """A complete version. `identity` names its content; `facts` tell what it was made of and how it was judged."""

    version: int
    identity: Sha256
    created: AwareDatetime
    files: tuple[File, ...]
    facts: dict[str, Any]


class Pointer(Value):
    """Which version is the champion, since when and why. `generation` counts the moves."""

    version: int
    manifest_sha256: Sha256
    generation: int
    previous: int | None
    moved: AwareDatetime
    reason: str


class Registry:
    """The versions of one model in a store.

    Args:
        store: Where they are kept.
        model: The model's name ("mnist").
    """

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store, self.model = store, model
        self._base = f"models/{model}"

    def champion(self) -> Pointer | None:
        """The pointer as it stands, or None before the first publish. Raises RegistryError where it is damaged."""
        stored = self._pointer()
        return _parse(Pointer, stored.data, self._address("champion.json")) if stored else None

    def versions(self) -> list[Manifest]:
        """All complete versions, oldest first."""
        return [self.manifest(number) for number in self._numbers("manifest.json")]

    def manifest(self, version: int) -> Manifest:
        """What a version holds. Raises RegistryError where there is no such version or it is damaged."""
        return _parse(Manifest, self._manifest_bytes(version), self._address(_version(version, "manifest.json")))

    def read(self, version: int, path: str) -> bytes:
        """A version's file, verified. Raises RegistryError where it is missing or altered."""
        for file in self.manifest(version).files:
            if file.path == path:
                return self._read(version, file)
        raise RegistryError(
            f"cannot read {path} of version {version}", "the manifest does not name it", "Check the name."
        )

    def address(self, version: int, path: str) -> str:
        """Where a version's file lies, as a person would open it."""
        return self._address(_version(version, path))

    def publish(self, files: Mapping[str, bytes], facts: Mapping[str, Any], reason: str) -> Receipt:
        """Publish files as a new version and make it the champion.

        The same files again are no new version: an interrupted publish is completed, and one that was champion
        before is left as it is, so that a repeated run never undoes a rollback.

        Args:
            files: Every file by its path below the version.
            facts: Plain JSON: digests of data, code and packages, metrics, the decision.
            reason: Why the champion changes, for the history.

        Raises:
            StoreError: The store refused or lost bytes. Nothing a reader sees has changed.
        """
        identity = _identity(files)
        version = self._find(identity) or self._claim(identity)
        new = self._complete(version, identity, files, facts)
        self._crown(version, reason)
        return self.receipt(version, new=new)

    def receipt(self, version: int, *, new: bool) -> Receipt:
        """What there is to tell of a version, with the champion as it stands."""
        champion = self.champion()
        return Receipt(
            model=self.model,
            version=version,
            new=new,
            champion=champion.version if champion else version,
            url=self._address(f"versions/{version}"),
        )

    def _find(self, identity: str) -> int | None:
        """The version that holds this content or was claimed for it; newest first, where a repeated run finds it."""
        claimed = self._numbers("claim.json")
        return next((number for number in reversed(claimed) if self._claimed_by(number) == identity), None)

    def _claim(self, identity: str) -> int:
        """Take the next number. Two workers with the same content take the same one and write the same bytes."""
        number = max(self._numbers("claim.json"), default=0) + 1
        claim = _encode({"identity": identity})
        while True:
            try:
                self._store.put_once(self._key(_version(number, "claim.json")), claim)
            except KeyConflict:
                if self._claimed_by(number) != identity:
                    number += 1
                    continue
            return number

    def _claimed_by(self, number: int) -> str:
        claim = json.loads(self._store.get(self._key(_version(number, "claim.json"))).data)
        return str(claim["identity"])

    def _complete(self, version: int, identity: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> bool:
        """Write what the version still lacks, the manifest last. Returns whether this call made it complete."""
        if version in self._numbers("manifest.json"):
            return False
        for path, data in files.items():
            self._put_verified(_version(version, path), data)
        listed = tuple(File(path=path, size=len(data), sha256=_sha256(data)) for path, data in sorted(files.items()))
        manifest = Manifest(version=version, identity=identity, created=_now(), files=listed, facts=dict(facts))
        try:
            self._store.put_once(self._key(_version(version, "manifest.json")), _encode(manifest))
        except KeyConflict:
            return False
        return True

    def _crown(self, version: int, reason: str) -> None:
        """Move the pointer to a version, if that is newer and was never champion before."""
        for _ in range(MOVES):
            stored = self._pointer()
            current = _parse(Pointer, stored.data, self._address("champion.json")) if stored else None
            if stored and current:
                self._record(current.generation, stored.data)
                if version <= current.version or version in self._past():
                    return
            pointer = self._next_pointer(version, current, reason)
            try:
                self._move(stored, pointer)
            except KeyConflict:
                continue
            self._record(pointer.generation, _encode(pointer))
            return
        raise StoreError(
            f"cannot make version {version} the champion",
            f"{self._address('champion.json')} changed {MOVES} times meanwhile",
            "Run again: the version is complete and only the pointer has to move.",
        )

    def _next_pointer(self, version: int, current: Pointer | None, reason: str) -> Pointer:
        return Pointer(
            version=version,
            manifest_sha256=_sha256(self._manifest_bytes(version)),
            generation=current.generation + 1 if current else 1,
            previous=current.version if current else None,
            moved=_now(),
            reason=reason,
        )

    def _move(self, stored: Stored | None, pointer: Pointer) -> None:
        key = self._key("champion.json")
        if stored:
            self._store.compare_and_swap(key, _encode(pointer), stored.etag)
        else:
            self._store.put_once(key, _encode(pointer))

    def _record(self, generation: int, pointer: bytes) -> None:
        """Add a pointer to the history. Done again before each move, as the mover before may have been killed."""
        self._store.put_once(self._key(f"history/{generation:08d}.json"), pointer)

    def _past(self) -> set[int]:
        """Every version that was ever the champion."""
        keys = [entry.key for entry in self._store.list(self._key("history/"))]
        return {_parse(Pointer, self._store.get(key).data, self._store.address(key)).version for key in keys}

    def _pointer(self) -> Stored | None:
        try:
            return self._store.get(self._key("champion.json"))
        except KeyMissing:
            return None

    def _manifest_bytes(self, version: int) -> bytes:
        try:
            data = self._store.get(self._key(_version(version, "manifest.json"))).data
        except KeyMissing:
            raise RegistryError(
                f"cannot read version {version} of {self.model}", "there is no such version", "See `retrain versions`."
            ) from None
        pointer = self.champion()
        if pointer and pointer.version == version and pointer.manifest_sha256 != _sha256(data):
            raise _damaged(self._address(_version(version, "manifest.json")), "is not the one that the champion names")
        return data

    def _read(self, version: int, file: File) -> bytes:
        address = self._address(_version(version, file.path))
        try:
            data = self._store.get(self._key(_version(version, file.path))).data
        except KeyMissing:
            raise _damaged(address, "is missing") from None
        if _sha256(data) != file.sha256:
            raise _damaged(address, "was altered")
        return data

    def _put_verified(self, path: str, data: bytes) -> None:
        self._store.put(self._key(path), data)
        if self._store.get(self._key(path)).data != data:
            raise StoreError(
                f"cannot write {self._address(path)}", "it came back altered", "Check the network and the store."
            )

    def _numbers(self, name: str) -> list[int]:
        """The version numbers that have a file of this name, in order."""
        return sorted(self._numbers_listed(name))

    def _numbers_listed(self, name: str) -> Iterator[int]:
        for entry in self._store.list(self._key("versions/")):
            number, _, path = entry.key.removeprefix(self._key("versions/")).partition("/")
            if path == name and number.isdecimal():
                yield int(number)

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}"

    def _address(self, path: str) -> str:
        return self._store.address(self._key(path))


def _version(number: int, path: str) -> str:
    return f"versions/{number}/{path}"


def _identity(files: Mapping[str, bytes]) -> str:
    return _sha256(_encode({path: _sha256(data) for path, data in files.items()}))


def _encode(value: Value | Mapping[str, Any]) -> bytes:
    plain = value.model_dump(mode="json") if isinstance(value, Value) else value
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False).encode()


def _parse(kind: type[T], data: bytes, address: str) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise _damaged(address, f"is no {kind.__name__.lower()} ({error.error_count()} errors)") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _damaged(address: str, how: str) -> RegistryError:
    return RegistryError(f"cannot trust {address}", f"the file {how}", "Publish again, or restore it from a backup.")
