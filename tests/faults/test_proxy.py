"""The proxy itself: each fault has its documented effect on a client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError, ResponseStreamingError

from tasks.storage.s3 import CONFIG
from tests.faults.proxy import Fault, Kind, Proxy, proxying

ONCE = CONFIG.merge(Config(retries={"total_max_attempts": 1}, read_timeout=1))


@pytest.fixture
def proxy(s3_server: str, bucket: str) -> Iterator[Proxy]:
    with proxying(s3_server) as proxy:
        client().put_object(Bucket=name(bucket), Key="key", Body=b"the data")
        yield proxy


def client() -> Any:
    return boto3.client("s3", config=ONCE)


def name(bucket: str) -> str:
    return bucket.removeprefix("s3://")


def get(bucket: str) -> bytes:
    return bytes(client().get_object(Bucket=name(bucket), Key="key")["Body"].read())


def put(bucket: str, **condition: str) -> None:
    client().put_object(Bucket=name(bucket), Key="key", Body=b"changed", **condition)


def test_without_faults_nothing_changes(proxy: Proxy, bucket: str) -> None:
    assert get(bucket) == b"the data"
    assert [request.method for request in proxy.requests] == ["PUT", "GET"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        put(bucket, IfNoneMatch="*")


READS: list[tuple[Kind, type[Exception]]] = [
    ("status", ClientError),
    ("reset", ConnectionClosedError),
    ("hang", ReadTimeoutError),
    ("lost", ConnectionClosedError),
    ("reset in body", ResponseStreamingError),
    ("truncated", ResponseStreamingError),
]


@pytest.mark.parametrize(("kind", "error"), READS)
def test_a_read_gets_its_fault_once(proxy: Proxy, bucket: str, kind: Kind, error: type[Exception]) -> None:
    proxy.faults.append(Fault(kind, method="GET", path="key"))
    with pytest.raises(error):
        get(bucket)
    assert get(bucket) == b"the data"


def test_a_corrupted_answer_has_one_other_byte(proxy: Proxy, bucket: str) -> None:
    proxy.faults.append(Fault("corrupted"))
    assert get(bucket) == b"the dat`"  # the last bit


@pytest.mark.parametrize(("kind", "landed"), [("status", False), ("reset", False), ("hang", False), ("lost", True)])
def test_a_write_lands_or_not(proxy: Proxy, bucket: str, kind: Kind, landed: bool) -> None:
    proxy.faults.append(Fault(kind, method="PUT"))
    with pytest.raises((ClientError, ConnectionClosedError, ReadTimeoutError)):
        put(bucket)
    assert get(bucket) == (b"changed" if landed else b"the data")


def test_a_fault_can_wait_and_last(proxy: Proxy, bucket: str) -> None:
    proxy.faults.append(Fault("status", method="GET", after=1, times=None))
    assert get(bucket)
    for _ in range(3):
        with pytest.raises(ClientError, match="SlowDown"):
            get(bucket)


def test_conditions_can_be_ignored_refused_or_wanted_without_quotes(proxy: Proxy, bucket: str) -> None:
    etag = client().get_object(Bucket=name(bucket), Key="key")["ETag"]
    proxy.conditions = "refused"
    with pytest.raises(ClientError, match="NotImplemented"):
        put(bucket, IfNoneMatch="*")
    proxy.conditions = "swap refused"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        put(bucket, IfNoneMatch="*")
    with pytest.raises(ClientError, match="NotImplemented"):
        put(bucket, IfMatch=etag)
    proxy.conditions = "unquoted only"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        put(bucket, IfMatch=etag)
    put(bucket, IfMatch=etag.strip('"'))
    proxy.conditions = "ignored"
    put(bucket, IfNoneMatch="*")


def test_a_hang_ends_with_the_proxy(s3_server: str, bucket: str) -> None:
    start = time.monotonic()
    with proxying(s3_server) as proxy:
        proxy.faults.append(Fault("hang", times=None))
        with pytest.raises(ReadTimeoutError):
            get(bucket)
    assert time.monotonic() - start < 30
