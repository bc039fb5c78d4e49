"""The succession of champions: the pointer, its history, and the two ways to move it.

Where the store enforces conditional writes, the pointer decides: it is moved by compare-and-swap, and the history
records it. Where it does not (see `tasks.storage.probe`), the newest entry of the history decides, which needs no
condition as every entry has a name of its own, and the pointer is repaired to it. The pointer says which of the two
wrote it, so a reader needs no probe, and writers of both kinds lose nothing to each other. Called by the registry.
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

# How often a writer tries to move the pointer while others move it too.
MOVES = 20

# Seconds to wait, again and again, for another writer to withdraw what both took: 13 s in all.
WITHDRAWAL = [0.05 * 1.3**count for count in range(17)]

# In place of the publish id of a champion: whoever it is.
ANYONE = "anyone"


class ChampionPointer:
    """The champions of one model.

    Args:
        store: Where they are kept.
        base: The prefix of the model's keys ("models/mnist").
    """

    def __init__(self, store: ObjectStore, base: str) -> None:
        self._store, self._base = store, base

    def current(self) -> Pointer | None:
        """Who is the champion, or None before the first. Raises RegistryError where that is damaged."""
        pointer, _ = self._pointer()
        if pointer and pointer.decides == "pointer":
            return pointer
        return self._newest(pointer, self._past())

    def history(self) -> list[Pointer]:
        """Every champion there was, oldest first. Raises RegistryError for an entry that is damaged."""
        found = {entry: self._entry(entry) for entry in self._past()}
        pointer, _ = self._pointer()
        if pointer:  # its writer may have been killed before it was recorded
            found[pointer.entry] = pointer
        return sorted(found.values(), key=lambda entry: entry.rank)

    def promoted(self) -> set[int]:
        """The numbers of all versions that were champion, by the names of the history alone."""
        return {number for _, number, _ in self._past().values()}

    def verify(self) -> list[RegistryError]:
        """One error for each file here that is not as it was written."""
        looks: list[Callable[[], object]] = [self.current, *(partial(self._entry, name) for name in self._past())]
        found = []
        for look in looks:
            try:
                look()
            except RegistryError as error:
                found.append(error)
        return found

    def require(self, after: str | None, version: int | None, capabilities: Capabilities) -> None:
        """Raise ChampionMoved where `promote` would; without a version, where it would for a new one."""
        pointer, _ = self._pointer(mend=capabilities.decides == "history")
        self._require(after, version, self._newest(pointer, past := self._past()), past)

    def promote(
        self,
        version: int,
        content: str,
        reason: str,
        capabilities: Capabilities,
        *,
        again: bool = False,
        after: str | None = ANYONE,
    ) -> Pointer:
        """Make a version the champion and record it, if it was none before or is to be one `again`.

        Args:
            version: Its number.
            content: Its identity.
            reason: Why, for the history.
            capabilities: What the store can do.
            again: Also if it was champion before.
            after: The publish id of the champion that it may succeed; None: only if there is none.

        Returns its pointer; where there is nothing to do, the current champion's.

        Raises:
            ChampionMoved: The champion is another one by now. Nothing a reader sees has changed.
            StoreError: The store refused.
        """
        publish_id = uuid.uuid4().hex
        for _ in range(MOVES):
            (pointer, etag), past = self._pointer(mend=again or capabilities.decides == "history"), self._past()
            current = self._newest(pointer, past)
            if current and not again and version in _versions(current, past):
                self._settle(current, past, capabilities)
                return current
            self._require(after, version, current, past)
            mine = Pointer(
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
                self._record(current, past)  # the one who moved it may have been killed
            if capabilities.decides == "history" or self._move(etag, mine, capabilities):
                if capabilities.decides == "history" and after != ANYONE and not self._take(mine, past):
                    continue
                self._settle(mine, past, capabilities)
                return mine
        raise StoreError(
            f"cannot make version {version} the champion",
            f"{self._store.address(self._key('champion.json'))} changed {MOVES} times meanwhile",
            "Run again: the version is complete and only the pointer has to move.",
        )

    def _require(
        self, after: str | None, version: int | None, current: Pointer | None, past: Mapping[str, Rank]
    ) -> None:
        """Raise ChampionMoved unless the champion is the one to succeed, or the version was champion itself."""
        found = current.publish_id if current else None
        if after in {ANYONE, found} or (current and version in _versions(current, past)):
            return
        who = f"version {current.version} is" if current else "there is none"
        raise ChampionMoved("cannot replace the champion", f"{who} by now", "Run again.")

    def _take(self, mine: Pointer, past: Mapping[str, Rank]) -> bool:
        """Enter the history alone, where no condition can hold back a writer that was judged against the same champion.

        As with a version's number (see the registry): of two that enter one generation at least one sees the other.
        The lowest stays and waits until the others have withdrawn; whoever sees a lower one withdraws. For that moment
        readers may see the other, which has passed the gate too. False after withdrawing.
        """
        self._record(mine, past)
        for wait in WITHDRAWAL:
            generation = {entry: found for entry, found in self._past().items() if found[0] == mine.generation}
            if generation.keys() <= {mine.entry}:
                return True
            if min(generation.values()) < mine.rank:
                break
            time.sleep(wait)
        self._store.delete(self._key(f"history/{mine.entry}"))
        self._repair()
        return False

    def _move(self, etag: str | None, pointer: Pointer, capabilities: Capabilities) -> bool:
        """Compare and swap the pointer. False where another writer was first."""
        key = self._key("champion.json")
        try:
            if etag:
                self._store.compare_and_swap(key, encode(pointer), capabilities.tag(etag))
            else:
                self._store.put_once(key, encode(pointer))
        except KeyConflict:
            return False
        seen, _ = self._pointer()
        # Moved on by a later writer; or else overwritten by one that the store did not hold back: that one counts, and
        # this one is tried again.
        return seen == pointer or (seen is not None and seen.generation > pointer.generation)

    def _settle(self, pointer: Pointer, past: Mapping[str, Rank], capabilities: Capabilities) -> None:
        """Let history and pointer agree, as one who was killed might have left them."""
        self._record(pointer, past)
        if capabilities.decides == "history":
            self._repair()

    def _record(self, pointer: Pointer, past: Mapping[str, Rank]) -> None:
        """Add a pointer to the history, if it is not there."""
        if pointer.entry not in past:
            write(self._store, self._key(f"history/{pointer.entry}"), encode(pointer))

    def _repair(self) -> None:
        """Bring the pointer to the newest entry of the history.

        Whoever writes the pointer last looks at the history after that, so it ends at the newest entry.
        """
        for _ in range(MOVES):
            newest, (pointer, _) = self._newest(None, self._past()), self._pointer(mend=True)
            if newest is None or newest == pointer:
                return
            self._store.put(self._key("champion.json"), encode(newest))
        raise StoreError(
            f"cannot trust {self._store.address(self._key('champion.json'))}",
            f"it is not what was written {MOVES} times",
            "Check the network and the store, then run again: the history has every champion.",
        )

    def _newest(self, pointer: Pointer | None, past: Mapping[str, Rank]) -> Pointer | None:
        """The newer of the pointer and the newest entry of the history."""
        last = max(past, key=lambda entry: past[entry], default=None)
        if last is None or (pointer and pointer.rank >= past[last]):
            return pointer
        return self._entry(last)

    def _past(self) -> dict[str, Rank]:
        """The history by its names alone."""
        base = self._key("history/")
        names = (entry.key.removeprefix(base) for entry in self._store.list(base))
        return {name: found for name in names if (found := rank(name))}

    def _entry(self, name: str) -> Pointer:
        """An entry of the history. Raises RegistryError where it is damaged."""
        key = self._key(f"history/{name}")
        pointer, _ = read(self._store, Pointer, key)
        if pointer.entry != name:
            raise damaged(self._store.address(key), f"is the entry {pointer.entry}")
        return pointer

    def _pointer(self, *, mend: bool = False) -> tuple[Pointer | None, str | None]:
        """The pointer and its ETag, None and None where there is none.

        With `mend` a damaged one is None with an ETag: the history tells who was champion, and it can be replaced.
        """
        key = self._key("champion.json")
        try:
            return read(self._store, Pointer, key)
        except KeyMissing:
            return None, None
        except RegistryError:
            if not mend:
                raise
            return None, self._store.get(key).etag

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}"


def _versions(current: Pointer, past: Mapping[str, Rank]) -> set[int]:
    """The numbers of all versions that are or were champion."""
    return {number for _, number, _ in past.values()} | {current.version}
