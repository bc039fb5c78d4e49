"""Keeps what XLA compiles for the CPU from one training to the next: it takes a third of the first epoch.

TensorFlow has a cache for that, which fails at an entry that is damaged or cannot be written. So it gets a temporary
folder with the entries that are intact, and what it adds there is kept after the training. An entry is machine code:
it comes from this user's own folder in RETRAIN_HOME alone, never from a store. Whatever is wrong with that folder costs
the second that compiling takes. Called by `tasks.learning.training` and `flows.cli.preload`.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from tasks.caching.keys import canonical, installed
from tasks.errors import ArtifactError, StoreError
from tasks.learning.device import compiled_for
from tasks.settings import home
from tasks.storage.local import LocalStore
from tasks.storage.verified import fetch_sealed, sealed

# The most entries that are kept for a kind of machine, the newest ones. A training has two, of 0.3 MB for the recipe.
MOST = 16

# Bytes: the largest entry, and the room that a temporary folder must have.
LARGEST = 64 << 20

# Seconds after which the temporary folder of a process that was killed is deleted. One that still trains compiles anew.
ABANDONED = 24 * 3600.0


@cache
def folder() -> Path | None:
    """This process' temporary folder of entries, for `backend.keras`; None where there can be none."""
    with suppress(OSError):
        if (own := _own_folder()) and shutil.disk_usage(own).free > LARGEST:
            temporary = _temporary(own)
            with suppress(StoreError):
                kept, prefix = _kept(own)
                for entry in kept.list(prefix):
                    with suppress(ArtifactError):
                        content = fetch_sealed(kept, entry.key, LARGEST)
                        (temporary / entry.key.removeprefix(prefix)).write_bytes(content)
            return temporary
    return None


def keep() -> None:
    """Keep what has been compiled in this process. Called after a training."""
    with suppress(OSError, StoreError):
        if (temporary := folder()) and (own := _own_folder()):
            kept, prefix = _kept(own)
            known = {entry.key for entry in kept.list(prefix)}
            for file in sorted(temporary.glob("*.pb"), key=lambda file: file.stat().st_mtime)[-MOST:]:
                if (key := prefix + file.name) not in known:
                    kept.put(key, sealed(file.read_bytes()))
            for old in sorted(kept.list(prefix), key=lambda entry: entry.modified)[:-MOST]:
                kept.delete(old.key)


def _own_folder() -> Path | None:
    """That of this machine and this TensorFlow; None if somebody else could write machine code there."""
    machine = hashlib.sha256(canonical([installed("tensorflow"), *compiled_for()])).hexdigest()[:16]
    path = home() / "cache" / "compiled" / machine
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return path if own else None


def _temporary(own: Path) -> Path:
    """A new folder for this process, deleted when it ends."""
    for path in own.glob("process-*"):
        if time.time() - path.stat().st_mtime > ABANDONED:
            shutil.rmtree(path, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix="process-", dir=own))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _kept(own: Path) -> tuple[LocalStore, str]:
    """The store of this user's copies, and the prefix of the entries that are kept in it."""
    store = LocalStore(home() / "cache")
    return store, f"compiled/{own.name}/kept/"
