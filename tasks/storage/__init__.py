"""Everything that keeps bytes: the object store (S3 or a local directory), artifacts, and the registry of versions.

Imports neither Prefect nor TensorFlow; opening a local store does not import boto3 either.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.errors import UsageError
from tasks.storage.artifacts import Artifacts
from tasks.storage.local import LocalStore
from tasks.storage.objects import ObjectStore
from tasks.storage.registry import Registry

__all__ = ["Artifacts", "ObjectStore", "Registry", "open_store"]


def open_store(url: str) -> ObjectStore:
    """Open a store by its address: `s3://bucket/prefix`, `file:///folder`, or a plain path.

    Opening checks the address and nothing else: see `tasks.storage.probe.check`. Raises UsageError.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from tasks.storage.s3 import S3Store

        return S3Store.open(parts.netloc, parts.path)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return LocalStore(Path(unquote(parts.path)))
    if url and "://" not in url:
        return LocalStore(Path(url).expanduser())
    raise UsageError(
        f"cannot use the store {url!r}",
        "it is no address of a store",
        "Give s3://bucket/prefix, file:///folder or a path.",
    )
