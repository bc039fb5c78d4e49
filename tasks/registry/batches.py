"""The ledger of batches: those of a growing source that a model has learned from, and those left out for good.

    batches/<model>/<sha256 of the source's address>/<batch>/used-<number>-<digest>-<seen>
    batches/<model>/<sha256 of the source's address>/<batch>/without

`digest` identifies the batch's content, `seen` the names, sizes and times of its files. `number` counts the contents
that were accepted under the batch's name, so that the newest is known without a clock. Only names count: an object's
bytes say to people which run wrote it, and when. So one listing reads all, a plain write enters a batch, and two runs
may enter the same one at once. Who deletes an entry makes its batch a new one, that is checked again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pydantic import AwareDatetime

from tasks.address import escaped
from tasks.registry.documents import encode, now, sha256
from tasks.settings import BATCH_NAME
from tasks.storage.objects import ObjectStore
from tasks.values import Sha256, Value

LOG = logging.getLogger("retrain.store")

ENTRY = re.compile(rf"({BATCH_NAME})/(?:without|used-([0-9]{{8}})-([0-9a-f]{{64}})-([0-9a-f]{{64}}))")

FOLDER = "batches/"

# A larger number is no count of accepted contents: somebody forged it, and eight digits would not hold the next ones.
MOST = 100_000

# How many objects the warning about foreign names lists.
MOST_NAMED = 5

# The first training enters thousands of batches; over a network one after the other would take minutes.
WRITERS = 8


class Written(Value):
    """What an entry's object says to people: which run entered it, and when (UTC)."""

    run: str
    created: AwareDatetime


class Used(NamedTuple):
    """One entry of a batch that was used; entries sort from the oldest accepted content to the newest."""

    number: int
    digest: Sha256
    seen: Sha256


class Known(NamedTuple):
    """What a ledger says: by the batch's name, its sorted entries, none for one that is only left out."""

    used: Mapping[str, tuple[Used, ...]]
    without: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        """The names of all batches that were used or are left out."""
        return self.without.union(self.used)

    def digests(self, name: str) -> tuple[Sha256, ...]:
        """The contents that were accepted under a batch's name, the newest last; () if it was never used."""
        newest_first = dict.fromkeys(entry.digest for entry in reversed(self.used.get(name, ())))
        return tuple(reversed(newest_first))

    def digest_of(self, name: str, seen: Sha256) -> Sha256 | None:
        """The content that a batch had when its files were seen like this; None if they never were."""
        return next((entry.digest for entry in reversed(self.used.get(name, ())) if entry.seen == seen), None)

    def left_out(self, name: str) -> bool:
        """Whether a batch is left out of all runs."""
        return name in self.without


class BatchLedger:
    """The ledger of a model and the address of a source."""

    def __init__(self, store: ObjectStore, model: str, source: str) -> None:
        self._store, self._prefix = store, f"{FOLDER}{model}/{sha256(source.encode())}/"

    def read(self) -> Known:
        """All entries, by one listing. A name that no entry has is ignored with a warning.

        Raises:
            StoreError: The store cannot be read.
        """
        used: dict[str, list[Used]] = {}
        without, foreign = set(), []
        for key in (entry.key for entry in self._store.list(self._prefix)):
            match = ENTRY.fullmatch(key.removeprefix(self._prefix))
            if not match or int(match[2] or 0) > MOST:
                foreign.append(key)
            elif match[2]:
                used.setdefault(match[1], []).append(Used(int(match[2]), match[3], match[4]))
            else:
                without.add(match[1])
        if foreign:
            self._warn(foreign)
        return Known({name: tuple(sorted(entries)) for name, entries in used.items()}, frozenset(without))

    def enter(self, batches: Iterable[tuple[str, Sha256, Sha256]], run: str) -> None:
        """Enter the batches that a run has learned from, unless they are entered: (name, digest, seen) each.

        A content other than the newest entered one becomes the newest.

        Raises:
            StoreError: The store cannot be read or written.
        """
        known = self.read().used
        missing = []
        for name, digest, seen in batches:
            entries = known.get(name, ())
            number, newest, _ = entries[-1] if entries else (0, "", "")
            entry = Used(number + (digest != newest), digest, seen)
            if entry not in entries:
                missing.append(f"{name}/used-{entry.number:08d}-{digest}-{seen}")
        self._write(missing, run)

    def leave_out(self, names: Iterable[str], run: str) -> None:
        """Leave batches out of all later runs.

        Raises:
            StoreError: The store cannot be read or written.
        """
        known = self.read().without
        self._write([f"{name}/without" for name in names if name not in known], run)

    def _write(self, entries: list[str], run: str) -> None:
        if wrong := [entry for entry in entries if not ENTRY.fullmatch(entry)]:
            raise ValueError(f"no entry of a batch: {wrong[0]!r}")
        data = encode(Written(run=run, created=now()))
        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(lambda entry: self._store.put(f"{self._prefix}{entry}", data), entries))

    def _warn(self, foreign: list[str]) -> None:
        named = ", ".join(escaped(self._store.address(key)) for key in foreign[:MOST_NAMED])
        more = f", and {len(foreign) - MOST_NAMED:,} more" if len(foreign) > MOST_NAMED else ""
        LOG.warning("the ledger of batches ignores what is no entry of it: %s%s. Delete it.", named, more)
