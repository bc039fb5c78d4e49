"""Where Prefect keeps task results: in the run's own store, as JSON, under `cache/results/`.

A result is reused only if its own bytes and those of all its artifacts are intact, and its value is one that the step
can return for these arguments. Whoever may write the store may put anything there.
Otherwise it counts as not cached: Prefect runs the step again, which repairs the store. Prefect never reads a stored
object itself: what that says of its serializer may name a pickle, or any function. Called by `tasks.caching.steps`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from prefect.filesystems import WritableFileSystem
from pydantic import PrivateAttr, ValidationError

from tasks.caching.inventory import RESULTS, no_result, record_of
from tasks.errors import ArtifactError, KeyMissing, RetrainError, StoreError
from tasks.storage import Artifacts, ObjectStore
from tasks.storage.artifacts import artifacts_in
from tasks.storage.verified import fetch_sealed, sealed
from tasks.values import Artifact, Value

LOG = logging.getLogger("retrain")

# Takes a value, and what reads an artifact; one of the value's own comes from memory.
Fits = Callable[[Any, Callable[[Artifact], bytes]], object]

# What Prefect is told of every record: plain JSON, in which no key names a class.
SERIALIZER = {"type": "json", "object_decoder": None}


class ResultFiles(WritableFileSystem):
    """Prefect's file system interface over an `ObjectStore`."""

    _block_type_name = "Retrain result files"
    _store: ObjectStore = PrivateAttr()
    _artifacts: Artifacts = PrivateAttr()
    _kind: type[Value] = PrivateAttr()
    _fits: Fits = PrivateAttr()
    _known: dict[str, dict[str, Any]] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, store: ObjectStore, artifacts: Artifacts, kind: type[Value], fits: Fits) -> ResultFiles:
        """The results of a call of a step. (A block's constructor takes only fields for a server.)

        Args:
            store: Where they are.
            artifacts: The store's artifacts.
            kind: What the step returns.
            fits: Raises ValueError or RetrainError if this call cannot return a value.
        """
        files = cls()
        files._store, files._artifacts, files._kind, files._fits = store, artifacts, kind, fits
        return files

    def read(self, path: str) -> dict[str, Any]:
        """Read the record of a result: `tasks.caching.inventory.StepRecord` as plain JSON types.

        Raises:
            ArtifactError: It or one of its artifacts is damaged or missing, or the call cannot return its value.
            KeyMissing: There is no result.
            StoreError: The store cannot be read.
        """
        try:
            address = self._store.address(_key(path))
            record = record_of(fetch_sealed(self._store, _key(path)), address)
            try:
                value = self._kind.model_validate(record["value"])
                contents = {each.sha256: self._artifacts.verify(each) for each in artifacts_in(record["value"])}
                self._fits(value, lambda artifact: contents.get(artifact.sha256) or self._artifacts.get(artifact))
            except (ArtifactError, StoreError):
                raise
            except ValidationError as error:  # its text has many lines
                raise no_result(address, type(error).__name__) from error
            except (ValueError, RetrainError) as error:
                raise no_result(address, str(error)) from error
        except KeyMissing:
            raise
        except (ArtifactError, StoreError) as error:
            LOG.warning("%s: its cached result cannot be used and is computed anew: %s", _step(path), error)
            raise
        return record

    def read_path(self, path: str, _sync: bool | None = None) -> bytes:  # type: ignore[override]
        """The record as `read` returns it, written anew for Prefect, which treats any error as a cache miss.

        Prefect asks whether there is a result before it reads it, so a record is read and verified once.
        """
        if _key(path) not in self._known:
            self._known[_key(path)] = self.read(path)
        return _written(path, self._known[_key(path)])

    def write(self, path: str, record: Mapping[str, Any]) -> None:
        """Write a result as Prefect does. Raises StoreError."""
        self.write_path(path, _written(path, record))

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:  # type: ignore[override]
        """Write a result. Prefect hides an error raised here and goes on without a cached result, so log it."""
        if "/" not in path.strip("/"):
            return  # a failed run's result, which nothing reads; the run's state and log have the error
        self._known.pop(_key(path), None)
        try:
            self._store.put(_key(path), sealed(content))
        except StoreError as error:
            LOG.warning("%s: its result is not cached: %s", _step(path), error)
            raise

    async def aread_path(self, path: str) -> bytes:
        """As `read_path`."""
        return self.read_path(path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """As `write_path`."""
        self.write_path(path, content)

    def _resolve_path(self, path: str) -> PurePosixPath:
        # Prefect asks unsaved storage for absolute paths and makes them relative again.
        return PurePosixPath("/") / path


def _written(path: str, record: Mapping[str, Any]) -> bytes:
    metadata = {"serializer": SERIALIZER, "storage_key": str(path)}
    return json.dumps({"metadata": metadata, "result": json.dumps(record)}).encode()


def _step(path: str) -> str:
    return path.strip("/").split("/")[0]


def _key(path: str) -> str:
    return f"{RESULTS}{str(path).lstrip('/')}.json"
