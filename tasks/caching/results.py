"""Where Prefect keeps task results: in the run's own store, as JSON, under `cache/results/`.

A result is believed only if every artifact that it names is there and has the right bytes; otherwise it counts as
not cached, which makes Prefect compute it anew and so heals the store.
"""

from __future__ import annotations

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
        """Read a result whose artifacts are all intact. Raises KeyMissing or ArtifactError, both a miss to Prefect."""
        content = self._store.get(_key(path)).data
        for artifact in _artifacts(json.loads(json.loads(content)["result"])):
            self._verify(path, artifact)
        return content

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:  # type: ignore[override]
        """Write a result. Prefect hides what this raises and goes on with nothing cached, so it is said here."""
        try:
            self._store.put(_key(path), content)
        except StoreError as error:
            LOG.warning("%s: its result is not cached: %s", path.strip("/").split("/")[0], error)
            raise

    async def aread_path(self, path: str) -> bytes:
        """As `read_path`."""
        return self.read_path(path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        """As `write_path`."""
        self.write_path(path, content)

    def _verify(self, path: str, artifact: Artifact) -> None:
        try:
            self._artifacts.verify(artifact)
        except (ArtifactError, KeyMissing) as error:
            LOG.warning(
                "%s: its cached result cannot be used and is computed anew: %s", path.strip("/").split("/")[0], error
            )
            raise

    def _resolve_path(self, path: str) -> PurePosixPath:
        # Prefect asks unsaved storage for absolute paths and makes them relative again.
        return PurePosixPath("/") / path


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
