"""Artifacts: bytes in the store under their own SHA-256, verified before every use.

A worker on another machine fetches an artifact once and keeps it in a local directory; both copies are hashed again
each time they are read, so a damaged one is never used. Called by the steps and the result cache.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import ArtifactError, KeyMissing
from tasks.storage.local import LocalStore
from tasks.storage.objects import ObjectStore
from tasks.storage.verified import fetch, write
from tasks.values import Artifact

LOG = logging.getLogger("retrain.store")

OBJECTS = "cache/objects/"


class Artifacts:
    """The artifacts of one store.

    Args:
        store: Where they are kept, under `cache/objects/`.
        local: A directory for copies of what a remote store holds; a local store needs none.
    """

    def __init__(self, store: ObjectStore, local: Path) -> None:
        self._store = store
        self._copies = None if isinstance(store, LocalStore) else LocalStore(local)

    def put(self, data: bytes, media_type: str) -> Artifact:
        """Keep bytes, and read them back. Costs one read where they are there already; damaged ones are replaced."""
        artifact = Artifact(sha256=hashlib.sha256(data).hexdigest(), size=len(data), media_type=media_type)
        try:
            self.verify(artifact)
        except ArtifactError:
            write(self._store, _key(artifact), data)
            self._keep_copy(artifact, data)
        return artifact

    def get(self, artifact: Artifact) -> bytes:
        """The artifact's bytes. Raises ArtifactError where they are missing, truncated or altered."""
        copy = self._copy(artifact)
        if copy is not None:
            return copy
        try:
            data = fetch(self._store, _key(artifact), artifact.sha256)
        except KeyMissing:
            raise _unusable(artifact, "it is not in the store") from None
        _check(artifact, data)
        self._keep_copy(artifact, data)
        return data

    def verify(self, artifact: Artifact) -> None:
        """Raise ArtifactError unless the artifact is in the store, whole.

        The bytes of a local store are hashed. Of a remote one the size is looked up and a local copy is hashed; where
        there is none yet, the object is fetched, so that what follows is sure to find it.
        """
        if self._copies:
            entries = {entry.key: entry.size for entry in self._store.list(_key(artifact))}
            size = entries.get(_key(artifact))
            if size is None:
                raise _unusable(artifact, "it is not in the store")
            if size != artifact.size:
                raise _unusable(artifact, f"the store has {size:,} of its {artifact.size:,} bytes")
        self.get(artifact)

    def _keep_copy(self, artifact: Artifact, data: bytes) -> None:
        if self._copies:
            self._copies.put(_key(artifact), data)

    def _copy(self, artifact: Artifact) -> bytes | None:
        if self._copies is None:
            return None
        try:
            data = self._copies.get(_key(artifact)).data
            _check(artifact, data)
        except KeyMissing:
            return None
        except ArtifactError as error:
            LOG.warning("the local copy is removed and fetched anew: %s", error)
            self._copies.delete(_key(artifact))
            return None
        return data


def named(plain: Any) -> Iterator[Artifact]:
    """Every artifact that a value names, at any depth, from the value as plain JSON types."""
    if isinstance(plain, dict):
        if plain.keys() == Artifact.model_fields.keys():
            yield Artifact.model_validate(plain)
        else:
            for item in plain.values():
                yield from named(item)
    elif isinstance(plain, list):
        for item in plain:
            yield from named(item)


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
        "Run again: the step that made it is then computed anew.",
        artifact.sha256,
    )
