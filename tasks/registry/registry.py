"""The registry: immutable versions of one model, and which of them is the champion.

    models/<model>/versions/<n>/content-<identity>      written first: takes the number n for this content
    models/<model>/versions/<n>/…                       the files
    models/<model>/versions/<n>/manifest.json           written last: without it there is no version for readers
    models/<model>/versions/<n>/retired-<id>.json       the tombstone of a version that is removed, or being removed
    models/<model>/champion.json                        the pointer to the champion
    models/<model>/reference.json                       the pin: another version that candidates are compared with
    models/<model>/approvals/<n>.json                   the request for a person's approval, and the answers
    models/<model>/history/<generation>-v<n>-<id>.json  a copy of every pointer
    models/<model>/history/claims/v<n>-<id>             while a rollback, an approval or a pin needs it

Readers go pointer → manifest → file and verify each hash, so they see the old champion or the complete new one. A
writer may be killed after any request: publishing the same content again completes the version. Every JSON file here
carries its own SHA-256, so that readers refuse it with even one byte changed. `tasks.registry.champion` decides which
version is the champion. Called by steps, gate and command line; may import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal

from tasks.errors import (
    ChampionMoved,
    KeyConflict,
    KeyMissing,
    ModelFileError,
    ObjectTooLarge,
    RegistryError,
    StoreError,
)
from tasks.registry.approvals import Answer, Approval, Approvals
from tasks.registry.champion import ANY_CHAMPION, CLAIMS, WITHDRAWAL_WAITS, ChampionPointer
from tasks.registry.documents import (
    NUMBER,
    File,
    Manifest,
    Pin,
    Pointer,
    Retired,
    damaged,
    encode,
    identity,
    now,
    read,
    replace,
    sha256,
)
from tasks.settings import MODEL_NAME, Gate
from tasks.storage.objects import ObjectStore
from tasks.storage.probe import Capabilities, check
from tasks.storage.verified import fetch, holds, write
from tasks.values import Receipt

PIN_FILE = "reference.json"

# The file that every version has.
MODEL_FILE = "model.keras"

# Names of files that the registry writes itself.
RESERVED = re.compile(r"manifest\.json|content-[0-9a-f]{64}|retired-[0-9a-f]{32}\.json")

# What stays of a version that was removed: its number is never used again.
TOMBSTONE = "retired-"
STAYS = (TOMBSTONE, "content-")

# A claim to a version, in the folder of the claims to a generation.
CLAIM = re.compile(rf"v({NUMBER.pattern})-[0-9a-f]{{32}}")

# How many models an error names.
NAMED = 10


def model_names(store: ObjectStore) -> list[str]:
    """The names of the models of which a store has anything, sorted. Lists all that is below `models/`."""
    folders = {entry.key.split("/")[1] for entry in store.list("models/")}
    return sorted(name for name in folders if re.fullmatch(MODEL_NAME, name))


class Registry:
    """The versions of one model in a store.

    Args:
        store: The store that holds them.
        model: The model's name ("mnist").
        capabilities: The result of `tasks.storage.probe.check`, if known; otherwise checked before the first write.
        check_model: Raises ModelFileError for the bytes of a model file that nobody can load (`model_file.check`). Then
            a version with such a file counts as damaged.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: str,
        capabilities: Capabilities | None = None,
        check_model: Callable[[bytes], object] | None = None,
    ) -> None:
        self.store, self.model, self._capabilities, self._check_model = store, model, capabilities, check_model
        self._base = f"models/{model}"
        self._champion = ChampionPointer(store, self._base)
        self.approvals = Approvals(store, self._base)

    def champion(self) -> Pointer | None:
        """The champion, or None before the first publish. Raises RegistryError if its pointer or entry is damaged."""
        return self._champion.current()

    def checked_champion(self) -> Pointer | None:
        """The champion like `champion`, also compared with the history: lists it, so that it costs a request more.

        Raises:
            RegistryError: The pointer or its entry is damaged, or an older copy of the pointer was put back.
        """
        return self._champion.checked()

    def history(self) -> list[Pointer]:
        """The pointer of every champion, oldest first. Raises RegistryError if a history entry is damaged."""
        return self._champion.history()

    def promoted(self) -> set[int]:
        """The numbers of all versions with an entry in the history."""
        return self._champion.promoted()

    def versions(self) -> list[int]:
        """The numbers of all complete versions, oldest first."""
        return [number for number, names in self._names_by_version().items() if "manifest.json" in names]

    def retired(self) -> dict[int, Retired]:
        """The tombstone of each version that was removed, by its number; one that is damaged counts for nothing."""
        gone = {number: names for number, names in self._names_by_version().items() if "manifest.json" not in names}
        found = {number: self._tombstone(number, names) for number, names in gone.items()}
        return {number: tombstone for number, tombstone in found.items() if tombstone}

    def tombstone(self, version: int) -> Retired | None:
        """The intact tombstone of a version that was removed, or is being removed; None if it has none."""
        return self._tombstone(version, self._names_under(version))

    def _tombstone(self, version: int, names: Collection[str]) -> Retired | None:
        for name in sorted(names):
            with suppress(RegistryError, KeyMissing):
                if name.startswith(TOMBSTONE):
                    found, _ = read(self.store, Retired, self.key(_version(version, name)))
                    return found if found.version == version else None
        return None

    def manifest(self, which: int | Pointer | Pin) -> Manifest:
        """The manifest of a version, given its number, the champion's pointer, or the pin.

        Raises:
            RegistryError: The version is missing or damaged, or its content is not what the pointer or the pin names.
        """
        version = which if isinstance(which, int) else which.version
        key = self.key(_version(version, "manifest.json"))
        try:
            manifest, _ = read(self.store, Manifest, key)
        except KeyMissing:
            gone = self.tombstone(version)
            why = f"it was retired on {gone.retired:%Y-%m-%d} under the retention policy" if gone else ""
            raise RegistryError(
                f"cannot read version {version} of {self.model}",
                why or "there is no such version",
                "See `retrain versions`.",
            ) from None
        if manifest.version != version or (not isinstance(which, int) and manifest.identity != which.identity):
            raise damaged(self.store.address(key), "is another version's")
        return manifest

    def read(self, which: int | Pointer | Pin, path: str) -> bytes:
        """A file's bytes, verified; `which` as for `manifest`.

        Raises:
            RegistryError: The version or the file is missing or altered.
        """
        manifest = self.manifest(which)
        return self.read_file(manifest.version, self.file(manifest, path))

    @staticmethod
    def file(manifest: Manifest, path: str) -> File:
        """The size and digest of a file. Raises RegistryError if the manifest does not name it."""
        for file in manifest.files:
            if file.path == path:
                return file
        raise RegistryError(
            f"cannot read {path} of version {manifest.version}", "the manifest does not name it", "Check the name."
        )

    def read_file(self, version: int, file: File) -> bytes:
        """A file that a manifest names, verified. Raises RegistryError if it is missing, altered, or no model."""
        try:
            data = fetch(self.store, self.key(_version(version, file.path)), file.sha256, file.size)
        except KeyMissing:
            raise damaged(self.address(version, file.path), "is missing") from None
        except ObjectTooLarge as error:
            raise damaged(self.address(version, file.path), f"was altered: {error.why}") from error
        self.check(version, file, data)
        return data

    def check(self, version: int, file: File, data: bytes) -> None:
        """Raise RegistryError unless these bytes are the file that a manifest names, and a model where it says so."""
        address = self.address(version, file.path)
        if sha256(data) != file.sha256:
            raise damaged(address, "was altered")
        if self._check_model and file.path == MODEL_FILE:
            try:
                self._check_model(data)
            except ModelFileError as error:
                raise RegistryError(f"cannot use {address}", error.why, error.next_step) from error

    def verify(self, which: int | Pointer | Pin) -> list[RegistryError]:
        """Read and check every file of a version: one error for each that is missing, altered, or no model."""
        try:
            manifest = self.manifest(which)
            self.file(manifest, MODEL_FILE)
        except RegistryError as error:
            return [error]
        errors = []
        for file in manifest.files:
            try:
                self.read_file(manifest.version, file)
            except RegistryError as error:
                errors.append(error)
        return errors

    def verify_champion(self) -> list[RegistryError]:
        """Read pointer, history and pin: one error for each that is damaged, missing, or names what is not there.

        A former champion that was retired may be gone; the champion and the pinned version may not.
        """
        pointers, errors = self._champion.verify()
        named: list[Pointer | Pin] = [*pointers]
        needed = {max(pointers, key=lambda pointer: pointer.rank).version} if pointers else set()
        try:
            if pin := self.pinned():
                named.append(pin)
                needed.add(pin.version)
        except RegistryError as error:
            errors.append(error)
        for number in self.approvals.numbers():
            try:
                self.approvals.read(number)
            except RegistryError as error:
                errors.append(error)
        versions = self.versions()
        for version, content in sorted({(each.version, each.identity) for each in named}):
            if version not in versions:
                gone = None if version in needed else self.tombstone(version)
                if gone and gone.identity == content:
                    continue
                errors.append(
                    RegistryError(
                        f"cannot read version {version} of {self.model}",
                        f"the history or the pin names it, and {self.address(version, 'manifest.json')} is gone",
                        "Restore the version from a backup of the store.",
                    )
                )
                continue
            with suppress(RegistryError):  # `verify` names a damaged manifest
                if self.manifest(version).identity != content:
                    errors.append(damaged(self.address(version, "manifest.json"), "is another version's"))
        return errors

    def generations(self) -> int:
        """How often the champion has changed."""
        return self._champion.generations()

    def nothing(self) -> RegistryError | None:
        """The error for a store that has nothing of this model; None where it has."""
        if self.versions() or self._champion.numbers():
            return None
        others = [name for name in model_names(self.store) if name != self.model]
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        return RegistryError(
            f"there is nothing of {self.model} in {self.store.url}",
            "no version, no champion and no history is stored there",
            f"It has {', '.join(others[:NAMED])}{more}: name one with --model."
            if others
            else "Check the store's address (--store) and the model's name (--model).",
        )

    def address(self, version: int, path: str) -> str:
        """The URL or path of a version's file."""
        return self._address(_version(version, path))

    def key(self, path: str) -> str:
        """The store's key of a path below this model."""
        return f"{self._base}/{path}"

    def publish(
        self, files: Mapping[str, bytes], facts: Mapping[str, Any], reason: str, after: str | None = ANY_CHAMPION
    ) -> Receipt:
        """Publish files as a new version and make it the champion.

        The same files again make no new version: this completes an interrupted publish and repairs damaged files. It
        leaves the champion alone if the version was champion before, so that a repeated run never undoes a rollback.
        Those of a version that was retired, or is being, are a new version.

        Args:
            files: The bytes of every file, by its path below the version.
            facts: Plain JSON: digests of data, code and packages, metrics, the decision.
            reason: Why the champion changes, for the history.
            after: The publish id of the champion that the candidate was compared with; None: there was none. The
                default replaces any champion.

        Raises:
            ChampionMoved: Another version is the champion. A new version's manifest is deleted again.
            RegistryError: The pointer or a history entry is damaged.
            StoreError: The store refused a request or lost bytes. The same publish again completes it.
            ValueError: A file has a name that the registry reserves.
        """
        content, versions = identity(_digests(files)), self._names_by_version()
        own = _number_of(content, versions)
        try:
            if after != ANY_CHAMPION:  # most writers that lose a race have lost it already, and so write nothing
                self._champion.require(after, own, self.capabilities)
            manifest, new = self._write_files(files, facts, versions)
            version = manifest.version
            champion = self._champion.promote(
                version,
                content,
                reason,
                self.capabilities,
                complete=lambda: self._complete(manifest, new=new),
                after=after,
            )
        except ChampionMoved:
            self._withdraw(content)
            raise
        new = new and champion.version == version
        if champion.version != version and _has_tombstone(self._names_under(version)):
            return self.publish(files, facts, reason, after)  # retired meanwhile: the next `gc` finishes that
        if not new and after != ANY_CHAMPION:  # an earlier try may have got this far and broken after it
            new = self._champion.has_followed(version, after)
        return self.receipt(version, champion, new=new)

    def propose(
        self, files: Mapping[str, bytes], facts: Mapping[str, Any], reason: str, after: str | None, run: str, gate: Gate
    ) -> Receipt:
        """Publish files as a new version that waits until a person approves it: see `tasks.registry.approvals`.

        Where a version with these weights waits already, or was declined, there is nothing to write.

        Args:
            files: As for `publish`.
            facts: As for `publish`; `weights_digest` identifies the weights.
            reason: Why the champion changes once it is approved, for the history.
            after: The publish id of the champion that it was compared with; None: there was none.
            run: The run that asks.
            gate: The limits that it passed.

        Raises:
            RegistryError: The pointer or a history entry is damaged.
            StoreError: The store refused a request or lost bytes. The same call again completes it.
            ValueError: A file has a name that the registry reserves.
        """
        champion, weights = self.champion(), str(facts["weights_digest"])
        for number, known in self.waiting().items():
            if known.weights == weights:
                return self.receipt(number, champion, new=False, approval="declined" if known.declined else "waits")
        manifest, new = self._write_files(files, facts, self._names_by_version())
        version = manifest.version
        if version in self._champion.numbers():  # a former champion stays a former one
            return self.receipt(version, champion, new=False)
        approval = Approval(
            version=version,
            identity=manifest.identity,
            weights=weights,
            run=run,
            after=after,
            gate=gate,
            reason=reason,
            asked=now(),
        )
        self.approvals.ask(approval, self.capabilities)
        self._complete(manifest, new=new)
        return self.receipt(version, champion, new=True, approval="waits")

    def waiting(self) -> dict[int, Approval]:
        """The approvals of the versions that were never champion, by number: those that wait or were declined.

        One that is damaged is left out; `verify_champion` names it.
        """
        found: dict[int, Approval] = {}
        if numbers := self.approvals.numbers():
            known = set(self.versions()) - self._champion.numbers()
            for number in known.intersection(numbers):
                with suppress(RegistryError):
                    if approval := self.approvals.read(number):
                        found[number] = approval
        return dict(sorted(found.items()))

    def requested(self, version: int) -> Approval:
        """The approval of a version that waits or was declined; the version is intact.

        Raises:
            RegistryError: It does not wait, it is or was the champion, or it is damaged.
        """
        if problems := self.verify(version):
            raise problems[0]
        if version in self._champion.numbers():
            raise RegistryError(
                f"cannot decide on version {version}",
                "it is the champion, or was",
                f"`retrain rollback` moves the champion, with --to {version} to this one.",
            )
        approval = self.approvals.read(version)
        if approval is None or approval.identity != self.manifest(version).identity:
            raise self.approvals.unknown(version)
        return approval

    def approve(self, version: int, answer: Answer, after: str | None) -> Pointer:
        """Make a version that waits the champion, and return its pointer.

        Args:
            version: Its number.
            answer: Who approves it, and why.
            after: The publish id of the champion that it was compared with; None: there was none.

        Raises:
            ChampionMoved: Another version is the champion. It has to be judged again.
            RegistryError: The version does not wait, is damaged, or another person decides at the same time.
            StoreError: The store refused a request.
        """
        with self._claimed(version):
            approval = self.requested(version)
            self._champion.require(after, version, self.capabilities)
            self.approvals.answer(version, answer, self.capabilities)
            by = f"approved by {answer.by}{f': {answer.reason}' if answer.reason else ''}"
            reason = f"{approval.reason}; {by}"
            return self._champion.promote(version, approval.identity, reason, self.capabilities, after=after)

    def decline(self, version: int, answer: Answer) -> Approval:
        """Decline a version that waits. Raises RegistryError and StoreError as `approve` does."""
        self.requested(version)
        declined = self.approvals.answer(version, answer, self.capabilities)
        self.requested(version)  # raises where it has become champion meanwhile
        return declined

    def _write_files(
        self, files: Mapping[str, bytes], facts: Mapping[str, Any], versions: dict[int, set[str]]
    ) -> tuple[Manifest, bool]:
        """Write files below the number of their content; its manifest, which is not written yet, and whether it is new.

        Raises ValueError for reserved names.
        """
        if reserved := [path for path in files if RESERVED.fullmatch(path)]:
            raise ValueError(f"reserved file names: {reserved}")
        digests = _digests(files)
        content = identity(digests)
        entries = tuple(File(path=path, size=len(files[path]), sha256=digests[path]) for path in sorted(files))
        version, names = self._claim_number(content, _number_of(content, versions), versions)
        for path, data in files.items():
            if path not in names or not self._is_stored(version, path, data):
                write(self.store, self.key(_version(version, path)), data)
        manifest = Manifest(version=version, identity=content, created=now(), files=entries, facts=dict(facts))
        return manifest, "manifest.json" not in names

    def _complete(self, manifest: Manifest, *, new: bool) -> None:
        """Make a version whose files are stored visible."""
        if new or not self._has_manifest(manifest.version, manifest.identity):
            self._write_manifest(manifest)

    def _withdraw(self, content: str) -> None:
        """Make a content invisible that has not become champion, also if an earlier try of this publish wrote it.

        Readers ignore a version without a manifest; `retrain gc` removes the rest. The number stays taken.
        """
        kept = self._champion.numbers().union(self.approvals.numbers())
        for number, names in self._names_by_version().items():
            if {f"content-{content}", "manifest.json"} <= names and number not in kept:
                self.store.delete(self.key(_version(number, "manifest.json")))

    def rollback(self, to: int | None, reason: str, only: int | None = None) -> Pointer:
        """Verify an earlier version, make it the champion again, and return the new pointer.

        Repeated, it undoes nothing and goes no further: where there is nothing to do, it returns the champion's pointer
        as it is. Without `to` it undoes a publish: the version that the champion replaced when it was published becomes
        champion, and a champion that is the result of a rollback stays, unless `only` names it. So each step leads to
        a version that was published earlier, and never to one that was rolled back from.

        Args:
            to: The version's number; None: the one before.
            reason: Why, for the history.
            only: Roll back only if this version is the champion.

        Raises:
            ChampionMoved: Another process moved the champion at the same time.
            RegistryError: The version is missing or damaged, or there is no version before.
            StoreError: The store refused a request.
        """
        champion: Pointer | None = None
        try:
            champion = self.checked_champion()
        except RegistryError:
            if to is None or only is not None:
                raise  # with a version, the rollback is the remedy for a pointer that is damaged
        if champion and only not in {None, champion.version}:
            return champion
        if champion and champion.version == to and self._champion.is_stored(champion):
            return champion
        target = to
        if target is None:
            first = self._champion.first_move(champion.version) if champion else None
            if champion and first and only is None and first.publish_id != champion.publish_id:
                return champion
            target = self._not_retired(first.previous if first else None)
            if target is None:
                raise RegistryError(
                    f"cannot roll back {self.model}", "there was no champion before", "See `retrain history`."
                )
        if approval := self.waiting().get(target):
            raise RegistryError(
                f"cannot roll back to version {target}",
                f"it was never champion: it {'was ' if approval.declined else ''}{approval}",
                f"`retrain approve {target}` makes it the champion.",
            )
        after = champion.publish_id if champion and (to is None or only is not None) else ANY_CHAMPION
        content = self.manifest(target).identity
        with self._claimed(target):
            if problems := self.verify(target):
                raise problems[0]
            return self._champion.promote(target, content, reason, self.capabilities, again=True, after=after)

    def _not_retired(self, target: int | None) -> int | None:
        """A version, or the nearest one that its first publish and those before it replaced, and that is there."""
        previous = {pointer.version: pointer.previous for pointer in reversed(self.history())}
        versions = self.versions()
        while target in previous and target not in versions and self.tombstone(target):
            target = previous.pop(target)
        return target

    def pinned(self) -> Pin | None:
        """The pin, or None. Raises RegistryError if it is damaged."""
        try:
            return read(self.store, Pin, self.key(PIN_FILE))[0]
        except KeyMissing:
            return None

    def pin(self, version: int, reason: str) -> Pin:
        """Verify a version and pin it, in place of any other.

        Raises:
            RegistryError: The version is missing or damaged, or another writer changed the pin at the same time.
            StoreError: The store refused a request.
        """
        key = self.key(PIN_FILE)
        pin = Pin(version=version, identity=self.manifest(version).identity, moved=now(), reason=reason)
        with self._claimed(version):
            if problems := self.verify(version):
                raise problems[0]
            try:
                replace(self.store, pin, key, self._etag(key), self.capabilities)
            except KeyConflict as error:
                raise RegistryError(
                    f"cannot pin version {version}",
                    "another writer changed the pin meanwhile",
                    "See `retrain champion`, then pin again.",
                ) from error
            return pin

    def unpin(self) -> None:
        """Delete the pin, also a damaged one: candidates are compared with the champion alone."""
        self.store.delete(self.key(PIN_FILE))

    def retire(self, version: int, outdated: Callable[[], Collection[int]]) -> bool:
        """Remove a version that nothing needs, but for what says so; False if it is needed by now.

        A rollback, an approval or a pin writes its claim, looks for a tombstone, moves pointer or pin, and deletes the
        claim. This writes a tombstone, then `outdated` reads the claims, and after them pointer, history and pin. If
        the claim was written after that, the other one sees the tombstone and gives up before anything has moved. If it
        was written before, this sees the claim, or, where it is deleted already, what has moved. So none has to live
        on: a claim that is left keeps the version, a tombstone that is left only keeps a rollback or a pin from it.
        Each has a name of its own, as two of these may be at work, and one must not take the other's tombstone back.

        Args:
            version: Its number.
            outdated: Reads anew which versions nothing needs, as `tasks.registry.retention.outdated`.

        Raises:
            RegistryError: The history cannot be read.
            StoreError: The store refused a request. The same again completes the removal.
        """
        try:
            manifest = self.manifest(version)
        except RegistryError:  # removed meanwhile; or damaged, and so kept
            return False
        tombstone = self.key(_version(version, f"{TOMBSTONE}{uuid.uuid4().hex}.json"))
        facts = manifest.model_dump(include={"version", "identity", "created"})
        write(self.store, tombstone, encode(Retired(**facts, accuracy=manifest.accuracy, retired=now())))
        if version not in outdated():
            self.store.delete(tombstone)
            return False
        self.store.delete(self.key(_version(version, "manifest.json")))
        for name in self._names_under(version):
            if not name.startswith(STAYS):
                self.store.delete(self.key(_version(version, name)))
        return True

    def claimed(self) -> set[int]:
        """The versions that a rollback, an approval or a pin needs at this moment, or needed when it was killed."""
        base = self.key(CLAIMS)
        claims = (CLAIM.fullmatch(entry.key.removeprefix(base)) for entry in self.store.list(base))
        return {int(claim[1]) for claim in claims if claim}

    @contextmanager
    def _claimed(self, version: int) -> Iterator[None]:
        """Keep `retire` from a version while it becomes champion or is pinned.

        A claim stays if a request failed: nobody knows whether the store still carries it out. `retrain gc` removes it.

        Raises:
            RegistryError: The version is being retired.
        """
        claim = self.key(f"{CLAIMS}v{version}-{uuid.uuid4().hex}")
        self.store.put(claim, b"")
        try:
            names = self._names_under(version)
            if "manifest.json" in names and _has_tombstone(names):
                raise RegistryError(
                    f"cannot use version {version} of {self.model}",
                    "`retrain gc` is removing it under the retention policy, or was killed while it did",
                    "Name another version, or run `retrain gc` with a policy that keeps it and --older-than 0.",
                )
            yield
        except RegistryError:
            self.store.delete(claim)
            raise
        with suppress(StoreError):
            self.store.delete(claim)

    def _etag(self, key: str) -> str | None:
        try:
            return self.store.etag(key)
        except KeyMissing:
            return None

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do, probed once. Raises StoreError."""
        if self._capabilities is None:
            self._capabilities = check(self.store)
        return self._capabilities

    def receipt(
        self, version: int, champion: Pointer | None, *, new: bool, approval: Literal["", "waits", "declined"] = ""
    ) -> Receipt:
        """The receipt of a publish of this version; without a champion, number 0 stands for it."""
        return Receipt(
            model=self.model,
            version=version,
            new=new,
            champion=champion.version if champion else 0,
            decides=self.capabilities.decides,
            url=self._address(f"versions/{version}"),
            approval=approval,
        )

    def _names_by_version(self) -> dict[int, set[str]]:
        """The file names of every version number, complete or not, by ascending number."""
        versions: dict[int, set[str]] = {}
        for entry in self.store.list(self.key("versions/")):
            number, _, name = entry.key.removeprefix(self.key("versions/")).partition("/")
            if NUMBER.fullmatch(number):
                versions.setdefault(int(number), set()).add(name)
        return dict(sorted(versions.items()))

    def _claim_number(self, content: str, own: int | None, versions: Mapping[int, set[str]]) -> tuple[int, set[str]]:
        """The number of this content, its own or else the next free one, and the file names under it.

        Two workers with the same content take the same number and write the same bytes. A free number is above every
        number that anything here names, so that no number is used twice, whatever was deleted.
        """
        if own is not None and "manifest.json" in versions[own]:
            return own, versions[own]
        number = own if own is not None else self._highest_number(versions) + 1
        while (names := self._try_number(number, f"content-{content}")) is None:
            number = max(number, self._highest_number(versions)) + 1
        return number, names

    def _highest_number(self, versions: Collection[int]) -> int:
        """The highest number of a version, also of one that is deleted and only named by history, pointer or pin."""
        numbers = {0, *versions, *self._champion.numbers()}
        with suppress(RegistryError):  # a damaged pin names none
            if pin := self.pinned():
                numbers.add(pin.version)
        return max(numbers)

    def _try_number(self, number: int, marker: str) -> set[str] | None:
        """Take a number unless another content has it. Returns the file names under it, or None if it is taken.

        A writer puts its marker, then lists; it has the number if it sees no other marker. Of two writers at least one
        lists after both have put, so two never have the same number, and no server needs conditional writes for this.
        If both see each other, the marker that sorts first waits until the other is deleted.
        """
        key = self.key(_version(number, marker))
        self.store.put(key, b"")
        for wait in WITHDRAWAL_WAITS:
            names = self._names_under(number)
            markers = {name for name in names if name.startswith("content-")}
            if markers == {marker}:
                return names
            if marker != min(markers) or markers < names:  # the other sorts first, or writes its files already
                break
            time.sleep(wait)
        self.store.delete(key)
        return None

    def _names_under(self, number: int) -> set[str]:
        base = self.key(_version(number, ""))
        return {entry.key.removeprefix(base) for entry in self.store.list(base)}

    def _is_stored(self, version: int, path: str, data: bytes) -> bool:
        try:
            return holds(self.store, self.key(_version(version, path)), data)
        except KeyMissing:
            return False

    def _has_manifest(self, version: int, content: str) -> bool:
        try:
            return self.manifest(version).identity == content
        except RegistryError:
            return False

    def _write_manifest(self, manifest: Manifest) -> None:
        """Write a manifest and read it back: it, or that of another worker with the same content."""
        key = self.key(_version(manifest.version, "manifest.json"))
        self.store.put(key, encode(manifest))
        if not self._has_manifest(manifest.version, manifest.identity):
            raise StoreError(
                f"cannot trust {self.store.address(key)}", "it came back altered", "Check the store, then run again."
            )

    def _address(self, path: str) -> str:
        return self.store.address(self.key(path))


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: sha256(data) for path, data in files.items()}


def _number_of(content: str, versions: dict[int, set[str]]) -> int | None:
    """The last number that this content has taken, and that was not retired."""
    taken = (number for number, names in reversed(versions.items()) if f"content-{content}" in names)
    return next((number for number in taken if not _has_tombstone(versions[number])), None)


def _has_tombstone(names: Collection[str]) -> bool:
    return any(name.startswith(TOMBSTONE) for name in names)


def _version(number: int, path: str) -> str:
    return f"versions/{number}/{path}"
