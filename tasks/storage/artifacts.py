"""Artifacts: bytes in the store under their own SHA-256, verified before every use.

A worker on another machine fetches an artifact once and stores a copy in a local directory. Every read hashes the
bytes again, so a damaged copy is never used. Called by the steps and the result cache; no Prefect, no TensorFlow.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.errors import ArtifactError, KeyMissing, ObjectTooLarge, StoreError
from tasks.storage.local import LocalStore
from tasks.storage.objects import ObjectStore
from tasks.storage.verified import fetch, write
from tasks.values import Artifact

LOG = logging.getLogger("retrain.store")

OBJECTS = "cache/objects/"


class Artifacts:
    """The artifacts of one store.

    Args:
        store: Holds them under `cache/objects/`.
        local: A directory for copies of a remote store's artifacts; not used for a local store.
    """

    def __init__(self, store: ObjectStore, local: Path) -> None:
        self._store, self._is_remote = store, not isinstance(store, LocalStore)
        self._copies = LocalStore(local) if self._is_remote else None

    def put(self, data: bytes, media_type: str) -> Artifact:
        """Store bytes and read them back. If they are stored intact already, only read; damaged ones are replaced."""
        artifact = Artifact(sha256=hashlib.sha256(data).hexdigest(), size=len(data), media_type=media_type)
        try:
            self.verify(artifact)
        except ArtifactError:
            write(self._store, _key(artifact), data)
            self._keep_copy(artifact, data)
        return artifact

    def get(self, artifact: Artifact) -> bytes:
        """The artifact's bytes. Raises ArtifactError if they are missing, truncated or altered."""
        copy = self._copy(artifact)
        if copy is not None:
            return copy
        try:
            data = fetch(self._store, _key(artifact), artifact.sha256, artifact.size)
        except KeyMissing:
            raise _unusable(artifact, "it is not in the store") from None
        except ObjectTooLarge as error:
            raise _unusable(artifact, error.why) from error
        _check(artifact, data)
        self._keep_copy(artifact, data)
        return data

    def verify(self, artifact: Artifact) -> bytes:
        """The artifact's bytes. Raises ArtifactError unless it is in the store, whole.

        In a local store it hashes the object. In a remote store it compares the object's size and hashes the local
        copy; without a copy it fetches the object, so that the step's own read needs no second transfer.
        """
        if self._is_remote:
            entries = self._store.list(_key(artifact))
            size = next((entry.size for entry in entries if entry.key == _key(artifact)), None)
            if size is None:
                raise _unusable(artifact, "it is not in the store")
            if size != artifact.size:
                raise _unusable(artifact, f"the store has {size:,} of its {artifact.size:,} bytes")
        return self.get(artifact)

    def _keep_copy(self, artifact: Artifact, data: bytes) -> None:
        """Keep a copy; where that is impossible, say so once and go on without."""
        if self._copies is None:
            return
        try:
            self._copies.put(_key(artifact), data)
        except StoreError as error:
            LOG.warning("artifacts are fetched for every use: %s", error)
            self._copies = None

    def _copy(self, artifact: Artifact) -> bytes | None:
        if self._copies is None:
            return None
        try:
            data = self._copies.get(_key(artifact), artifact.size).data
            _check(artifact, data)
        except (ArtifactError, ObjectTooLarge) as error:
            LOG.warning("the local copy is deleted and fetched anew: %s", error)
            with suppress(StoreError):  # it is overwritten, or not used
                self._copies.delete(_key(artifact))
            return None
        except StoreError:  # there is none, or it cannot be read
            return None
        return data


def artifacts_in(plain: Any) -> Iterator[Artifact]:
    """Every artifact in a value, at any depth; the value is given as plain JSON types."""
    if isinstance(plain, dict):
        if plain.keys() == Artifact.model_fields.keys():
            yield Artifact.model_validate(plain)
        else:
            for item in plain.values():
                yield from artifacts_in(item)
    elif isinstance(plain, list):
        for item in plain:
            yield from artifacts_in(item)


def _key(artifact: Artifact) -> str:
    return f"{OBJECTS}{artifact.sha256}"


def _check(artifact: Artifact, data: bytes) -> None:
    if len(data) != artifact.size:
        raise _unusable(artifact, f"it has {len(data):,} bytes instead of {artifact.size:,}")
    if hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise _unusable(artifact, "its bytes were altered")


def _unusable(artifact: Artifact, why: str) -> ArtifactError:
    return ArtifactError(
        f"cannot use the artifact {artifact.sha256[:12]}… ({artifact.media_type})",
        why,
        "Run again: the step that produced it then runs again.",
        artifact.sha256,
    )
