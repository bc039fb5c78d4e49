"""The champion pointer, its history, and the two ways to move it.

Where the store enforces conditional writes, the pointer decides: compare-and-swap moves it, and the history records
the move. Where the store does not (see `tasks.storage.probe`), the newest entry of the history decides, and the
pointer is repaired to it. That needs no condition, because every entry has a key of its own. Writers agree on who adds
the entry of a generation before one of them adds it, so that no reader sees an entry that is withdrawn afterwards. The
pointer says which of the two wrote it, so a reader needs no probe, and writers of both kinds lose nothing to each
other. Called by the registry alone; imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple, TypeVar

from tasks.errors import ChampionMoved, KeyConflict, KeyMissing, RegistryError, StoreError
from tasks.registry.documents import Pointer, Rank, damaged, encode, now, rank, read
from tasks.storage.objects import ObjectStore
from tasks.storage.probe import Capabilities
from tasks.storage.verified import write

LOG = logging.getLogger("retrain.registry")

T = TypeVar("T")

# How often a writer tries to move the pointer while other writers move it too, and a reader lists the history again.
MOVE_ATTEMPTS = 20

# Seconds between two looks while a writer waits for another one to withdraw its claim to the same number: 14 s in all.
WITHDRAWAL_WAITS = [0.05 * 1.3**count for count in range(17)]

# A claim to a generation that is older than another by this much belongs to a writer that was killed: it is removed. A
# live writer that comes half as late gives its own claim up.
STALE = timedelta(seconds=20)

# Seconds between two looks at a pointer that is behind its history, as it is while a writer moves it.
MOVE_WAITS = [0.1 * 1.5**count for count in range(6)]

# Where writers claim a generation, below the model's prefix; readers of the history ignore the names there.
CLAIMS = "history/claims/"

# In place of a champion's publish id: replace the champion, whichever it is.
ANY_CHAMPION = "anyone"


class State(NamedTuple):
    """The champion's pointer as stored (None if there is none) with its ETag, the ranks of the history, the newest."""

    pointer: Pointer | None
    etag: str | None
    ranks: dict[str, Rank]
    newest: Pointer | None

    @property
    def versions(self) -> set[int]:
        """The numbers of all versions that are or were champion."""
        pointers = [pointer.version for pointer in (self.pointer, self.newest) if pointer]
        return {number for _, number, _ in self.ranks.values()} | {*pointers}

    @property
    def is_behind(self) -> bool:
        """Whether the pointer decides and is older than the history: another process moves it, or it was replaced."""
        return bool(
            self.pointer and self.newest and self.pointer.decides == "pointer" and self.newest.rank > self.pointer.rank
        )


