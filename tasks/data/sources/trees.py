"""Where the files of a source are: a folder, one file, an S3 prefix, or an address that cannot be listed.

Links are refused, because one may leave the folder. Only `open_tree` is called from outside this room.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from tasks.address import Address
from tasks.data.sources.interface import MOST_BYTES, MOST_FILES, File, Tree, shown, unreadable
from tasks.errors import DataError, KeyMissing, StoreError, UsageError
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore

# (name, limit in bytes) to a file's bytes; the name "" is the address itself. Raises KeyMissing.
Fetch = Callable[[str, int], bytes]

# What a source of one file is called, wherever it is.
SINGLE = (".npz", ".csv", ".parquet")

# What is asked for by name where nothing can be listed.
BY_NAME = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

BY_ADDRESS = "Give the address of one .npz, .csv or .parquet file, or of a folder with MNIST's four names."

DEEPEST = 8

HTTP = ("http://", "https://")

NEXT_STEP = "Give the path of a folder or a file, or an address: file:///folder, s3://bucket/prefix, https://host/file."


def open_tree(address: str, fetch: Fetch | None = None) -> Tree:
    """The files at a path, or at a `file://`, `s3://` or `https://` address.

    Args:
        address: A folder or a prefix; or one file, whose name then ends in .npz, .csv or .parquet.
        fetch: Reads files over HTTPS, within its own bounds of time.

    Raises:
        UsageError: The address cannot be used.
        DataError: Nothing is there.
    """
    if fetch and address.lower().startswith(HTTP):
        return Remote(str(Address(address)), fetch)
    return open_listed(address)


def open_listed(address: str) -> Folder | Bucket:
    """As `open_tree`, of an address that can be listed: a path, `file://` or `s3://`."""
    shown_address, single = str(Address(address)), address.lower().rstrip("/").endswith(SINGLE)
    try:
        if address.lower().startswith("s3://"):
            folder, _, name = address.rstrip("/").rpartition("/")
            return Bucket(shown_address, open_store(folder if single else address), name if single else "")
        store = open_store(address)
    except UsageError as error:
        raise UsageError(f"cannot use the source {shown_address!r}", error.why, NEXT_STEP, error.value) from error
    if not isinstance(store, LocalStore):
        raise UsageError(f"cannot use the source {shown_address!r}", "it is no known kind of address", NEXT_STEP)
    return Folder(store.root)


class Folder:
    """A `Tree` in a folder of this machine, or one file."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        if not path.exists():
            raise DataError(f"cannot read the source {shown(self.where)}", "it is not there", NEXT_STEP)
        self._root, self._only = (path, "") if path.is_dir() else (path.parent, path.name)

    @cached_property
    def files(self) -> tuple[File, ...]:
        """See `Tree`. A link or anything else that is no file is refused by name."""
        if self._only:
            status = (self._root / self._only).stat()
            return (File(self._only, status.st_size, f"{status.st_size} {status.st_mtime_ns}"),)
        return _bounded_listing(self._walk("", 0), self.where)

    def entries(self) -> Iterator[tuple[str, tuple[File, ...] | DataError]]:
        """What lies in the folder itself, by name: of a file or a folder, whose name ends with a slash, its files.

        What cannot be listed has its error instead, so that it is no error of the others.
        """
        if self._only:
            raise _one_file(self.where)
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries]
        except OSError as error:
            raise unreadable(self.where, error.strerror or type(error).__name__) from error
        for name in sorted(names):
            if not is_hidden(name.rstrip("/")):
                try:
                    yield name, self.entry(name)
                except DataError as error:
                    yield name, error

    def entry(self, name: str) -> tuple[File, ...]:
        """The files of one of `entries`, listed again. Raises DataError."""
        return _bounded_listing(self._found(name.rstrip("/"), 0), str(self._root / name))

    def read(self, name: str, limit: int) -> bytes:
        """See `Tree`."""
        with self.open(name, limit) as file:
            return file.read()

    def open(self, name: str, limit: int) -> BinaryIO:
        """See `Tree`. Only a file is opened, and no link, whatever stood there when it was listed."""
        path = self._root / name
        link = 0 if name == self._only else os.O_NOFOLLOW
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | link), "rb")
        except OSError as error:
            raise unreadable(str(path), error.strerror or type(error).__name__) from error
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            file.close()
            raise _no_file(str(path)) if not stat.S_ISREG(status.st_mode) else _too_large(str(path), limit)
        return file

    def _walk(self, folder: str, depth: int) -> Iterator[File]:
        if depth > DEEPEST:
            raise unreadable(str(self._root / folder), f"it lies more than {DEEPEST} folders deep")
        try:
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    if not is_hidden(name := f"{folder}{entry.name}"):
                        yield from self._found(name, depth)
        except OSError as error:
            raise unreadable(str(self._root / folder), error.strerror or type(error).__name__) from error

    def _found(self, name: str, depth: int) -> Iterator[File]:
        """A file, or the files of a folder."""
        path = f"{self._root}/{name}"
        try:
            status = os.lstat(path)
        except OSError as error:
            raise unreadable(path, error.strerror or type(error).__name__) from error
        if stat.S_ISLNK(status.st_mode):
            raise unreadable(path, "it is a link, and links are not followed", "Put the file itself there.")
        if stat.S_ISDIR(status.st_mode):
            inside = False
            for file in self._walk(f"{name}/", depth + 1):
                inside = True
                yield file
            if not inside:
                yield File(f"{name}/", 0, "empty")
        elif stat.S_ISREG(status.st_mode):
            yield File(name, status.st_size, f"{status.st_size} {status.st_mtime_ns}")
        else:
            raise _no_file(path)


