"""The index of a model's runs: what its page shows, and where each run stands for itself.

    models/<model>/runs/<id>.json   a run that has ended, or a rollback: written first; again if its report is removed
    models/<model>/runs.jsonl       all of them, a line each; the first line has the SHA-256 of the others
    models/<model>/index.html       the page, which `tasks.model_page` writes

A run that ends costs the same few requests however many there were: it writes its own file, and replaces the index by
one with a line more, on the condition that nobody else has replaced it. Where a store ignores conditions, or a writer
is killed between the two, a line is missing until the index is built again from the files: by `retrain gc`, or by the
next run that sees that the index is damaged or gone. May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from tasks.errors import KeyConflict, KeyMissing, NotOffered, RegistryError, StoreError
from tasks.registry.documents import Pointer, damaged, encode, read, sha256
from tasks.registry.registry import Registry
from tasks.storage.objects import LARGEST_DOCUMENT, Entry, ObjectStore
from tasks.values import LONGEST_REASON, RunRow

LOG = logging.getLogger("retrain.store")

# How often a writer tries to add its line while others add theirs.
TRIES = 20

# The index has so many lines at most, the last ones: a run every hour for a year.
MOST = 10_000

# Files read at once when the index is built again.
AT_ONCE = 16


class RunIndex:
    """The runs of one model in a store."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self.store, self.model, self._base = store, model, f"models/{model}/"

    def key(self, path: str) -> str:
        """The key of a file of the model."""
        return f"{self._base}{path}"

    def add(self, row: RunRow) -> str:
        """Enter a run that has ended; all lines, oldest first. Entered twice it stands there once.

        Raises:
            StoreError: The store refused a request, or other writers were always first.
        """
        self.put(row)
        for _ in range(TRIES):
            try:
                lines, etag = self._read()
            except (KeyMissing, RegistryError) as error:
                if isinstance(error, RegistryError):
                    LOG.warning("the index of the runs is built again: %s", error)
                return self.rebuild()
            if f'["{row.id}",' in lines:
                return lines
            more = _last(f"{lines}{line(row)}\n")
            if self._replace(more, etag):
                return more
            time.sleep(random.uniform(0, 0.2))
        raise self._outrun()

    def put(self, row: RunRow) -> None:
        """Write the file of a run, from which index and page are built again. Raises StoreError."""
        self.store.put(self.key(f"runs/{row.id}.json"), encode(row))

    def lines(self) -> str:
        """All lines, oldest first; "" if no run has ended. From the runs' own files where the index is damaged or gone.

        Raises:
            StoreError: The store refused a request.
        """
        try:
            return self._read()[0]
        except (KeyMissing, RegistryError):
            return self._from_files()

    def shown(self) -> list[dict[str, Any]]:
        """The fields of each run by their names, oldest first; margins are left as the line has them.

        Raises:
            RegistryError: A line is no run, though the index is sealed.
            StoreError: The store refused a request.
        """
        try:
            return [_fields(each) for each in self.lines().splitlines()]
        except (ValueError, TypeError, RecursionError) as error:
            address = self.store.address(self.key("runs.jsonl"))
            raise RegistryError(f"cannot read {address}", "a line is no run", "`retrain gc` writes it anew.") from error

    def rebuild(self) -> str:
        """Write the index again from the files of the runs; its lines. A run that ends meanwhile is in it.

        Raises:
            StoreError: The store refused a request, or other writers were always first.
        """
        for _ in range(TRIES):
            try:
                etag = self.store.etag(self.key("runs.jsonl"))
            except KeyMissing:
                etag = ""
            lines = self._from_files()
            if self._replace(lines, etag):
                return lines
        raise self._outrun()

    def rows(self) -> list[RunRow]:
        """All runs by their files, oldest first; and the versions and rollbacks of which there is none.

        A version of an earlier release of this project has no file, nor has one whose run was killed before its end.
        """
        rows = [row for _, row in self.files()]
        rows += self._without_file(rows)
        return sorted(rows, key=lambda row: (row.time, row.verdict == "rollback", row.version, row.id))

    def row(self, run: str) -> RunRow | None:
        """The row of a run; None if there is none, or it is damaged."""
        return self._row(self.key(f"runs/{run}.json"))

    def files(self) -> list[tuple[Entry, RunRow]]:
        """The files of the runs, and what they say."""
        entries = [entry for entry in self.store.list(self.key("runs/")) if entry.key.endswith(".json")]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            rows = threads.map(lambda entry: self._row(entry.key), entries)
            return [(entry, row) for entry, row in zip(entries, rows, strict=True) if row]

    def _row(self, key: str) -> RunRow | None:
        try:
            row, _ = read(self.store, RunRow, key)
        except KeyMissing:
            return None
        except RegistryError as error:
            LOG.warning("the run is left out of the model's page: %s", error)
            return None
        return row

    def _without_file(self, rows: Iterable[RunRow]) -> Iterator[RunRow]:
        registry = Registry(self.store, self.model)
        rows = list(rows)
        published = {row.version for row in rows if row.verdict == "published"}
        waiting = registry.waiting()
        for number in registry.versions():
            if number not in published and number not in waiting:
                try:
                    manifest = registry.manifest(number)
                except RegistryError as error:
                    LOG.warning("version %d is left out of the model's page: %s", number, error)
                    continue
                yield _version_row(number, manifest.created, manifest.accuracy)
        for number, retired in registry.retired().items():
            if number not in published:
                yield _version_row(number, retired.created, retired.accuracy, report=False)
        moves = {row.id for row in rows}
        try:
            history = registry.history()
        except RegistryError as error:
            LOG.warning("rollbacks are left out of the model's page: %s", error)
            return
        seen = set[int]()
        for pointer in history:
            if pointer.version in seen and pointer.publish_id not in moves:
                yield rollback_row(pointer)
            seen.add(pointer.version)

    def _outrun(self) -> StoreError:
        address = self.store.address(self.key("runs.jsonl"))
        return StoreError(f"cannot write {address}", "other runs replaced it each time", "`retrain gc` adds the run.")

    def _from_files(self) -> str:
        return _last("".join(f"{line(row)}\n" for row in self.rows()))

    def _read(self) -> tuple[str, str]:
        """The lines and the ETag. Raises KeyMissing, and RegistryError if the index is damaged."""
        key = self.key("runs.jsonl")
        data, etag = self.store.get(key, LARGEST_DOCUMENT)
        head, _, rest = data.partition(b"\n")
        if head != f'{{"sha256":"{sha256(rest)}"}}'.encode():
            raise damaged(self.store.address(key), "was altered")
        try:
            return rest.decode(), etag
        except UnicodeDecodeError as error:  # whoever may write the store may have sealed it
            raise damaged(self.store.address(key), "is no text") from error

    def _replace(self, lines: str, etag: str) -> bool:
        """Replace the index with this ETag, "" for none, unless another writer has.

        A store without conditions replaces it in any case.
        """
        key, data = self.key("runs.jsonl"), _encode(lines)
        try:
            if etag:
                self.store.compare_and_swap(key, data, etag)
            else:
                self.store.put_once(key, data)
        except KeyConflict:
            try:
                now_there = self.store.etag(key)
            except KeyMissing:
                return False
            if now_there != etag:
                return False
            self.store.put(key, data)  # the server compares ETags in another form
        except NotOffered:
            self.store.put(key, data)
        return True


