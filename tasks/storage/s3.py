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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from tasks.errors import KeyConflict, KeyMissing, StoreError, UsageError
from tasks.storage.objects import Entry, Stored

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

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

# How often a body that breaks off is asked for again: botocore retries requests, not bodies.
READS = 3

# What a server's error code means to a person: why, and what to do next.
CAUSES = {
    "NoSuchBucket": ("the bucket does not exist", "Create it, or correct --store."),
    "AccessDenied": (
        "access is denied (without s3:ListBucket a missing object is denied too)",
        "Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the prefix.",
    ),
    "403": ("access is denied", "Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the prefix."),
    "ExpiredToken": ("the session token has expired", "Log in again for fresh credentials."),
    "InvalidAccessKeyId": ("the server does not know the access key", "Check AWS_ACCESS_KEY_ID and the endpoint."),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", "Check AWS_SECRET_ACCESS_KEY."),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "Set the clock, for example with NTP."),
}


def client() -> S3Client:
    """A client for the standard AWS settings, `AWS_ENDPOINT_URL_S3` included.

    Raises UsageError for an `http://` endpoint that is not on this machine: it would send data in the clear.
    """
    session = boto3.Session()
    made = session.client("s3", config=CONFIG, region_name=session.region_name or "us-east-1")
    endpoint = urlsplit(made.meta.endpoint_url)
    if endpoint.scheme == "http" and not _is_loopback(endpoint.hostname or ""):
        raise UsageError(
            f"cannot use the S3 endpoint {made.meta.endpoint_url}", "it is not encrypted", "Use an https:// endpoint."
        )
    return made


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class S3Store:
    """An `ObjectStore` in a bucket, below a prefix."""

    def __init__(self, s3: S3Client, bucket: str, prefix: str) -> None:
        self._s3, self.bucket = s3, bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"

    @classmethod
    def open(cls, bucket: str, path: str) -> S3Store:
        """The store of `s3://bucket/path`. Raises UsageError."""
        if not bucket:
            raise UsageError("cannot use the store s3://", "it names no bucket", "Give s3://bucket/prefix.")
        return cls(client(), bucket, path.strip("/"))

    def get(self, key: str) -> Stored:
        """See `ObjectStore`."""
        for attempt in range(1, READS + 1):
            try:
                answer = self._call(key, self._s3.get_object)
                data = answer["Body"].read()
                if len(data) == answer["ContentLength"]:
                    return Stored(data, answer["ETag"])
            except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError):
                pass
            time.sleep(0.2 * attempt)
        raise StoreError(f"cannot read {self.address(key)}", f"the answer broke off {READS} times", "Try again.")

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
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._prefix + prefix)
        try:
            for page in pages:
                for item in page.get("Contents", []):
                    yield Entry(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"])
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            _raise_known(f"cannot list {self.address(prefix)}", error)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        self._call(key, self._s3.delete_object, "delete")

    def address(self, key: str) -> str:
        """See `ObjectStore`: an s3:// URL."""
        return f"s3://{self.bucket}/{self._prefix}{key}"

    def _write(self, key: str, data: bytes, **condition: Any) -> None:
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        self._call(key, functools.partial(self._s3.put_object, Body=data, ChecksumSHA256=digest, **condition), "write")

    def _write_if(self, key: str, data: bytes, **condition: Any) -> None:
        """A conditional write whose answer may lie.

        A retry inside botocore turns a write that landed into a 412, and an error or a time-out may come after the
        write landed: so whatever went wrong, the object's own bytes decide whether this write was the one.
        """
        try:
            self._write(key, data, **condition)
        except StoreError as failure:
            try:
                landed = self.get(key).data == data
            except KeyMissing:
                landed = False
            if not landed:
                if isinstance(failure, KeyConflict | KeyMissing):
                    raise KeyConflict(
                        f"cannot write {self.address(key)}", "another writer was first", "Read it again."
                    ) from failure
                raise

    def _call(self, key: str, request: Callable[..., T], verb: str = "read") -> T:
        try:
            return request(Bucket=self.bucket, Key=self._prefix + key)
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            _raise_known(f"cannot {verb} {self.address(key)}", error)


def _raise_known(what: str, error: Exception) -> NoReturn:
    """The error as one line: what failed, why, what to do next."""
    if isinstance(error, NoCredentialsError):
        raise StoreError(
            what, "there are no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
        )
    if not isinstance(error, ClientError):
        raise StoreError(what, str(error), "Check the network, AWS_ENDPOINT_URL_S3 and AWS_REGION.") from error
    answer: Any = error.response
    code = answer.get("Error", {}).get("Code", "")
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in {"NoSuchKey", "404"}:
        raise KeyMissing(what, "there is no such object", "Check the store's address.") from error
    if status in {409, 412}:
        raise KeyConflict(what, "the condition does not hold", "Read it again.") from error
    why, next_step = CAUSES.get(code, (f"the server answered {code or status}: {error}", "See the server's log."))
    raise StoreError(what, why, next_step) from error
