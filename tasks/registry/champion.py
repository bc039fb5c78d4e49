"""The champion pointer, its history, and the two ways to move it.

Where the store enforces conditional writes, the pointer decides: compare-and-swap moves it, and the history records
the move. Where the store does not (see `tasks.storage.probe`), the newest entry of the history decides, and the
pointer is repaired to it. That needs no condition, because every entry has a key of its own. The pointer says which of
the two wrote it, so a reader needs no probe, and writers of both kinds lose nothing to each other. Called by the
registry alone; imports neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial

from tasks.errors import ChampionMoved, KeyConflict, KeyMissing, RegistryError, StoreError
from tasks.registry.documents import Pointer, Rank, damaged, encode, now, rank, read
from tasks.storage.objects import ObjectStore
from tasks.storage.probe import Capabilities
from tasks.storage.verified import write

# How often a writer tries to move the pointer while other writers move it too.
MOVE_ATTEMPTS = 20

# Seconds between two looks while a writer waits for another one to withdraw its claim to the same number: 14 s in all.
WITHDRAWAL_WAITS = [0.05 * 1.3**count for count in range(17)]

# In place of a champion's publish id: replace the champion, whichever it is.
ANY_CHAMPION = "anyone"


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
        return self._newest(pointer, self._entry_ranks())

    def history(self) -> list[Pointer]:
        """Every champion so far, oldest first. Raises RegistryError for a damaged entry."""
        pointers = {name: self._entry(name) for name in self._entry_ranks()}
        pointer, _ = self._pointer()
        if pointer:  # its writer may have been killed before it recorded the move
            pointers[pointer.entry] = pointer
        return sorted(pointers.values(), key=lambda entry: entry.rank)

    def promoted(self) -> set[int]:
        """The numbers of all versions that were champion, read from the keys of the history alone."""
        return {number for _, number, _ in self._entry_ranks().values()}

    def verify(self) -> list[RegistryError]:
        """One error for each file here that differs from what was written."""
        reads: list[Callable[[], object]] = [
            self.current,
            *(partial(self._entry, name) for name in self._entry_ranks()),
        ]
        errors = []
        for read_one in reads:
            try:
                read_one()
            except RegistryError as error:
                errors.append(error)
        return errors

    def require(self, after: str | None, version: int | None, capabilities: Capabilities) -> None:
        """Raise ChampionMoved if `promote` would; None as the version stands for a new one."""
        pointer, _ = self._pointer(ignore_damage=capabilities.decides == "history")
        self._require(after, version, self._newest(pointer, ranks := self._entry_ranks()), ranks)

    def promote(
        self,
        version: int,
        content: str,
        reason: str,
        capabilities: Capabilities,
        *,
        again: bool = False,
        after: str | None = ANY_CHAMPION,
    ) -> Pointer:
        """Make a version the champion and record it; a former champion stays a former one unless `again` is given.

        Args:
            version: The version's number.
            content: The identity of its content.
            reason: Why, for the history.
            capabilities: What the store can do.
            again: Promote the version even if it was champion before.
            after: The publish id of the champion that it may replace; None: only if there is none.

        Returns the version's pointer; where there is nothing to do, the current champion's.

        Raises:
            ChampionMoved: The champion is not the one that `after` names. Nothing a reader sees has changed.
            RegistryError: The pointer or an entry of the history is damaged.
            StoreError: The store refused.
        """
        publish_id = uuid.uuid4().hex
        ignore_damage = again or capabilities.decides == "history"
        for _ in range(MOVE_ATTEMPTS):
            (pointer, etag), ranks = self._pointer(ignore_damage=ignore_damage), self._entry_ranks()
            current = self._newest(pointer, ranks)
            if current and not again and version in _champion_versions(current, ranks):
                self._reconcile(current, ranks, capabilities)
                return current
            self._require(after, version, current, ranks)
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
                self._record(current, ranks)  # its writer may have been killed before it recorded the move
            if capabilities.decides == "history" or self._move(etag, new, capabilities):
                if (
                    capabilities.decides == "history"
                    and after != ANY_CHAMPION
                    and not self._claim_generation(new, ranks)
                ):
                    continue
                self._reconcile(new, ranks, capabilities)
                return new
        raise StoreError(
            f"cannot make version {version} the champion",
            f"{self._store.address(self._key('champion.json'))} changed {MOVE_ATTEMPTS} times meanwhile",
            "Run again: the version is complete and only the pointer has to move.",
        )

    def _require(
        self, after: str | None, version: int | None, current: Pointer | None, ranks: Mapping[str, Rank]
    ) -> None:
        """Raise ChampionMoved unless the champion is the one to replace, or the version was champion itself."""
        publish_id = current.publish_id if current else None
        if after in {ANY_CHAMPION, publish_id} or (current and version in _champion_versions(current, ranks)):
            return
        champion = f"version {current.version} is" if current else "there is none"
        raise ChampionMoved("cannot replace the champion", f"{champion} by now", "Run again.")

    def _claim_generation(self, new: Pointer, ranks: Mapping[str, Rank]) -> bool:
        """Record a pointer as the only one of its generation; False after withdrawing it.

        No condition can stop a second writer that was judged against the same champion. But as with a version's number
        (see `tasks.registry.registry`), of two writers that record one generation at least one sees the other. The
        lowest rank stays and waits until the others have withdrawn; a writer that sees a lower rank withdraws. Until
        then readers may see the other version, which has passed the gate too.
        """
        self._record(new, ranks)
        for wait in WITHDRAWAL_WAITS:
            same = {
                name: entry_rank for name, entry_rank in self._entry_ranks().items() if entry_rank[0] == new.generation
            }
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
        """Make history and pointer agree; a writer that was killed may have left them different."""
        self._record(pointer, ranks)
        if capabilities.decides == "history":
            self._repair_pointer()

    def _record(self, pointer: Pointer, ranks: Mapping[str, Rank]) -> None:
        """Add a pointer to the history if it is not there."""
        if pointer.entry not in ranks:
            write(self._store, self._key(f"history/{pointer.entry}"), encode(pointer))

    def _repair_pointer(self) -> None:
        """Set the pointer to the newest entry of the history.

        Every writer lists the history after it wrote the pointer, so the last one leaves the newest entry.
        """
        for _ in range(MOVE_ATTEMPTS):
            newest, (pointer, _) = self._newest(None, self._entry_ranks()), self._pointer(ignore_damage=True)
            if newest is None or newest == pointer:
                return
            self._store.put(self._key("champion.json"), encode(newest))
        raise StoreError(
            f"cannot trust {self._store.address(self._key('champion.json'))}",
            f"it differed from what was written {MOVE_ATTEMPTS} times",
            "Check the network and the store, then run again: the history is complete.",
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
            return None, self._store.get(key).etag

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}"


def _champion_versions(current: Pointer, ranks: Mapping[str, Rank]) -> set[int]:
    """The numbers of all versions that are or were champion."""
    return {number for _, number, _ in ranks.values()} | {current.version}
