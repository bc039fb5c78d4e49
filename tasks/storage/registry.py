"""The registry: immutable versions of one model, and the pointer that says which of them is the champion.

    models/<model>/versions/<n>/claim.json              taken first: makes n this content's number
    models/<model>/versions/<n>/content-<identity>      the same, told by its name, so that one listing finds it
    models/<model>/versions/<n>/…                       the files
    models/<model>/versions/<n>/manifest.json           written last: without it there is no version for readers
    models/<model>/champion.json                        the pointer, moved by compare-and-swap only
    models/<model>/history/<generation>-v<n>-<id>.json  every pointer there ever was, by publish id

Readers go pointer → manifest → file and verify each hash, so they see the old champion or the complete new one.
A writer may be killed after any request: publishing the same content again completes what it began. Every JSON file
here carries the SHA-256 of what it says, so that none is believed with even one byte changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, Field

from tasks.errors import KeyConflict, KeyMissing, RegistryError, StoreError
from tasks.storage.objects import ObjectStore, Stored
from tasks.storage.verified import fetch, require, write
from tasks.values import Receipt, Sha256, Value

T = TypeVar("T", bound=Value)

# How often a publish tries to move the pointer while others move it too.
MOVES = 20

# Names that the registry writes itself.
OWN = re.compile(r"claim\.json|manifest\.json|content-[0-9a-f]{64}")
MOVE = re.compile(r"(\d{8,})-v(\d+)-([0-9a-f]{32})\.json")


class Claim(Value):
    """Whose number it is: the content's identity, see `_identity`."""

    identity: Sha256


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
    """Which version is the champion, since when and why. `generation` counts the moves; `publish_id` names this one."""

    version: int
    manifest_sha256: Sha256
    publish_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
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
        champion = self.champion()
        return [
            self._manifest(number, champion) for number, names in self._listed().items() if "manifest.json" in names
        ]

    def manifest(self, version: int) -> Manifest:
        """What a version holds. Raises RegistryError where there is no such version or it is damaged."""
        return self._manifest(version, self.champion())

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
            ValueError: A file has a name that the registry uses itself.
        """
        if reserved := [path for path in files if OWN.fullmatch(path)]:
            raise ValueError(f"reserved file names: {reserved}")
        identity = _identity(files)
        version, complete = self._claim(identity)
        if not complete:
            complete = not self._complete(version, identity, files, facts)
        self._crown(version, reason)
        return self.receipt(version, new=not complete)

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

    def _claim(self, identity: str) -> tuple[int, bool]:
        """The number of this content, and whether its version is complete: the one it has, or else the next.

        Two workers with the same content take the same number and write the same bytes.
        """
        listed = self._listed()
        number = self._find(identity, listed)
        if number is None:
            number = self._take(identity, max(listed, default=0) + 1)
        names = listed.get(number, set())
        if f"content-{identity}" not in names:
            self._store.put_once(self._key(_version(number, f"content-{identity}")), b"")
        return number, "manifest.json" in names

    def _find(self, identity: str, listed: Mapping[int, set[str]]) -> int | None:
        """The version of this content, newest first; claims are read only where the writer was killed right after."""
        for number in sorted(listed, reverse=True):
            names = listed[number]
            if f"content-{identity}" in names:
                return number
            if not any(name.startswith("content-") for name in names) and self._claimed_by(number) == identity:
                return number
        return None

    def _take(self, identity: str, number: int) -> int:
        """The first number from this one on that nobody else has."""
        while True:
            try:
                self._store.put_once(self._key(_version(number, "claim.json")), _encode(Claim(identity=identity)))
            except KeyConflict:
                if self._claimed_by(number) != identity:
                    number += 1
                    continue
            return number

    def _claimed_by(self, number: int) -> str | None:
        """Whose number it is; None where the claim is gone, as when half a version was deleted."""
        path = _version(number, "claim.json")
        try:
            return _parse(Claim, self._store.get(self._key(path)).data, self._address(path)).identity
        except KeyMissing:
            return None

    def _complete(self, version: int, identity: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> bool:
        """Write all of a version, the manifest last. Returns whether this call made it complete."""
        for path, data in files.items():
            write(self._store, self._key(_version(version, path)), data)
        listed = tuple(File(path=path, size=len(data), sha256=_sha256(data)) for path, data in sorted(files.items()))
        manifest = Manifest(version=version, identity=identity, created=_now(), files=listed, facts=dict(facts))
        key, data = self._key(_version(version, "manifest.json")), _encode(manifest)
        try:
            self._store.put_once(key, data)
        except KeyConflict:  # another worker with the same content
            return False
        require(self._store, key, data)
        return True

    def _crown(self, version: int, reason: str) -> None:
        """Move the pointer to a version, if that is newer and was never champion before."""
        publish_id = uuid.uuid4().hex
        for _ in range(MOVES):
            stored = self._pointer()
            current = _parse(Pointer, stored.data, self._address("champion.json")) if stored else None
            past = self._past()
            if current:
                self._record(current, past)
                if version <= current.version or version in past.values():
                    return
            pointer = self._next_pointer(version, current, publish_id, reason)
            try:
                self._move(stored, pointer)
            except KeyConflict:
                continue
            self._record(pointer, past)
            return
        raise StoreError(
            f"cannot make version {version} the champion",
            f"{self._address('champion.json')} changed {MOVES} times meanwhile",
            "Run again: the version is complete and only the pointer has to move.",
        )

    def _next_pointer(self, version: int, current: Pointer | None, publish_id: str, reason: str) -> Pointer:
        return Pointer(
            version=version,
            manifest_sha256=_sha256(_encode(self._manifest(version, None))),
            publish_id=publish_id,
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

    def _record(self, pointer: Pointer, past: Mapping[str, int]) -> None:
        """Add a pointer to the history, if it is not there: the one who moved it may have been killed."""
        name = f"{pointer.generation:08d}-v{pointer.version}-{pointer.publish_id}.json"
        if name not in past:
            key, data = self._key(f"history/{name}"), _encode(pointer)
            self._store.put_once(key, data)
            require(self._store, key, data)

    def _past(self) -> dict[str, int]:
        """The history by its names alone, oldest first: which version became the champion with each move."""
        base = self._key("history/")
        names = sorted(entry.key.removeprefix(base) for entry in self._store.list(base))
        return {name: int(match[2]) for name in names if (match := MOVE.fullmatch(name))}

    def _pointer(self) -> Stored | None:
        try:
            return self._store.get(self._key("champion.json"))
        except KeyMissing:
            return None

    def _manifest(self, version: int, champion: Pointer | None) -> Manifest:
        data, address = self._manifest_bytes(version), self._address(_version(version, "manifest.json"))
        if champion and champion.version == version and champion.manifest_sha256 != _sha256(data):
            raise _damaged(address, "is not the one that the champion names")
        return _parse(Manifest, data, address)

    def _manifest_bytes(self, version: int) -> bytes:
        try:
            return self._store.get(self._key(_version(version, "manifest.json"))).data
        except KeyMissing:
            raise RegistryError(
                f"cannot read version {version} of {self.model}", "there is no such version", "See `retrain versions`."
            ) from None

    def _read(self, version: int, file: File) -> bytes:
        address = self._address(_version(version, file.path))
        try:
            data = fetch(self._store, self._key(_version(version, file.path)), file.sha256)
        except KeyMissing:
            raise _damaged(address, "is missing") from None
        if _sha256(data) != file.sha256:
            raise _damaged(address, "was altered")
        return data

    def _listed(self) -> dict[int, set[str]]:
        """Every version number that anything lies under, in order, with the names there."""
        found: dict[int, set[str]] = {}
        for entry in self._store.list(self._key("versions/")):
            number, _, name = entry.key.removeprefix(self._key("versions/")).partition("/")
            if number.isdecimal():
                found.setdefault(int(number), set()).add(name)
        return dict(sorted(found.items()))

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}"

    def _address(self, path: str) -> str:
        return self._store.address(self._key(path))


def _version(number: int, path: str) -> str:
    return f"versions/{number}/{path}"


def _identity(files: Mapping[str, bytes]) -> str:
    """What names a content: the SHA-256 of every file's name and SHA-256."""
    return _sha256(_canonical({path: _sha256(data) for path, data in files.items()}))


def _canonical(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False).encode()


def _encode(value: Value) -> bytes:
    """Canonical JSON with one field more, `sha256`: the SHA-256 of the same JSON without it."""
    plain = value.model_dump(mode="json")
    return _canonical(plain | {"sha256": _sha256(_canonical(plain))})


def _parse(kind: type[T], data: bytes, address: str) -> T:
    """The value of exactly these bytes. Raises RegistryError where they are not what `_encode` makes of it."""
    try:
        plain = json.loads(data)
        value = kind.model_validate_json(_canonical({name: plain[name] for name in plain if name != "sha256"}))
        intact = _encode(value) == data
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(address, f"is no {kind.__name__.lower()}") from error
    if not intact:
        raise _damaged(address, "was altered")
    return value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _damaged(address: str, how: str) -> RegistryError:
    return RegistryError(f"cannot trust {address}", f"the file {how}", "Publish again, or restore it from a backup.")
