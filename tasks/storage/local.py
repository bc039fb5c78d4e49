"""A store in a local directory, as strict as S3: atomic, durable, safe between processes.

Every write goes to a temporary file that is flushed to disk and then renamed or linked into place. So a reader sees
whole objects only, and a killed writer leaves at most a temporary file that no listing shows. Opened by
`tasks.storage.open_store`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import KeyConflict, KeyMissing, NotOffered, StoreError
from tasks.storage.objects import Entry, Stored

# The directory of temporary files and locks: no key may begin with it, and listings omit it.
PRIVATE = ".retrain"

# How file systems refuse what they do not have: hard links (exFAT, SMB, gcsfuse), locks (some network mounts), and the
# flush of a folder (some network and FUSE mounts).
NOT_OFFERED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK}


class LocalStore:
    """An `ObjectStore` in a directory; keys are paths below it. The first write creates the directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    def get(self, key: str) -> Stored:
        """See `ObjectStore`."""
        try:
            data = self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(self, key) from None
        except OSError as error:
            raise _failed(f"cannot read {self.path(key)}", error) from error
        return Stored(data, hashlib.sha256(data).hexdigest())

    def put(self, key: str, data: bytes) -> None:
        """See `ObjectStore`."""
        with self._temporary_file(key, data) as temporary, self._lock(key):
            temporary.replace(self.path(key))

    def put_once(self, key: str, data: bytes) -> None:
        """See `ObjectStore`. `link` is atomic between processes and fails if the target exists.

        Raises NotOffered where the file system has no hard links.
        """
        with self._temporary_file(key, data) as temporary:
            try:
                self.path(key).hardlink_to(temporary)
            except FileExistsError:
                if self._tag(key) != hashlib.sha256(data).hexdigest():
                    raise KeyConflict(f"cannot create {self.path(key)}", "it exists already", "Read it.") from None
            except OSError as error:
                if error.errno not in NOT_OFFERED:
                    raise
                raise _not_offered(self.path(key), "hard links", error) from error

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        """See `ObjectStore`. The kernel releases the lock of a process that dies.

        Raises NotOffered where the file system has no locks.
        """
        with self._temporary_file(key, data) as temporary, self._lock(key) as missing:
            if missing:
                raise _not_offered(self.path(key), "locks", missing) from missing
            if self._tag(key) not in {etag, hashlib.sha256(data).hexdigest()}:
                raise KeyConflict(f"cannot replace {self.path(key)}", "it changed since it was read", "Read it again.")
            temporary.replace(self.path(key))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `ObjectStore`."""
        folder = prefix.rpartition("/")[0]
        start = self.path(folder) if folder else self.root
        paths = (Path(parent) / name for parent, _, names in os.walk(start, onerror=_raise_unlisted) for name in names)
        keys = sorted(path.relative_to(self.root).as_posix() for path in paths)
        for key in keys:
            if key.startswith(prefix) and not key.startswith(PRIVATE):
                yield from self._entry(key)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        path = self.path(key)
        try:
            if path.exists():
                with self._lock(key):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(f"cannot delete {path}", error) from error

    def address(self, key: str) -> str:
        """See `ObjectStore`: a path."""
        return str(self.path(key))

    def path(self, key: str) -> Path:
        """The file of a key. Raises ValueError for a key that would leave the store."""
        parts = key.split("/")
        if key.startswith(PRIVATE) or any(part in {"", ".", ".."} for part in parts):
            raise ValueError(f"not a key: {key!r}")
        return self.root.joinpath(*parts)

    def _tag(self, key: str) -> str | None:
        try:
            return self.get(key).etag
        except KeyMissing:
            return None

    def _entry(self, key: str) -> Iterator[Entry]:
        try:
            status = self.path(key).stat()
        except FileNotFoundError:  # deleted meanwhile
            return
        yield Entry(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    @contextmanager
    def _temporary_file(self, key: str, data: bytes) -> Iterator[Path]:
        """A temporary file with the data, flushed to disk; deleted afterwards, unless it was renamed into place."""
        target = self.path(key)
        try:
            _make_directory(target.parent)
            temporary = _write_temporary(self._private(), data)
            try:
                yield temporary
                _flush_directory(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(f"cannot write {target}", error) from error

    @contextmanager
    def _lock(self, key: str) -> Iterator[OSError | None]:
        """Lock the key between processes; gives the error of a file system that has no locks.

        Keys share 256 lock files, so that their number stays bounded.
        """
        name = hashlib.sha256(key.encode()).hexdigest()[:2]
        with (self._private() / f"{name}.lock").open("ab") as file:
            missing = None
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NOT_OFFERED:
                    raise
                missing = error
            yield missing

    def _private(self) -> Path:
        folder = self.root / PRIVATE
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _write_temporary(folder: Path, data: bytes) -> Path:
    path = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _make_directory(folder: Path) -> None:
    """Create a directory and its parents, and flush each new entry to disk."""
    if folder.is_dir():
        return
    _make_directory(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_directory(folder.parent)


def _flush_directory(folder: Path) -> None:
    """Flush a directory's entries to disk, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    finally:
        os.close(descriptor)


def _not_offered(path: Path, what: str, error: OSError) -> NotOffered:
    why = f"its file system has no {what} ({error.strerror or error})"
    return NotOffered(f"cannot write {path} on a condition", why, "Run `retrain doctor` to see what the store can do.")


def _missing(store: LocalStore, key: str) -> KeyMissing:
    return KeyMissing(f"cannot read {store.path(key)}", "there is no such file", "Check the store's address.")


def _failed(what: str, error: OSError) -> StoreError:
    return StoreError(what, error.strerror or str(error), "Check the disk's free space and the folder's permissions.")


def _raise_unlisted(error: OSError) -> None:
    """A directory that cannot be read is an error, never an empty one."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise _failed(f"cannot list {error.filename}", error) from error
