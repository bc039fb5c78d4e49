"""A store in an S3-compatible bucket, through boto3.

The client is set up for servers that are not AWS: no checksum trailers, signed payloads, an explicit SHA-256, bounded
waits. Endpoint, region and credentials come from the standard AWS settings alone. Opened by `tasks.storage.open_store`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError
from urllib3.exceptions import HTTPError

from tasks.address import Address
from tasks.errors import KeyConflict, KeyMissing, StoreError, UsageError
from tasks.settings import allow_http, require_usable_environment
from tasks.storage.objects import Entry, Stored, too_large
from tasks.storage.refusals import FAILURES, Answer, may_be_unknown_header, refuse, unusable_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

T = TypeVar("T")

CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
    # Newer boto3 adds checksum trailers by default, which break many S3-compatible servers, over TLS only.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    s3={"payload_signing_enabled": True},
)

# Seconds to wait for an answer until the store has given one, so that an endpoint that never answers costs a minute;
# and the most bytes of a write that waits no longer.
FIRST_ANSWER = 14
SMALL = 1 << 20

# Pages that a browser shows, instead of saving them, where a bucket is also a web site. Everything else is bytes.
CONTENT_TYPES = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8", "json": "application/json"}

# boto3's description of S3, read once: that takes most of the 0.13 s that a new client costs.
MODELS = botocore.loaders.create_loader()

# Attempts for what botocore does not retry itself: a truncated body, an invalid listing, and an error with one of these
# codes, after which the server has changed nothing and the same request may succeed.
ATTEMPTS = 4
RETRY_CODES = {
    "ConditionalRequestConflict",
    "OperationAborted",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}


def client(config: Config | None = None) -> S3Client:
    """A client for the standard AWS settings, `AWS_ENDPOINT_URL_S3` included.

    A custom endpoint is addressed by path (`https://host/bucket/key`) unless the AWS settings say `virtual`.

    Raises:
        UsageError: Invalid settings, or an `http://` endpoint on another machine without `allow_http()`: it would send
            data unencrypted.
    """
    require_usable_environment()
    try:
        core = botocore.session.get_session()
        core.register_component("data_loader", MODELS)
        session = boto3.Session(botocore_session=core)
        s3 = session.client("s3", config=config or CONFIG, region_name=session.region_name or "us-east-1")
        _require_printable(session.get_credentials())
    except (BotoCoreError, ValueError) as error:
        why = unusable_settings(error)
        raise UsageError("cannot use the AWS settings", why, "Correct the AWS_… variables.") from error
    endpoint = urlsplit(s3.meta.endpoint_url)
    if endpoint.scheme == "http" and not (_is_loopback(endpoint.hostname or "") or allow_http()):
        raise UsageError(
            f"cannot use the S3 endpoint {Address(s3.meta.endpoint_url)}",
            "it is not encrypted",
            "Use an https:// endpoint, or give --allow-http to send everything in the clear.",
        )
    return s3


def _require_printable(credentials: Any) -> None:
    """Refuse given keys that no header takes: the HTTP client would repeat them in its error."""
    if type(credentials) is not Credentials:  # none, or fetched from a service
        return
    values = {
        "aws_access_key_id": credentials.access_key,
        "aws_secret_access_key": credentials.secret_key,
        "aws_session_token": credentials.token or "",
    }
    for name, value in values.items():
        if not (value.isascii() and value.isprintable()):
            where = name.upper() if credentials.method == "env" else f"{name} of the profile"
            raise UsageError(f"cannot use {where}", "it has a character that no key has", "Copy it again.")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class S3Store:
    """An `ObjectStore` in a bucket, below a prefix.

    Args:
        first: The client until the store has answered once, impatient.
        s3: The client from then on.
        bucket: The bucket's name.
        prefix: The prefix of all keys, without a slash at its end.
    """

    def __init__(self, first: S3Client, s3: S3Client, bucket: str, prefix: str) -> None:
        self._first, self._s3, self.bucket = first, s3, bucket
        self._answered = False
        # Whether the server takes a write's SHA-256; None until a write has shown it. Some refuse the header.
        self._takes_checksum: bool | None = None
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"

    @classmethod
    def open(cls, bucket: str, prefix: str) -> S3Store:
        """The store of `s3://bucket/prefix`. Raises UsageError."""
        impatient = Config(read_timeout=min(FIRST_ANSWER, CONFIG.read_timeout))  # type: ignore[attr-defined]
        return cls(client(CONFIG.merge(impatient)), client(), bucket, prefix)

    def get(self, key: str, limit: int) -> Stored:
        """See `ObjectStore`."""
        return self._read(key, lambda answer: self._body(key, answer, limit))

    def etag(self, key: str) -> str:
        """See `ObjectStore`. A GET whose body is not read: a HEAD that fails has no error code."""
        return self._read(key, lambda _: b"").etag

    def put(self, key: str, data: bytes) -> None:
        """See `ObjectStore`."""
        self._write(key, data)

    def put_once(self, key: str, data: bytes) -> None:
        """See `ObjectStore`."""
        self._write_if(key, data, IfNoneMatch="*")

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        """See `ObjectStore`."""
        self._write_if(key, data, IfMatch=etag)

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `ObjectStore`."""
        page = self._page(prefix)
        while True:
            for item in page.get("Contents", []):
                yield Entry(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"])
            if not page["IsTruncated"]:
                return
            page = self._page(prefix, ContinuationToken=page["NextContinuationToken"])

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        with suppress(KeyMissing):  # S3 does not report a missing object, some servers do
            self._call("delete", key, self._client().delete_object)

    def address(self, key: str) -> str:
        """See `ObjectStore`: an s3:// URL."""
        return f"s3://{self.bucket}/{self._prefix}{key}"

    def _read(self, key: str, body: Callable[[GetObjectOutputTypeDef], bytes | None]) -> Stored:
        """Read an object, again if the answer breaks off. `body` returns its bytes, or None where some are missing."""
        for _ in _attempts():
            try:
                answer = self._call("read", key, self._client().get_object)
                with closing(answer["Body"]):  # where bytes are left, this ends the connection
                    if "ETag" not in answer:
                        raise _not_s3(f"cannot read {self.address(key)}", "it has no ETag")
                    data = body(answer)
            except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError, HTTPError):
                continue
            if data is not None:
                return Stored(data, answer["ETag"])
        raise StoreError(f"cannot read {self.address(key)}", f"the answer broke off {ATTEMPTS} times", "Try again.")

    def _body(self, key: str, answer: GetObjectOutputTypeDef, limit: int) -> bytes | None:
        """Raises ObjectTooLarge as soon as that is known: some servers do not tell the length first."""
        size = answer.get("ContentLength")
        if size is not None and size > limit:
            raise too_large(self.address(key), size, limit)
        data = answer["Body"].read(limit + 1)
        if len(data) > limit:
            raise too_large(self.address(key), None, limit)
        return data if size in {None, len(data)} else None

    def _page(self, prefix: str, **token: Any) -> ListObjectsV2OutputTypeDef:
        """One page of a listing, validated: botocore accepts an empty or a non-S3 answer as an empty listing."""
        for _ in _attempts():
            try:
                page = self._client().list_objects_v2(Bucket=self.bucket, Prefix=self._prefix + prefix, **token)
            except FAILURES as error:
                refuse("list", self.address(prefix), error)
            self._answered = True
            if _is_whole(page, token.get("ContinuationToken")):
                return page
        raise _not_s3(f"cannot list {self.address(prefix)}", "it is not a whole listing")

    def _client(self, size: int = 0) -> S3Client:
        return self._s3 if self._answered or size > SMALL else self._first

    def _write(self, key: str, data: bytes, **condition: Any) -> None:
        """Write with the data's SHA-256, or without it if the server refuses it: the signature covers the data too."""
        put = self._client(len(data)).put_object
        plain = functools.partial(put, Body=data, **_content_type(key), **condition)
        if self._takes_checksum is False:
            self._call("write", key, plain, condition)
            return
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        try:
            self._call("write", key, functools.partial(plain, ChecksumSHA256=digest), condition)
            self._takes_checksum = True
        except StoreError as refusal:
            if self._takes_checksum or not may_be_unknown_header(refusal.__cause__):
                raise
            self._write_plain(key, plain, condition, refusal)

    def _write_plain(
        self, key: str, plain: Callable[..., Any], condition: Collection[str], refusal: StoreError
    ) -> None:
        """Write without a checksum. Raises `refusal`, the answer to the write with one, if that was not the cause."""
        try:
            self._call("write", key, plain, condition)
        except (KeyConflict, KeyMissing):
            self._takes_checksum = False
            raise
        except StoreError:
            raise refusal from refusal.__cause__
        self._takes_checksum = False

    def _write_if(self, key: str, data: bytes, **condition: Any) -> None:
        """A conditional write that checks the object after any error.

        A retry inside botocore turns a write that succeeded into a 412, and an error or a time-out may come after the
        write succeeded. So after an error the write counts as successful if the object has its bytes.
        """
        try:
            self._write(key, data, **condition)
        except StoreError as failure:
            if self._holds(key, data):
                return
            if isinstance(failure, KeyMissing):  # no object to replace
                raise KeyConflict(
                    failure.what, "the object was deleted since it was read", "Read it again."
                ) from failure
            raise

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, len(data)).data == data
        except StoreError:  # missing, larger or unreadable: the caller raises the write's own error
            return False

    def _call(self, verb: str, key: str, request: Callable[..., T], condition: Collection[str] = ()) -> T:
        for attempt in _attempts():
            try:
                answer = request(Bucket=self.bucket, Key=self._prefix + key)
                self._answered = True
                return answer
            except FAILURES as error:
                self._answered |= Answer.of(error).status > 0
                if Answer.of(error).code not in RETRY_CODES or attempt == ATTEMPTS:
                    refuse(verb, self.address(key), error, condition)
        raise AssertionError("unreachable")


def _attempts() -> Iterator[int]:
    """1, 2, … with a longer wait before each further attempt (0.2 s, 0.4 s, 0.8 s)."""
    for attempt in range(1, ATTEMPTS + 1):
        yield attempt
        if attempt < ATTEMPTS:
            time.sleep(0.1 * 2**attempt)


def _is_whole(page: ListObjectsV2OutputTypeDef, token: str | None) -> bool:
    """Whether a page is marked as the last, or has the token of the next."""
    if page.get("IsTruncated"):
        return page.get("NextContinuationToken") not in {None, "", token}
    return "IsTruncated" in page


def _content_type(key: str) -> dict[str, Any]:
    kind = CONTENT_TYPES.get(key.rpartition(".")[2])
    return {"ContentType": kind} if kind else {}


def _not_s3(what: str, why: str) -> StoreError:
    why = f"the answer is not that of an S3 server: {why}"
    return StoreError(what, why, "Check AWS_ENDPOINT_URL_S3, or try again.")
