"""Copy a published version into a folder: verified, all or nothing. Called by `retrain fetch`.

May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from tasks.errors import StoreError, UsageError
from tasks.registry.documents import Manifest, Pointer, encode, sha256
from tasks.registry.registry import Registry


def fetch_version(registry: Registry, which: int | Pointer, folder: Path) -> Manifest:
    """Copy a version's files and its manifest.json into a new or empty folder.

    Verifies every byte in a temporary folder, then renames that: a reader of the folder sees nothing or all. A folder
    that holds this version already is verified and left as it is.

    Raises:
        RegistryError: The version is missing or damaged.
        UsageError: The folder holds something else.
        StoreError: The store cannot be read, or the folder cannot be written.
    """
    manifest = registry.manifest(which)
    if _has_version(folder, manifest):
        return manifest
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"cannot fetch into {folder}", "it holds something else", "Give a new folder.")
    temporary = folder.absolute().parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        for file in manifest.files:
            _write(temporary / file.path, registry.read_file(manifest.version, file))
        _write(temporary / "manifest.json", encode(manifest))
        temporary.rename(folder)
    except OSError as error:
        raise StoreError(
            f"cannot fetch into {folder}", error.strerror or str(error), "Check the disk and the permissions."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _has_version(folder: Path, manifest: Manifest) -> bool:
    try:
        digests = {file.path: sha256((folder / file.path).read_bytes()) for file in manifest.files}
        same_manifest = (folder / "manifest.json").read_bytes() == encode(manifest)
    except OSError:
        return False
    return same_manifest and digests == {file.path: file.sha256 for file in manifest.files}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
