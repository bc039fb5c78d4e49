"""Bytes under keys: the object store (S3 or a local directory), a test of its capabilities, and artifacts.

Imports neither Prefect nor TensorFlow; opening a local store does not import boto3 either.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.address import is_plain, without_secrets
from tasks.errors import UsageError
from tasks.storage.artifacts import Artifacts
from tasks.storage.local import LocalStore
from tasks.storage.objects import ObjectStore

__all__ = ["Artifacts", "ObjectStore", "open_store"]

# The bucket names that botocore accepts. AWS is stricter; other servers allow capitals and underscores.
BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")

# S3 allows keys of 1,024 bytes. The longest key below a prefix is that of an entry in the ledger of batches, with 368.
LONGEST_PREFIX = 640


def open_store(url: str) -> ObjectStore:
    """Open a store by its address: `s3://bucket/prefix`, `file:///folder`, or a plain path.

    It checks only the address; `tasks.storage.probe.check` tests the store itself.

    Raises:
        UsageError: The address or the AWS settings cannot be used.
    """
    if not is_plain(url):
        raise _unusable(without_secrets(url), "an address holds no credentials: they come from the AWS settings")
    scheme = url.partition(":")[0].lower()
    if scheme == "s3":
        bucket, prefix = _bucket_and_prefix(url)
        from tasks.storage.s3 import S3Store

        return S3Store.open(bucket, prefix)
    if scheme == "file":
        return _local(url, _folder(url))
    if url and "://" not in url:
        _require_text(url, url)
        return _local(url, Path(url))
    raise _unusable(url, "it is not the address of a store")


def _bucket_and_prefix(url: str) -> tuple[str, str]:
    """Split `s3://bucket/prefix` literally: # and ? are ordinary characters of a key."""
    slashes, address = url[3:5], url[5:]
    bucket, _, prefix = address.partition("/")
    if slashes != "//" or not BUCKET.fullmatch(bucket):
        raise _unusable(url, f"{bucket!r} is not a bucket name")
    _require_text(url, prefix := prefix.strip("/"))
    if prefix and any(part in {"", ".", ".."} for part in prefix.split("/")):
        raise _unusable(url, "its prefix has an empty, . or .. part")
    if (size := len(prefix.encode())) > LONGEST_PREFIX:
        raise _unusable(
            f"{url[:40]}…", f"its prefix has {size:,} bytes, and {LONGEST_PREFIX} leave room for the names below it"
        )
    return bucket, prefix


def _require_text(url: str, text: str) -> None:
    """Refuse what no server takes as a key, or what would break a line or a terminal."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unusable(url, "it is not valid UTF-8") from None
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in text):
        raise _unusable(url, "it has a line break or another control character")


def _local(url: str, folder: Path) -> LocalStore:
    """The store in a folder; `~` is a home only in a plain path."""
    try:
        return LocalStore(folder if url[:5].lower() == "file:" else folder.expanduser())
    except RuntimeError:
        raise _unusable(url, "there is no such home folder") from None
    except FileNotFoundError:
        raise _unusable(url, "it is relative to the current folder, which was deleted") from None


def _folder(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _unusable(url, str(error)) from None
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise _unusable(url, "it is not a folder on this machine")
    if parts.query or parts.fragment:
        raise _unusable(url, "# and ? must be written %23 and %3F in a file:// address")
    _require_text(url, path := unquote(parts.path, errors="surrogateescape"))
    return Path(path)


def _unusable(url: str, why: str) -> UsageError:
    return UsageError(
        f"cannot use the store {url!r}", why, "Give s3://bucket/prefix, file:///folder or the path of a folder.", url
    )