class ChampionPointer:
    """The champion pointer of one model, and its history.

    Args:
        store: The store that holds them.
        base: The prefix of the model's keys ("models/mnist").
    """

    def __init__(self, store: ObjectStore, base: str) -> None:
        self._store, self._base = store, base

    def current(self) -> Pointer | None:
        """The champion, or None before the first one. Raises RegistryError if its pointer or entry is damaged."""
        pointer, _ = self._pointer()
        if pointer and pointer.decides == "pointer":
            return pointer
        return self._state().newest

    def checked(self) -> Pointer | None:
        """The champion like `current`, compared with the history: a pointer that is older is no pointer to follow.

        Raises:
            RegistryError: The pointer is damaged, or somebody put an older copy in its place.
        """
        state = self._state()
        for wait in MOVE_WAITS:
            if not state.is_behind:
                return state.newest
            time.sleep(wait)
            state = self._state()
        if state.is_behind:
            raise self._behind(state)
        return state.newest

    def history(self) -> list[Pointer]:
        """Every champion so far, oldest first. Raises RegistryError for a damaged entry."""

        def read_all() -> list[Pointer]:
            pointers = {name: self._entry(name) for name in self._entry_ranks()}
            pointer, _ = self._pointer()
            if pointer:  # its writer may have been killed before it recorded the move
                pointers[pointer.entry] = pointer
            return sorted(pointers.values(), key=lambda entry: entry.rank)

        return self._again(read_all)

    def first_move(self, version: int) -> Pointer | None:
        """The pointer with which a version became champion for the first time; None if it never was."""
        return next((pointer for pointer in self.history() if pointer.version == version), None)

    def is_stored(self, pointer: Pointer) -> bool:
        """Whether the pointer file names this champion, and not only the history."""
        return self._pointer(ignore_damage=True)[0] == pointer

    def promoted(self) -> set[int]:
        """The numbers of all versions that were champion, read from the keys of the history alone."""
        return {number for _, number, _ in self._entry_ranks().values()}

    def numbers(self) -> set[int]:
        """The numbers of all versions that are or were champion; a damaged pointer names none."""
        pointer, _ = self._pointer(ignore_damage=True)
        return self.promoted() | ({pointer.version} if pointer else set())

    def has_followed(self, version: int, after: str | None) -> bool:
        """Whether a version became champion in place of the one with this publish id; None: as the first one."""
        pointer, _ = self._pointer(ignore_damage=True)
        ranks = {*self._entry_ranks().values(), *([pointer.rank] if pointer else [])}
        replaced = {generation for generation, _, publish_id in ranks if publish_id == after} if after else {0}
        return any((generation - 1) in replaced for generation, number, _ in ranks if number == version)

    def generations(self) -> int:
        """How many moves of the champion are known."""
        pointer, _ = self._pointer(ignore_damage=True)
        ranks = [*self._entry_ranks().values(), *([pointer.rank] if pointer else [])]
        return len({generation for generation, _, _ in ranks})

    def verify(self) -> tuple[list[Pointer], list[RegistryError]]:
        """Read pointer and history: what is intact there, and one error for everything that is damaged or missing.

        What is found is looked at again, as a writer may have been at work: an error is what stays.
        """
        _, first = self._findings()
        if not first:
            return self._findings()
        time.sleep(sum(MOVE_WAITS) / 2)
        pointers, again = self._findings()
        known = {str(error) for error in first}
        return pointers, [error for error in again if str(error) in known]

    def _findings(self) -> tuple[list[Pointer], list[RegistryError]]:
        pointer, pointers, errors = None, [], []
        try:
            pointer, etag = self._pointer()
        except RegistryError as error:
            etag = "damaged"
            errors.append(error)
        for name in (ranks := self._entry_ranks()):
            with suppress(KeyMissing):  # withdrawn since it was listed
                try:
                    pointers.append(self._entry(name))
                except RegistryError as error:
                    errors.append(error)
        newest = max(pointers, key=lambda entry: entry.rank, default=None)
        if newest and etag is None and newest.decides == "pointer":
            errors.append(damaged(self._store.address(self._key("champion.json")), "is missing", remedy=newest.version))
        state = State(pointer, etag, ranks, newest)
        if state.is_behind:
            errors.append(self._behind(state))
        # The pointer counts: its writer may have been killed before it recorded the move.
        generations = {generation for generation, _, _ in ranks.values()} | ({pointer.generation} if pointer else set())
        known = sorted({0} | {each for each in generations if each > 0})
        gaps = [(one + 1, other - 1) for one, other in pairwise(known) if other > one + 1]
        if missing := [f"{first}" if first == last else f"{first} to {last}" for first, last in gaps]:
            errors.append(
                RegistryError(
                    f"cannot trust {self._store.address(self._key('history'))}",
                    f"no entry for generation {', '.join(missing)}: it was deleted",
                    "Restore the entry from a backup of the store; the champion does not depend on it.",
                )
            )
        return [*pointers, *([pointer] if pointer else [])], errors

    def require(self, after: str | None, version: int | None, capabilities: Capabilities) -> None:
        """Raise ChampionMoved if `promote` would; None as the version stands for a new one."""
        state = self._state(ignore_damage=capabilities.decides == "history")
        if version not in state.versions:
            self._require(after, state.newest)

    def promote(
        self,
        version: int,
        content: str,
        reason: str,
        capabilities: Capabilities,
        *,
        complete: Callable[[], None] = lambda: None,
        again: bool = False,
        after: str | None = ANY_CHAMPION,
    ) -> Pointer:
        """Make a version the champion and record it; a former champion stays a former one unless `again` is given.

        Args:
            version: The version's number.
            content: The identity of its content.
            reason: Why, for the history.
            capabilities: What the store can do.
            complete: Writes what makes the version visible, right before it becomes champion.
            again: Promote the version even if it was champion before.
            after: The publish id of the champion that it may replace; None: only if there is none.

        Returns the version's pointer; where there is nothing to do, the current champion's. A write that fails after
        the champion has moved is a warning: the next writer makes up for it.

        Raises:
            ChampionMoved: The champion is not the one that `after` names. Nothing a reader sees has changed.
            RegistryError: The pointer or an entry of the history is damaged, or the history has another content under
                this number.
            StoreError: The store refused.
        """
        publish_id = uuid.uuid4().hex
        by_history = capabilities.decides == "history"
        for _ in range(MOVE_ATTEMPTS):
            state = self._state(ignore_damage=again or by_history)
            current = state.newest
            if current and not again and version in state.versions:
                self._require_content(version, content, state)
                complete()
                self._reconcile(current, state.ranks, capabilities)
                return current
            self._require(after, current)
            new = Pointer(
                version=version,
                identity=content,
                publish_id=publish_id,
                generation=current.generation + 1 if current else 1,
                previous=current.version if current else None,
                moved=now(),
                reason=reason,
                decides=capabilities.decides,
            )
            if current:
                self._record(current, state.ranks)  # its writer may have been killed before it recorded the move
            if by_history:
                moved = self._move_by_entry(new, complete, guarded=after != ANY_CHAMPION)
            else:
                complete()
                moved = self._move(state.etag, new, capabilities)
            if moved:
                self._reconcile(new, {new.entry: new.rank} if by_history else state.ranks, capabilities)
                return new
        raise StoreError(
            f"cannot make version {version} the champion",
            f"{self._store.address(self._key('champion.json'))} changed {MOVE_ATTEMPTS} times meanwhile",
            "Run again: the version is complete and only the pointer has to move.",
        )

    def _require(self, after: str | None, current: Pointer | None) -> None:
        """Raise ChampionMoved unless the champion is the one to replace."""
        if after not in {ANY_CHAMPION, current.publish_id if current else None}:
            champion = f"version {current.version} is" if current else "there is none"
            raise ChampionMoved("cannot replace the champion", f"{champion} by now", "Run again.")

    def _require_content(self, version: int, content: str, state: State) -> None:
        """Raise RegistryError if the history has another content under this number: it is no former champion then."""
        pointers = [pointer for pointer in (state.pointer, state.newest) if pointer and pointer.version == version]
        names = [name for name, (_, number, _) in state.ranks.items() if number == version]
        known = pointers[0] if pointers else self._entry(names[0])
        if known.identity != content:
            raise RegistryError(
                f"cannot publish version {version}",
                "the history has another content under this number, which was deleted",
                f"Delete {self._store.address(self._key(f'versions/{version}'))}, then run again: "
                "the content gets a number of its own.",
            )

    def _move_by_entry(self, new: Pointer, complete: Callable[[], None], *, guarded: bool) -> bool:
        """Record a pointer as the only one of its generation. False if another writer was first.

        No condition can stop a second writer. But as with a version's number (see `tasks.registry.registry`), of two
        writers that claim a generation at least one sees the other. No reader follows a claim: only the writer whose
        claim is left alone completes its version and adds the entry.
        """
        started = time.monotonic()
        claim = self._key(f"{CLAIMS}{new.entry}")
        self._store.put(claim, b"")
        try:
            if not self._is_alone(new, started):
                return False
            complete()
            if time.monotonic() - started > STALE.total_seconds() / 2:
                return False  # others may take the claim for that of a killed writer
            self._record(new, {})
            return self._stays(new) if guarded else True
        finally:
            with suppress(StoreError):  # the next writer removes it
                self._store.delete(claim)

    def _is_alone(self, new: Pointer, started: float) -> bool:
        """Whether a claim is the only one of its generation, after the others have withdrawn theirs.

        The lowest rank stays and waits, the others withdraw and wait for the result. Lists the claims before the
        entries, as a writer adds its entry before it removes its claim: it can't be missed in both.
        """
        base = self._key(CLAIMS)
        put, withdrawn = None, False
        for wait in WITHDRAWAL_WAITS:
            claims = {entry.key.removeprefix(base): entry.modified for entry in self._store.list(base)}
            if any(generation >= new.generation for generation, _, _ in self._entry_ranks().values()):
                return False
            put = claims.pop(new.entry, put)  # the time at `started` by the store's clock
            killed = put and put + timedelta(seconds=time.monotonic() - started) - STALE
            others = []
            for name, modified in claims.items():
                claimed = rank(name)
                if claimed and (claimed[0] < new.generation or (killed and modified < killed)):
                    self._store.delete(f"{base}{name}")
                elif claimed and claimed[0] == new.generation:
                    others.append(claimed)
            if not others:
                return not withdrawn
            if min(others) < new.rank and not withdrawn:
                self._store.delete(f"{base}{new.entry}")
                withdrawn = True
            time.sleep(wait)
        return False

    def _stays(self, new: Pointer) -> bool:
        """Whether an entry stays in the history: of two in one generation, the lower rank does.

        The last guard, against a writer of version 0.1.0, which claims no generation. The lowest waits until the
        others have withdrawn; a writer that sees a lower one withdraws.
        """
        for wait in WITHDRAWAL_WAITS:
            same = {name: found for name, found in self._entry_ranks().items() if found[0] == new.generation}
            if same.keys() <= {new.entry}:
                return True
            if min(same.values()) < new.rank:
                break
            time.sleep(wait)
        self._store.delete(self._key(f"history/{new.entry}"))
        self._repair_pointer()
        return False

    def _move(self, etag: str | None, pointer: Pointer, capabilities: Capabilities) -> bool:
        """Compare and swap the pointer. False if another writer was first."""
        key = self._key("champion.json")
        try:
            if etag:
                self._store.compare_and_swap(key, encode(pointer), capabilities.tag(etag))
            else:
                self._store.put_once(key, encode(pointer))
        except KeyConflict:
            return False
        stored, _ = self._pointer()
        # Either a later writer moved the pointer on, which is fine, or the store let another writer overwrite this one
        # despite its condition: then the other one counts, and this one is tried again.
        return stored == pointer or (stored is not None and stored.generation > pointer.generation)

    def _reconcile(self, pointer: Pointer, ranks: Mapping[str, Rank], capabilities: Capabilities) -> None:
        """Make history and pointer agree; a writer that was killed may have left them different.

        The champion is decided by now, so a store that refuses is a warning.
        """
        try:
            self._record(pointer, ranks)
            if capabilities.decides == "history":
                self._repair_pointer()
        except StoreError as error:
            LOG.warning("version %d is the champion; the next publish repairs this: %s", pointer.version, error)

    def _record(self, pointer: Pointer, ranks: Mapping[str, Rank]) -> None:
        """Add a pointer to the history if it is not there."""
        if pointer.entry not in ranks:
            write(self._store, self._key(f"history/{pointer.entry}"), encode(pointer))

    def _repair_pointer(self) -> None:
        """Set the pointer to the newest entry of the history.

        Every writer lists the history after it wrote the pointer, so the last one leaves the newest entry.
        """
        for _ in range(MOVE_ATTEMPTS):
            newest = self._again(lambda: self._newest(None, self._entry_ranks()))
            if newest is None or newest == self._pointer(ignore_damage=True)[0]:
                return
            self._store.put(self._key("champion.json"), encode(newest))
        raise StoreError(
            f"cannot trust {self._store.address(self._key('champion.json'))}",
            f"it differed from what was written {MOVE_ATTEMPTS} times",
            "Check the network and the store, then run again: the history is complete.",
        )

    def _state(self, *, ignore_damage: bool = False) -> State:
        """Pointer and history. The pointer first: it moves before the history records it."""

        def look() -> State:
            pointer, etag = self._pointer(ignore_damage=ignore_damage)
            ranks = self._entry_ranks()
            return State(pointer, etag, ranks, self._newest(pointer, ranks))

        return self._again(look)

    def _again(self, look: Callable[[], T]) -> T:
        """Look at the history, again if an entry vanished after it was listed: its writer has withdrawn it."""
        for _ in range(MOVE_ATTEMPTS):
            with suppress(KeyMissing):
                return look()
        raise damaged(self._store.address(self._key("history")), "entries are listed and cannot be read")

    def _behind(self, state: State) -> RegistryError:
        """The error for a pointer that is older than the history."""
        assert state.pointer
        assert state.newest
        return RegistryError(
            f"cannot trust {self._store.address(self._key('champion.json'))}",
            f"it names version {state.pointer.version}, generation {state.pointer.generation}, and the history goes on "
            f"to version {state.newest.version}, generation {state.newest.generation}: it is an older copy",
            f"Run `retrain rollback --to {state.newest.version}`, or with the version that is to be the champion.",
        )

    def _newest(self, pointer: Pointer | None, ranks: Mapping[str, Rank]) -> Pointer | None:
        """The newer of the pointer and the newest entry of the history."""
        last = max(ranks, key=lambda name: ranks[name], default=None)
        if last is None or (pointer and pointer.rank >= ranks[last]):
            return pointer
        return self._entry(last)

    def _entry_ranks(self) -> dict[str, Rank]:
        """The rank of each entry of the history by its name; reads no entry."""
        base = self._key("history/")
        names = (entry.key.removeprefix(base) for entry in self._store.list(base))
        return {name: entry_rank for name in names if (entry_rank := rank(name))}

    def _entry(self, name: str) -> Pointer:
        """An entry of the history. Raises RegistryError if it is damaged."""
        key = self._key(f"history/{name}")
        pointer, _ = read(self._store, Pointer, key)
        if pointer.entry != name:
            raise damaged(self._store.address(key), f"is the entry {pointer.entry}")
        return pointer

    def _pointer(self, *, ignore_damage: bool = False) -> tuple[Pointer | None, str | None]:
        """The pointer and its ETag; None and None if there is none.

        With `ignore_damage` a damaged pointer is None with an ETag: the history says who was champion, and the ETag
        allows to replace it. Otherwise it raises RegistryError.
        """
        key = self._key("champion.json")
        try:
            return read(self._store, Pointer, key)
        except KeyMissing:
            return None, None
        except RegistryError:
            if not ignore_damage:
                raise
            return None, self._store.etag(key)

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}"
