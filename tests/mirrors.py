"""A real mirror on this machine that can misbehave, and small data sets for it to serve."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import numpy as np
from hypothesis import strategies as st

from tasks.data import idx
from tasks.data.datasets import MNIST, FileSpec, Spec, digest

Contents = dict[str, bytes]


@dataclass(frozen=True)
class Answer:
    """What the mirror does when a path is asked for: the first `failures` times it answers 503 instead."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # the connection ends after so many bytes of the body
    drip: float = 0.0  # seconds between two bytes
    hang: float = 0.0  # seconds before the first byte
    failures: int = 0


class Mirror:
    """A web server on this machine."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers, self.asked = answers, list[str]()
        self.authorizations: list[str | None] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def answer(self, path: str) -> Answer:
        """What to send now."""
        found = self.answers.get(path, Answer(status=404))
        self.asked.append(path)
        return Answer(status=503) if self.asked.count(path) <= found.failures else found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # The client may give up, as it should.
                mirror.authorizations.append(self.headers["Authorization"])
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._send(mirror.answer(self.path.lstrip("/")))

            def _send(self, answer: Answer) -> None:
                time.sleep(answer.hang)
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                body = answer.body[: answer.cut]
                if answer.drip:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(answer.drip)
                else:
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[Mirror]:
    """A mirror that answers while the block runs."""
    mirror = Mirror(answers)
    thread = threading.Thread(target=mirror.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.server.shutdown()
        mirror.server.server_close()
        thread.join()


class _RawServer(ThreadingTCPServer):
    """One thread a connection; a client that leaves is no error."""

    daemon_threads = True
    request_queue_size = 50

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        pass


@contextmanager
def sending(pieces: Callable[[], Iterable[bytes]], pause: float = 0.0, pem: Path | None = None) -> Iterator[str]:
    """The address of a mirror that sends these bytes, whatever it is asked, and closes; over TLS with a certificate.

    `pieces` is called for each connection. There are `pause` seconds before each piece.
    """
    over = threading.Event()

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) if context else self.request as connection,
            ):
                self.answer(connection)

        def answer(self, connection: socket.socket) -> None:
            connection.settimeout(10)
            received = b""
            while b"\r\n\r\n" not in received and (data := connection.recv(65536)):
                received += data
            for piece in pieces():
                if over.wait(pause):
                    break
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # or the client would see a reset instead of what was sent
                pass

    context = None
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
    with _RawServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_address[1]
        try:
            yield f"https://localhost:{port}/" if pem else f"http://127.0.0.1:{port}/"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def small_mnist(train: int = 640, test: int = 300, seed: int = 0) -> Contents:
    """A small data set that a dense network learns fairly well: one coarse pattern per digit, under noise."""
    random = np.random.default_rng(seed)
    prototypes = np.kron(random.integers(0, 2, (10, 7, 7)), np.ones((4, 4))) * 60
    contents: Contents = {}
    for split, count in (("train", train), ("test", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.clip(100 + prototypes[labels] + random.normal(0, 70, (count, 28, 28)), 0, 255).astype(np.uint8)
        contents |= {f"{split}_images": idx.encode(images), f"{split}_labels": idx.encode(labels)}
    return contents


# What the tests of the whole job learn from.
CONTENTS = small_mnist()


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly these: some overwritten, cut out, repeated or inserted, or the end cut off."""
    position = st.integers(0, len(data))

    def change(edits: list[tuple[int, int, bytes]], end: int | None) -> bytes:
        changed = bytearray(data)
        for start, length, piece in edits:
            changed[start : start + length] = piece
        return bytes(changed[:end])

    piece = st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b"\xff" * 4, bytes(4), b"\xff" * 8, b"PK\x01\x02", b"PK\x05\x06", b"\x1f\x8b\x08", data]),
        st.tuples(position, st.integers(1, 64)).map(lambda part: data[part[0] : part[0] + part[1]]),
    )
    edits = st.lists(st.tuples(position, st.integers(0, 8), piece), max_size=4)
    return st.builds(change, edits, st.none() | position)


def spec_for(contents: Contents, mirrors: tuple[str, ...] = ("https://mirror.invalid/",)) -> Spec:
    """A data set under MNIST's name that consists of exactly these contents."""

    def file(name: str) -> FileSpec:
        content = contents[name]
        shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], offset=4))
        return FileSpec(MNIST.files[name].name, digest(content), shape)

    return Spec("mnist", file("train_images"), file("train_labels"), file("test_images"), file("test_labels"), mirrors)


def gzipped(contents: Contents, change: Callable[[str, bytes], bytes] = lambda _, data: data) -> dict[str, Answer]:
    """The contents as the .gz files of a mirror; `change` may spoil one of them, by its field name."""
    return {
        f"{MNIST.files[name].name}.gz": Answer(change(name, gzip.compress(content, 1)))
        for name, content in contents.items()
    }