def rollback_row(pointer: Pointer) -> RunRow:
    """The row of a move back to an earlier version."""
    why = pointer.reason[:LONGEST_REASON]
    return RunRow(id=pointer.publish_id, time=pointer.moved, verdict="rollback", version=pointer.version, why=why)


def _version_row(number: int, time: datetime, accuracy: float | None, *, report: bool = True) -> RunRow:
    """The row of a version whose run has left none."""
    key = f"version-{number}"
    return RunRow(id=key, time=time, verdict="published", version=number, accuracy=accuracy, report=report)


def line(row: RunRow) -> str:
    """A JSON array of the row's fields, in their order: names in each line would be most of what is compressed.

    The last one, `report`, stands there only if it is false.
    """
    margins = dict(sorted(row.margins.items()))
    plain = row.model_dump(mode="json") | {"margins": [list(margins), list(margins.values())]}
    return json.dumps(list(plain.values()), separators=(",", ":"))


def _fields(text: str) -> dict[str, Any]:
    values, names = json.loads(text), list(RunRow.model_fields)
    return {"report": True} | dict(zip(names[: max(len(values), len(names) - 1)], values, strict=True))


def _last(lines: str) -> str:
    return "".join(lines.splitlines(keepends=True)[-MOST:])


def _encode(lines: str) -> bytes:
    return f'{{"sha256":"{sha256(lines.encode())}"}}\n{lines}'.encode()
