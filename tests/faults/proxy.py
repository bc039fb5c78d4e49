"""A proxy in front of an S3 server that makes it fail, lie, or kill its client, at the request a test names.

    with proxying(upstream) as proxy:  # and the AWS settings of this process point at it
        proxy.faults.append(Fault("lost", method="PUT", path="champion"))

It also makes a server that enforces conditional writes behave like the other kinds of server (`Conditions`).
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple, cast
from unittest.mock import patch
from urllib.parse import urlsplit

Kind = Literal[
    "status",  # answers an error instead of forwarding
    "reset",  # breaks the connection instead of forwarding
    "hang",  # never answers
    "lost",  # forwards, then breaks the connection: the write landed, but the client gets no answer
    "reset in body",  # breaks the connection in the middle of the answer's body
    "truncated",  # ends the answer's body in the middle
    "corrupted",  # changes one byte of the answer's body
]
Conditions = Literal["as they are", "ignored", "refused", "swap refused", "unquoted only"]


@dataclass
class Fault:
    """A fault for `times` requests (None: all) whose method and path match, after the first `after` of them."""

    kind: Kind
    method: str = ""
    path: str = ""
    after: int = 0
    times: int | None = 1
    status: int = 503
    code: str = "SlowDown"

    def due(self, method: str, path: str) -> bool:
        """Whether this request gets the fault; counts matching requests."""
        if not (re.search(self.method, method) and re.search(self.path, path)) or self.times == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Request(NamedTuple):
    """A request that was forwarded, and what the server answered."""

    method: str
    path: str
    status: int

    @property
    def mutating(self) -> bool:
        """Whether it changed the store."""
        return self.method in {"PUT", "POST", "DELETE"} and self.status < 300


@dataclass
class Proxy:
    """The proxy's controls; everything may be changed while it runs."""

    upstream: str
    url: str = ""
    conditions: Conditions = "as they are"
    unknown_header: str = ""  # refused with 400, as Backblaze B2 refuses headers that it does not know
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    victim: int | None = None  # the process to kill …
    mutations_left: int = 0  # … once this many mutating requests have landed
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def kill(self, process: int, mutations: int) -> None:
        """Kill a process once so many more mutating requests have landed, before it gets the last one's answer."""
        with self.lock:
            self.victim, self.mutations_left = process, mutations

    def reset(self) -> None:
        """Forget all faults, the victim and the recorded requests."""
        with self.lock:
            self.faults, self.requests, self.victim = [], [], None

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault for this request, or None."""
        with self.lock:
            return next((fault for fault in self.faults if fault.due(method, path)), None)

    def landed(self, request: Request) -> bool:
        """Record a forwarded request. Kills the victim if it is due; returns whether it did."""
        with self.lock:
            self.requests.append(request)
            if self.victim is None or not request.mutating:
                return False
            self.mutations_left -= 1
            if self.mutations_left:
                return False
            os.kill(self.victim, signal.SIGKILL)
            self.victim = None
            return True


class Server(ThreadingHTTPServer):
    """Many connections at once; closes them without an orderly shutdown, so that the client sees a reset."""

    request_queue_size = 64

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.proxy = proxy

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: clients that were killed break their connections."""


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        proxy = cast(Server, self.server).proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused(proxy.conditions):
            return
        if proxy.unknown_header and self.headers.get(proxy.unknown_header):
            proxy.landed(Request(self.command, self.path, 400))
            self._error(400, "InvalidArgument")
            return
        fault = proxy.fault(self.command, self.path)
        kind = fault.kind if fault else None
        if fault and kind == "status":
            self._error(fault.status, fault.code)
        elif kind == "reset":
            self._reset()
        elif kind == "hang":
            proxy.closing.wait()
            self._reset()
        else:
            status, headers, data = self._forward(proxy, body)
            if proxy.landed(Request(self.command, self.path, status)) or kind == "lost":
                self._reset()
            else:
                self._answer(status, headers, data, kind)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = handle_one

    def _refused(self, conditions: Conditions) -> bool:
        """Treat conditional headers as another kind of server would; true if that answered the request."""
        create, swap = self.headers.get("If-None-Match"), self.headers.get("If-Match")
        if conditions == "ignored":
            del self.headers["If-None-Match"], self.headers["If-Match"]
        elif (conditions == "refused" and (create or swap)) or (conditions == "swap refused" and swap):
            self._error(501, "NotImplemented")
            return True
        elif conditions == "unquoted only" and swap:
            if swap.startswith('"'):
                self._error(412, "PreconditionFailed")
                return True
            del self.headers["If-Match"]
            self.headers["If-Match"] = f'"{swap}"'
        return False

    def _forward(self, proxy: Proxy, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"connection", "expect"}:
                upstream.putheader(name, value)
        upstream.putheader("Connection", "close")
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        return answer.status, answer.getheaders(), data

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, kind: Kind | None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "corrupted" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        half = kind in {"reset in body", "truncated"}
        self.wfile.write(data[: len(data) // 2] if half else data)
        if kind == "reset in body":
            self._reset()

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>said the proxy</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], text.encode(), None)

    def _reset(self) -> None:
        """Break the connection: the client sees a reset, not an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def proxying(upstream: str, conditions: Conditions = "as they are") -> Iterator[Proxy]:
    """A proxy in front of a server; while the block runs, the environment points at it."""
    proxy = Proxy(upstream, conditions=conditions)
    with Server(proxy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        try:
            with patch.dict(os.environ, AWS_ENDPOINT_URL_S3=proxy.url):
                yield proxy
        finally:  # a failed test must not leave a thread that waits forever
            proxy.closing.set()
            server.shutdown()
            thread.join()
