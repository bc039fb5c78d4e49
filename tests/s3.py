"""S3 servers on this machine, over real sockets, with the standard AWS settings pointing at them.

`serving` is moto; `scripted` answers what a test tells it to, whatever it is asked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
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
    try:
        with patch.dict(os.environ, SETTINGS | {"AWS_ENDPOINT_URL_S3": url}):
            yield url
    finally:
        server.stop()


def make_bucket(name: str) -> None:
    """Create a bucket on the server that the environment points at."""
    where = {"LocationConstraint": "eu-central-1"}
    boto3.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=where)  # type: ignore[arg-type]


class Reply(NamedTuple):
    """What to answer; a `length` beyond the body's makes an answer that breaks off."""

    status: int
    body: bytes = b""
    length: int | None = None


def failure(status: int, code: str) -> Reply:
    """S3's way of saying no."""
    return Reply(status, f"<Error><Code>{code}</Code><Message>said\nthe server</Message></Error>".encode())


class Request(NamedTuple):
    """What was asked: header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@contextmanager
def scripted(replies: list[Reply]) -> Iterator[list[Request]]:
    """A server that gives these answers in turn, the last one for ever; the list of what it was asked."""
    asked: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # for the `100 Continue` that boto3 waits for

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = replies[min(len(asked), len(replies) - 1)]
            asked.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            self.send_response(reply.status)
            self.send_header("ETag", '"tag"')
            self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with patch.dict(os.environ, SETTINGS | {"AWS_ENDPOINT_URL_S3": url}):
                yield asked
        finally:
            server.shutdown()
            thread.join()
