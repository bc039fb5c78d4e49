"""Where Prefect keeps task results: in the run's own store, as JSON, under `cache/results/`.

A result is reused only if its own bytes and those of all its artifacts are intact. Otherwise it counts as not cached:
Prefect runs the step again, which repairs the store. Called by `tasks.caching.steps`.
"""

from __future__ import annotations

import logging
from pathlib import PurePosixPath

from prefect.filesystems import WritableFileSystem
from pydantic import PrivateAttr

from tasks.caching.inventory import RESULTS, value_of
from tasks.errors import ArtifactError, KeyMissing, StoreError
from tasks.storage import Artifacts, ObjectStore
from tasks.storage.artifacts import artifacts_in
from tasks.storage.verified import fetch_sealed, sealed

LOG = logging.getLogger("retrain")


class ResultFiles(WritableFileSystem):
    """Prefect's file system interface over an `ObjectStore`."""

    _block_type_name = "Retrain result files"
    _store: ObjectStore = PrivateAttr()
    _artifacts: Artifacts = PrivateAttr()

    @classmethod
    def of(cls, store: ObjectStore, artifacts: Artifacts) -> ResultFiles:
        """The results of one store. (A block's constructor takes only fields that a server could keep.)"""
        files = cls()
        files._store, files._artifacts = store, artifacts
        return files

    def read_path(self, path: str, _sync: bool | None = None) -> bytes:  # type: ignore[override]
        """Read a result; raise unless it and its artifacts are intact. Prefect treats any error as a cache miss."""
        try:
            content = fetch_sealed(self._store, _key(path))
            for artifact in artifacts_in(value_of(content)):
                self._artifacts.verify(artifact)
        except KeyMissing:
            raise
        except (ArtifactError, StoreError) as error:
            LOG.warning("%s: its cached result cannot be used and is computed anew: %s", _step(path), error)
            raise
        return content

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:  # type: ignore[override]
        """Write a result. Prefect hides an error raised here and goes on without a cached result, so log it."""
        if "/" not in path.strip("/"):
            return  # a failed run's result, which nothing reads; the run's state and log have the error
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


def _step(path: str) -> str:
    return path.strip("/").split("/")[0]


def _key(path: str) -> str:
    return f"{RESULTS}{str(path).lstrip('/')}.json"
