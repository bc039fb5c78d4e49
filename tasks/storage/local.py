"""A store in a local directory, as strict as S3: atomic, durable, safe between processes.

Every write goes to a temporary file that is flushed to disk and then renamed or linked into place. So a reader sees
whole objects only, and a killed writer leaves at most a temporary file that no listing shows. The root may be a
symbolic link; below it none is followed, as whoever removes what a store holds would remove what is elsewhere. Opened
by `tasks.storage.open_store`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from tasks.errors import KeyConflict, KeyMissing, NotOffered, StoreError
from tasks.storage.objects import Entry, Stored, too_large

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

    def get(self, key: str, limit: int) -> Stored:
        """See `ObjectStore`."""
        with self._opened(key) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise too_large(str(self.path(key)), size, limit)
            data = file.read(size)
        return Stored(data, hashlib.sha256(data).hexdigest())

    def etag(self, key: str) -> str:
        """See `ObjectStore`: the SHA-256."""
        return self.sha256(key)

    def sha256(self, key: str) -> str:
        """The SHA-256 of an object of any size, in hex, read in pieces. Raises KeyMissing."""
        with self._opened(key) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

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
        """See `ObjectStore`. Has the names of no more than one folder of each level in memory."""
        folder = prefix.rpartition("/")[0]
        pending = _children(self._followed(folder) if folder else self.root, folder and f"{folder}/")
        while pending:
            key, item = pending.pop()
            if not key.startswith(prefix) or key.startswith(PRIVATE):
                continue
            if item.is_symlink():
                raise _linked(item.path)
            if key.endswith("/"):
                pending += _children(Path(item.path), key)
            else:
                yield from _entry(key, item)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        path = self._followed(key)
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

    def _followed(self, key: str) -> Path:
        """As `path`. Raises StoreError if the file, or a folder between it and the root, is a symbolic link."""
        self.path(key)
        path = self.root
        for part in key.split("/"):
            path /= part
            if os.path.islink(path):  # noqa: PTH114 - raises nothing for a path that cannot be looked at
                raise _linked(path)
        return path

    @contextmanager
    def _opened(self, key: str) -> Iterator[BufferedReader]:
        path = self._followed(key)
        try:
            with open(path, "rb", opener=_open_no_link) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StoreError(f"cannot read {path}", "it is no regular file", "Remove it.")
                yield file
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(self, key) from None
        except OSError as error:
            raise _failed(f"cannot read {path}", error) from error

    def _tag(self, key: str) -> str | None:
        try:
            return self.etag(key)
        except KeyMissing:
            return None

    @contextmanager
    def _temporary_file(self, key: str, data: bytes) -> Iterator[Path]:
        """A temporary file with the data, flushed to disk; deleted afterwards, unless it was renamed into place."""
        target = self._followed(key)
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
        with open(self._private() / f"{name}.lock", "ab", opener=_open_no_link) as file:
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
        if folder.is_symlink():
            raise _linked(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _open_no_link(path: str, flags: int) -> int:
    """Open a file that is no symbolic link; a pipe without waiting for its other end."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _children(folder: Path, base: str) -> list[tuple[str, os.DirEntry[str]]]:
    """What is in a folder, each with its key, the last first; a folder's ends with a slash, to sort as its files do.

    A folder that cannot be read is an error, never an empty one.
    """
    try:
        with os.scandir(folder) as items:
            keys = [(f"{base}{item.name}{'/' * item.is_dir(follow_symlinks=False)}", item) for item in items]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _failed(f"cannot list {folder}", error) from error
    return sorted(keys, key=lambda child: child[0], reverse=True)


def _entry(key: str, item: os.DirEntry[str]) -> Iterator[Entry]:
    try:
        status = item.stat(follow_symlinks=False)
    except FileNotFoundError:  # deleted meanwhile
        return
    except OSError as error:
        raise _failed(f"cannot list {item.path}", error) from error
    yield Entry(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


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


def _linked(path: str | os.PathLike[str]) -> StoreError:
    return StoreError(
        f"cannot use {path}",
        "it is a symbolic link, and below its root a store follows none",
        "Replace it by what it points to, or let --store name that folder.",
    )


def _failed(what: str, error: OSError) -> StoreError:
    if error.errno == errno.ELOOP and Path(error.filename).is_symlink():
        return _linked(error.filename)
    return StoreError(what, error.strerror or str(error), "Check the disk's free space and the folder's permissions.")
