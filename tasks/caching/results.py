"""Where Prefect keeps task results: in the run's own store, as JSON, under `cache/results/`.

A result is believed only if its own bytes, and those of every artifact that it names, are what they were; otherwise it
counts as not cached, which makes Prefect compute it anew and so heals the store.
"""

from __future__ import annotations

import logging
from pathlib import PurePosixPath

from prefect.filesystems import WritableFileSystem
from pydantic import PrivateAttr

from tasks.caching.inventory import RESULTS, value_of
from tasks.errors import ArtifactError, KeyMissing, StoreError
from tasks.storage import Artifacts, ObjectStore
from tasks.storage.artifacts import named
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
        made = cls()
        made._store, made._artifacts = store, artifacts
        return made

    def read_path(self, path: str, _sync: bool | None = None) -> bytes:  # type: ignore[override]
        """Read a result that is intact, and so are its artifacts. To Prefect, whatever this raises is a miss."""
        try:
            content = fetch_sealed(self._store, _key(path))
            for artifact in named(value_of(content)):
                self._artifacts.verify(artifact)
        except KeyMissing:
            raise
        except (ArtifactError, StoreError) as error:
            LOG.warning("%s: its cached result cannot be used and is computed anew: %s", _step(path), error)
            raise
        return content

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:  # type: ignore[override]
        """Write a result. Prefect hides what this raises and goes on with nothing cached, so it is said here."""
        if "/" not in path.strip("/"):
            return  # a failure, under a name that nobody looks up; what it was stands in the run's state and log
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
