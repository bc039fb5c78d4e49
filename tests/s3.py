"""An S3 server on this machine: moto, over a real socket, with the standard AWS settings pointing at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import boto3

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@contextmanager
def serving() -> Iterator[str]:
    """The server's address; while the block runs, the environment points at it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with patch.dict(os.environ, SETTINGS | {"AWS_ENDPOINT_URL_S3": url}):
        yield url
    server.stop()


def make_bucket(name: str) -> None:
    """Create a bucket on the server that the environment points at."""
    where = {"LocationConstraint": "eu-central-1"}
    boto3.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=where)  # type: ignore[arg-type]
