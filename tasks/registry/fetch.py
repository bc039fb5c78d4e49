"""Copy a published version into a folder: verified, all or nothing. Called by `retrain fetch`.

A folder that holds another fetched version is updated: the new one is built beside it and takes its place in one step.
Where that cannot be (a mount point, a parent that cannot be written), it is built in `STAGE` inside the folder, and
`manifest.json` is removed first and written last: whoever reads that first sees the old version, none, or the new one.
May import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from tasks.errors import RegistryError, StoreError, UsageError
from tasks.registry.documents import Manifest, Pointer, encode, parse
from tasks.registry.registry import MODEL_FILE, Registry

MANIFEST = "manifest.json"

# Where a version is built inside a folder whose parent cannot be used, and in it the names of all files that the fetch
# may remove: they tell an interrupted fetch from somebody's own files.
STAGE, NAMES = ".retrain-fetch", "names.json"

# The errors of a parent that cannot be used: not permitted, read-only, a mount point, another file system.
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV}

# renameat2: exchange two paths, which are relative to the current folder or absolute.
RENAME_EXCHANGE, AT_FDCWD = 2, -100


def fetch_version(registry: Registry, which: int | Pointer, folder: Path) -> Manifest:
    """Copy a version's files and its manifest.json into a folder that is new, empty, or holds a fetched version.

    Verifies every byte before anything in the folder changes. A folder that holds this version already is verified and
    left as it is.

    Raises:
        RegistryError: The version is missing or damaged.
        UsageError: The folder holds something else.
        StoreError: The store cannot be read, or the folder cannot be written.
    """
    manifest = registry.manifest(which)
    registry.file(manifest, MODEL_FILE)
    if _has_version(registry, manifest, folder):
        return manifest
    try:
        folder = folder.resolve()
        old = _own_files(folder)
        if not (folder.is_mount() or _unusable_parent(folder)):
            try:
                _replace(registry, manifest, folder)
                return manifest
            except OSError as error:
                if error.errno not in UNUSABLE or not folder.is_dir():
                    raise
        _update(registry, manifest, folder, old)
    except OSError as error:
        raise StoreError(
            f"cannot fetch into {folder}", error.strerror or str(error), "Check the disk and the permissions."
        ) from error
    return manifest


def _has_version(registry: Registry, manifest: Manifest, folder: Path) -> bool:
    if (folder / STAGE).exists():
        return False
    try:
        for file in manifest.files:
            registry.check(manifest.version, file, (folder / file.path).read_bytes())
        return (folder / MANIFEST).read_bytes() == encode(manifest)
    except (OSError, RegistryError):
        return False


def _own_files(folder: Path) -> set[str]:
    """The paths in a folder, all of which a fetch has written. Raises UsageError for a folder with other files."""
    if not folder.exists():
        return set()
    refused = UsageError(f"cannot fetch into {folder}", "it holds something else", "Give a new folder.")
    if not folder.is_dir():
        raise refused
    known = {MANIFEST}
    with suppress(OSError, ValueError):
        known |= {*json.loads((folder / STAGE / NAMES).read_bytes())}
    with suppress(OSError, RegistryError):
        manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        known |= {file.path for file in manifest.files}
    if known == {MANIFEST}:
        known = set()
    system = {"lost+found"} if folder.is_mount() else set()
    found = set()
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in {STAGE, *system}]
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        found |= {(Path(parent) / name).relative_to(folder).as_posix() for name in [*names, *links]}
    if not found <= known:
        raise refused
    return found


def _unusable_parent(folder: Path) -> bool:
    return folder.is_dir() and not os.access(folder.parent, os.W_OK | os.X_OK)


def _replace(registry: Registry, manifest: Manifest, folder: Path) -> None:
    """Build the version beside the folder, then let it take the folder's place."""
    temporary = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        _build(registry, manifest, temporary)
        if not folder.exists():
            temporary.rename(folder)
            return
        shutil.copymode(folder, temporary)
        _exchange(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, folder: Path) -> None:
    """Exchange two folders in one step; where the system cannot, a reader sees no folder for a moment."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and not rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE):
        return
    aside = new.with_name(f"{new.name}-old")
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _update(registry: Registry, manifest: Manifest, folder: Path, old: set[str]) -> None:
    """Build the version inside the folder, then move its files into place: `manifest.json` last."""
    stage = folder / STAGE
    for left in stage.glob("version-*"):
        shutil.rmtree(left)
    names = {MANIFEST, *(file.path for file in manifest.files)}
    stage.mkdir(exist_ok=True)
    _write(stage / f"{NAMES}.new", json.dumps(sorted(old | names)).encode())
    (stage / f"{NAMES}.new").replace(stage / NAMES)
    version = stage / f"version-{manifest.version}"
    try:
        _build(registry, manifest, version)
    except BaseException:
        whole = (folder / MANIFEST).exists() or not old  # otherwise the names are still needed
        shutil.rmtree(stage if whole else version, ignore_errors=True)
        raise
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in sorted(old - names):
        (folder / path).unlink()
        with suppress(OSError):  # not empty
            (folder / path).parent.rmdir()
    for path in [*sorted(names - {MANIFEST}), MANIFEST]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (version / path).replace(folder / path)
    shutil.rmtree(stage)


def _build(registry: Registry, manifest: Manifest, folder: Path) -> None:
    for file in manifest.files:
        _write(folder / file.path, registry.read_file(manifest.version, file))
    _write(folder / MANIFEST, encode(manifest))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
