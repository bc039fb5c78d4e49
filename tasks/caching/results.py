"""Where Prefect keeps task results: in the run's own store, as JSON, under `cache/results/`.

A result is believed only if its own bytes, and those of every artifact that it names, are what they were; otherwise it
counts as not cached, which makes Prefect compute it anew and so heals the store.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from prefect.filesystems import WritableFileSystem
from pydantic import PrivateAttr

from tasks.errors import ArtifactError, KeyMissing, StoreError
from tasks.storage import Artifacts
from tasks.storage.objects import ObjectStore
from tasks.values import Artifact

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
            content = unsealed(self._store.get(_key(path)).data)
            for artifact in _artifacts(json.loads(json.loads(content)["result"])):
                self._artifacts.verify(artifact)
        except KeyMissing:
            raise
        except (ArtifactError, StoreError) as error:
            LOG.warning("%s: its cached result cannot be used and is computed anew: %s", _step(path), error)
            raise
        return content

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:  # type: ignore[override]
        """Write a result. Prefect hides what this raises and goes on with nothing cached, so it is said here."""
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


def sealed(content: bytes) -> bytes:
    """The content behind a line with its SHA-256."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unsealed(data: bytes) -> bytes:
    """The content of `sealed`. Raises ArtifactError where a byte of it changed."""
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ArtifactError("cannot use a cached result", "its bytes were altered", "Run again: it is computed anew.")
    return content


def _step(path: str) -> str:
    return path.strip("/").split("/")[0]


def _key(path: str) -> str:
    return f"cache/results/{str(path).lstrip('/')}.json"


def _artifacts(value: Any) -> Iterator[Artifact]:
    if isinstance(value, dict):
        if value.keys() == Artifact.model_fields.keys():
            yield Artifact.model_validate(value)
        else:
            for item in value.values():
                yield from _artifacts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _artifacts(item)
