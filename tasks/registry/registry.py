"""The registry: immutable versions of one model, and which of them is the champion.

    models/<model>/versions/<n>/content-<identity>      put first: makes n this content's number
    models/<model>/versions/<n>/…                       the files
    models/<model>/versions/<n>/manifest.json           written last: without it there is no version for readers
    models/<model>/champion.json                        the pointer to the champion
    models/<model>/reference.json                       the pin: a version that candidates are compared with as well
    models/<model>/history/<generation>-v<n>-<id>.json  every pointer there ever was, by publish id

Readers go pointer → manifest → file and verify each hash, so they see the old champion or the complete new one. A
writer may be killed after any request: publishing the same content again completes what it began. Every JSON file
here carries the SHA-256 of what it says, so that none is believed with even one byte changed.
Who is the champion is decided in `tasks.registry.champion`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from tasks.errors import ChampionMoved, KeyConflict, KeyMissing, RegistryError, StoreError
from tasks.registry.champion import ANYONE, WITHDRAWAL, ChampionPointer
from tasks.registry.documents import File, Manifest, Pin, Pointer, damaged, encode, identity, now, read, sha256
from tasks.storage.objects import ObjectStore
from tasks.storage.probe import Capabilities, check
from tasks.storage.verified import fetch, require, write
from tasks.values import Receipt

PIN = "reference.json"

# Names that the registry writes itself.
OWN = re.compile(r"manifest\.json|content-[0-9a-f]{64}")


class Registry:
    """The versions of one model in a store.

    Args:
        store: Where they are kept.
        model: The model's name ("mnist").
        capabilities: What the store can do, where that was found out already; asked of it before the first write.
    """

    def __init__(self, store: ObjectStore, model: str, capabilities: Capabilities | None = None) -> None:
        self._store, self.model, self._capabilities = store, model, capabilities
        self._base = f"models/{model}"
        self._champion = ChampionPointer(store, self._base)

    def champion(self) -> Pointer | None:
        """Who is the champion, or None before the first publish. Raises RegistryError where that is damaged."""
        return self._champion.current()

    def history(self) -> list[Pointer]:
        """Every champion there was, oldest first. Raises RegistryError for an entry that is damaged."""
        return self._champion.history()

    def promoted(self) -> set[int]:
        """The numbers of all versions that were champion."""
        return self._champion.promoted()

    def versions(self) -> list[int]:
        """The numbers of all complete versions, oldest first."""
        return [number for number, names in self._listing().items() if "manifest.json" in names]

    def manifest(self, which: int | Pointer | Pin) -> Manifest:
        """What a version holds, by its number, as the champion, or as the pinned one.

        Raises RegistryError where there is no such version, it is damaged, or is not what the pointer or the pin names.
        """
        version = which if isinstance(which, int) else which.version
        key = self.key(_version(version, "manifest.json"))
        try:
            manifest, _ = read(self._store, Manifest, key)
        except KeyMissing:
            raise RegistryError(
                f"cannot read version {version} of {self.model}", "there is no such version", "See `retrain versions`."
            ) from None
        if manifest.version != version or (not isinstance(which, int) and manifest.identity != which.identity):
            raise damaged(self._store.address(key), "is another version's")
        return manifest

    def read(self, which: int | Pointer | Pin, path: str) -> bytes:
        """A file of a version, verified; `which` as for `manifest`.

        Raises:
            RegistryError: The version or the file is missing or altered.
        """
        manifest = self.manifest(which)
        for file in manifest.files:
            if file.path == path:
                return self.read_file(manifest.version, file)
        raise RegistryError(
            f"cannot read {path} of version {manifest.version}", "the manifest does not name it", "Check the name."
        )

    def read_file(self, version: int, file: File) -> bytes:
        """A file that a manifest names, verified. Raises RegistryError where it is missing or altered."""
        address = self._address(_version(version, file.path))
        try:
            data = fetch(self._store, self.key(_version(version, file.path)), file.sha256)
        except KeyMissing:
            raise damaged(address, "is missing") from None
        if sha256(data) != file.sha256:
            raise damaged(address, "was altered")
        return data

    def verify(self, which: int | Pointer | Pin) -> list[RegistryError]:
        """Read all of a version again and hash it: one error for each file that is not what was published."""
        try:
            manifest = self.manifest(which)
        except RegistryError as error:
            return [error]
        found = []
        for file in manifest.files:
            try:
                self.read_file(manifest.version, file)
            except RegistryError as error:
                found.append(error)
        return found

    def verify_champion(self) -> list[RegistryError]:
        """Read pointer, history and pin again: one error for each that is damaged, or names what is not there."""
        found = self._champion.verify()
        if not found and (champion := self.champion()):
            found = self.verify(champion)
        try:
            return [*found, *(self.verify(pin) if (pin := self.pinned()) else [])]
        except RegistryError as error:
            return [*found, error]

    def address(self, version: int, path: str) -> str:
        """Where a version's file lies, as a person would open it."""
        return self._address(_version(version, path))

    def key(self, path: str) -> str:
        """The store's key of a path of this model."""
        return f"{self._base}/{path}"

    def publish(
        self, files: Mapping[str, bytes], facts: Mapping[str, Any], reason: str, after: str | None = ANYONE
    ) -> Receipt:
        """Publish files as a new version and make it the champion.

        The same files again are no new version: an interrupted publish is completed, files that were damaged since are
        mended, and a version that was champion before is left as it is, so that a repeated run never undoes a rollback.

        Args:
            files: Every file by its path below the version.
            facts: Plain JSON: digests of data, code and packages, metrics, the decision.
            reason: Why the champion changes, for the history.
            after: The publish id of the champion that the decision was made against; None: there was none.

        Raises:
            ChampionMoved: The champion is another one by now. The version is withdrawn again.
            StoreError: The store refused or lost bytes. Nothing a reader sees has changed.
            ValueError: A file has a name that the registry uses itself.
        """
        if reserved := [path for path in files if OWN.fullmatch(path)]:
            raise ValueError(f"reserved file names: {reserved}")
        if after != ANYONE:  # most who lose a race have lost it by now, and leave no trace
            self._champion.require(after, None, self.capabilities)
        digests = {path: sha256(data) for path, data in files.items()}
        content = identity(digests)
        version, names = self._claim(content)
        for path, data in files.items():
            if path not in names or not self._holds(version, path, data):
                write(self._store, self.key(_version(version, path)), data)
        listed = tuple(File(path=path, size=len(files[path]), sha256=digests[path]) for path in sorted(files))
        manifest = Manifest(version=version, identity=content, created=now(), files=listed, facts=dict(facts))
        new = "manifest.json" not in names
        try:
            champion = self._promote(manifest, reason, after, new=new)
        except ChampionMoved:
            if new and version not in self.promoted():
                # Without it there is no version; `retrain gc` removes the rest. Its number stays taken.
                self._store.delete(self.key(_version(version, "manifest.json")))
            raise
        return self.receipt(version, champion, new=new)

    def _promote(self, manifest: Manifest, reason: str, after: str | None, *, new: bool) -> Pointer:
        """Seal a version whose files are there, and make it the champion."""
        if after != ANYONE:  # before anybody can see the version
            self._champion.require(after, manifest.version, self.capabilities)
        if new or not self._sealed(manifest.version, manifest.identity):
            self._seal(manifest)
        return self._champion.promote(manifest.version, manifest.identity, reason, self.capabilities, after=after)

    def rollback(self, version: int | None, reason: str) -> Pointer:
        """Make an earlier version the champion again, after verifying all of it; the new pointer.

        Args:
            version: Which one; None takes the champion before this one.
            reason: Why, for the history.

        Raises RegistryError where there is no such version or it is damaged.
        """
        if version is None:
            champion = self.champion()
            if champion is None or champion.previous is None:
                raise RegistryError(
                    f"cannot roll back {self.model}", "there was no champion before", "See `retrain history`."
                )
            version = champion.previous
        if problems := self.verify(version):
            raise problems[0]
        return self._champion.promote(version, self.manifest(version).identity, reason, self.capabilities, again=True)

    def pinned(self) -> Pin | None:
        """The version to compare with beside the champion. Raises RegistryError where the pin is damaged."""
        try:
            return read(self._store, Pin, self.key(PIN))[0]
        except KeyMissing:
            return None

    def pin(self, version: int, reason: str) -> Pin:
        """Pin a version, after verifying all of it, in place of any other.

        Raises RegistryError where there is no such version or it is damaged, or another pin was made meanwhile.
        """
        if problems := self.verify(version):
            raise problems[0]
        pin = Pin(version=version, identity=self.manifest(version).identity, moved=now(), reason=reason)
        try:
            self._put_pin(encode(pin))
        except KeyConflict as error:
            raise RegistryError(
                f"cannot pin version {version}", "another pin was made meanwhile", "See `retrain champion`, then again."
            ) from error
        return pin

    def unpin(self) -> None:
        """Compare candidates with the champion alone; a damaged pin goes too."""
        self._store.delete(self.key(PIN))

    def _put_pin(self, data: bytes) -> None:
        """On a condition where the store enforces it, and read back."""
        key = self.key(PIN)
        if self.capabilities.decides == "history":
            write(self._store, key, data)
            return
        try:
            etag = self._store.get(key).etag
        except KeyMissing:
            self._store.put_once(key, data)
        else:
            self._store.compare_and_swap(key, data, self.capabilities.tag(etag))
        require(self._store, key, data)

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do, asked of it once. Raises StoreError."""
        if self._capabilities is None:
            self._capabilities = check(self._store)
        return self._capabilities

    def receipt(self, version: int, champion: Pointer, *, new: bool) -> Receipt:
        """What there is to tell of a version."""
        return Receipt(
            model=self.model,
            version=version,
            new=new,
            champion=champion.version,
            decides=self.capabilities.decides,
            url=self._address(f"versions/{version}"),
        )

    def _listing(self) -> dict[int, set[str]]:
        """Every version number that anything lies under, in order, with the names there."""
        found: dict[int, set[str]] = {}
        for entry in self._store.list(self.key("versions/")):
            number, _, name = entry.key.removeprefix(self.key("versions/")).partition("/")
            if number.isdecimal():
                found.setdefault(int(number), set()).add(name)
        return dict(sorted(found.items()))

    def _claim(self, content: str) -> tuple[int, set[str]]:
        """The number of this content, with the names under it: the one it has, or else the next.

        Two workers with the same content take the same number and write the same bytes.
        """
        listed, marker = self._listing(), f"content-{content}"
        number = next((n for n in reversed(listed) if marker in listed[n]), max(listed, default=0) + 1)
        if "manifest.json" in listed.get(number, ()):
            return number, listed[number]
        while (names := self._take(number, marker)) is None:
            number += 1
        return number, names

    def _take(self, number: int, marker: str) -> set[str] | None:
        """Take a number, if no other content has it: the names under it, or None.

        A writer puts its marker, then lists, and has the number where it sees no other's. Of two writers at least one
        lists after both have put, so no two can have it; this needs no conditional write, on any server. Where both see
        each other, the first by name waits for the other to withdraw.
        """
        key = self.key(_version(number, marker))
        self._store.put(key, b"")
        for wait in WITHDRAWAL:
            names = self._names(number)
            markers = {name for name in names if name.startswith("content-")}
            if markers == {marker}:
                return names
            if marker != min(markers) or markers < names:  # the other is first, or has the number and writes files
                break
            time.sleep(wait)
        self._store.delete(key)
        return None

    def _names(self, number: int) -> set[str]:
        base = self.key(_version(number, ""))
        return {entry.key.removeprefix(base) for entry in self._store.list(base)}

    def _holds(self, version: int, path: str, data: bytes) -> bool:
        try:
            return fetch(self._store, self.key(_version(version, path)), sha256(data)) == data
        except KeyMissing:
            return False

    def _sealed(self, version: int, content: str) -> bool:
        try:
            return self.manifest(version).identity == content
        except RegistryError:
            return False

    def _seal(self, manifest: Manifest) -> None:
        """Write a manifest and read it back; another worker with the same content may write its own there too."""
        key = self.key(_version(manifest.version, "manifest.json"))
        self._store.put(key, encode(manifest))
        if not self._sealed(manifest.version, manifest.identity):
            raise StoreError(
                f"cannot trust {self._store.address(key)}", "it came back altered", "Check the store, then run again."
            )

    def _address(self, path: str) -> str:
        return self._store.address(self.key(path))


def _version(number: int, path: str) -> str:
    return f"versions/{number}/{path}"