class Bucket:
    """A `Tree` below an S3 prefix, or one object."""

    def __init__(self, where: str, store: ObjectStore, only: str) -> None:
        self.where, self._store, self._only = where, store, only

    @cached_property
    def files(self) -> tuple[File, ...]:
        """See `Tree`."""
        return _bounded_listing(self._list(self._only), self.where)

    def entries(self) -> Iterator[tuple[str, tuple[File, ...] | DataError]]:
        """See `Folder`."""
        if self._only:
            raise _one_file(self.where)
        found: dict[str, list[File]] = {}
        for file in self.files:
            found.setdefault("".join(file.name.partition("/")[:2]), []).append(file)
        yield from ((name, tuple(files)) for name, files in found.items())

    def entry(self, name: str) -> tuple[File, ...]:
        """See `Folder`."""
        return _bounded_listing(self._list(name), f"{self.where}/{name}")

    def read(self, name: str, limit: int) -> bytes:
        """See `Tree`."""
        return _read(lambda name, limit: self._store.get(name, limit).data, name, limit)

    def open(self, name: str, limit: int) -> BinaryIO:
        """See `Tree`."""
        return io.BytesIO(self.read(name, limit))

    def _list(self, name: str) -> Iterator[File]:
        """One object, or all below a prefix, "" or with a slash at its end."""
        for entry in self._store.list(name):
            folder = entry.key.endswith("/")  # what some tools write for a folder
            if not folder and not is_hidden(entry.key) and (name[-1:] in {"", "/"} or entry.key == name):
                yield File(entry.key, entry.size, f"{entry.size} {entry.modified.isoformat()}")


class Remote:
    """A `Tree` that cannot be listed: one file by its address, or the four IDX files in a folder, by name."""

    def __init__(self, where: str, fetch: Fetch) -> None:
        self.where, self._fetch = where, fetch
        self._held: dict[str, bytes] = {}

    @cached_property
    def files(self) -> tuple[File, ...]:
        """See `Tree`. Only by fetching a file is it known to be there, so it is held until it is read."""
        name = self.where.rpartition("/")[2]
        if name.lower().endswith(SINGLE):
            return (File(name, None, ""),)
        found = [spelling for name in BY_NAME if (spelling := self._first_of(f"{name}.gz", name))]
        if not found:
            why = f"nothing can be listed there, and there is no {BY_NAME[0]}, with .gz or without"
            raise unreadable(f"the source {self.where}", why, BY_ADDRESS)
        return tuple(File(name, len(self._held[name]), "") for name in found)

    def read(self, name: str, limit: int) -> bytes:
        """See `Tree`."""
        if name in self._held:
            return self._held.pop(name)
        file = "" if self.where.endswith(f"/{name}") else name
        return _read(lambda _, limit: self._fetch(file, limit), self.where if not file else name, limit)

    def open(self, name: str, limit: int) -> BinaryIO:
        """See `Tree`."""
        return io.BytesIO(self.read(name, limit))

    def _first_of(self, *names: str) -> str:
        for name in names:
            try:
                self._held[name] = self._fetch(name, MOST_BYTES)
            except KeyMissing:
                continue
            return name
        return ""


def is_hidden(name: str) -> bool:
    """Whether a system left this file beside the data: .DS_Store, Thumbs.db, or what macOS packs into an archive."""
    parts = name.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in {
        "thumbs.db",
        "desktop.ini",
    }


def _bounded_listing(found: Iterator[File], where: str) -> tuple[File, ...]:
    files = []
    for file in found:
        files.append(file)
        if len(files) > MOST_FILES:
            why = f"it has more than {MOST_FILES:,} files"
            raise DataError(f"cannot list {shown(where)}", why, "Pack them: as Parquet, .npz or IDX.")
    return tuple(sorted(files))


def _read(fetch: Fetch, name: str, limit: int) -> bytes:
    try:
        data = fetch(name, limit)
    except KeyMissing:
        raise unreadable(name, "it is not there") from None
    except StoreError as error:
        raise DataError(f"cannot read {shown(name)}", error.why, error.next_step) from error
    if len(data) > limit:
        raise _too_large(name, limit)
    return data


def _too_large(name: str, limit: int) -> DataError:
    return unreadable(name, f"it has more than the {limit:,} bytes that may be read")


def _one_file(where: str) -> DataError:
    why = "it is one file, and a source that grows is a folder of batches"
    return DataError(f"cannot list {shown(where)}", why, "Give the folder and /*.")


def _no_file(name: str) -> DataError:
    return unreadable(name, "it is neither a file nor a folder")
