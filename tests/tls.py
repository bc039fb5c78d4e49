"""An S3 server over TLS that keeps what it is asked as it came: the bytes of the body, and every header.

Over TLS because boto3 signs and frames a body in other ways there than over plain HTTP. The certificate is made here.
"""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Literal, NamedTuple
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.s3 import SETTINGS, Reply

# What the server does: answer, answer these bytes, never answer, or close the connection without an answer.
Act = Reply | bytes | Literal["hang", "drop"]


class Sent(NamedTuple):
    """One request as it came over the wire; header names in lower case, `body` with its framing, if it has any."""

    line: str
    headers: dict[str, str]
    body: bytes


def certificate(folder: Path, since: int = -1, until: int = 1) -> Path:
    """A file with a new key and a certificate for `localhost` alone that is signed with it.

    Args:
        folder: Where to write it.
        since: The first day of its validity, counted from now.
        until: The last one.
    """
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now + since * day, now + until * day
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file = folder / "localhost.pem"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem))
    return file


class _Server(ThreadingHTTPServer):
    """The handshake is the handler's, in its own thread; a client that does not like it, or the answer, is no error."""

    def __init__(self, handler: type[BaseRequestHandler], pem: Path) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        pass


@contextmanager
def recording(pem: Path, acts: Sequence[Act]) -> Iterator[list[Sent]]:
    """A server that does this in turn, the last for ever; the list of what it was sent.

    While the block runs, the AWS settings point at it and trust its certificate.
    """
    sent: list[Sent] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # for the `100 Continue` that boto3 waits for

        def answer(self) -> None:
            act = acts[min(len(sent), len(acts) - 1)]
            headers = {name.lower(): value for name, value in self.headers.items()}
            sent.append(Sent(self.requestline, headers, self.body()))
            self.close_connection = True
            if act == "hang":
                over.wait()
            elif isinstance(act, bytes):
                self.wfile.write(act)
            elif isinstance(act, Reply):
                self.reply(act)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            framed = b""
            while not framed.endswith(b"\r\n0\r\n\r\n") and (line := self.rfile.readline()):
                framed += line
            return framed

        def reply(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("ETag", '"tag"')
            self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _Server(Handler, pem) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"https://localhost:{server.server_port}"
        with patch.dict(os.environ, SETTINGS | {"AWS_ENDPOINT_URL_S3": url, "AWS_CA_BUNDLE": str(pem)}):
            try:
                yield sent
            finally:
                over.set()
                server.shutdown()
                thread.join()


@contextmanager
def terminating(pem: Path, upstream: int) -> Iterator[str]:
    """The https:// address of a proxy that ends TLS before a server on a port of this machine."""

    class Relay(BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", upstream)) as server:
                threads = [threading.Thread(target=pump, args=ends) for ends in permutations((self.request, server))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # a client that does not trust us, or leaves
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with _Server(Relay, pem) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
