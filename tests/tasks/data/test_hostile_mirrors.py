"""One bad mirror never ends a run and never holds it: after each of these, the data set comes from the next mirror."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count, repeat
from pathlib import Path

import pytest

from tasks.data.mirrors import RetryPolicy, fetch
from tasks.errors import DownloadError, MirrorsUnreachable
from tests import tls
from tests.mirrors import gzipped, sending, small_mnist, spec_for

CONTENTS = small_mnist(train=40, test=20)
SPEC = spec_for(CONTENTS)
PATIENT = RetryPolicy(connect=2.0, read=5.0, per_file=15.0, attempts=2, backoff=0.01)
BRIEF = RetryPolicy(connect=0.4, read=0.4, per_file=0.9, attempts=2, backoff=0.01)

# What a fetch from the good mirror takes beside, on a busy machine.
SLACK = 4.0

Pieces = Callable[[], Iterable[bytes]]

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mirror")
    for name, answer in gzipped(CONTENTS).items():
        (folder / name).write_bytes(answer.body)
    return folder.as_uri()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tls.certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(autouse=True)
def trusting(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the certificate of the mirrors here, and no other: one is read faster than all."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))


@contextmanager
def given_up(good: str, caplog: pytest.LogCaptureFixture, policy: RetryPolicy = PATIENT) -> Iterator[list[str]]:
    """A list for a bad mirror; leaving the block fetches from it and then from the good one.

    In the list is then why the bad one was given up, one printable line.
    """
    bad: list[str] = []
    yield bad
    caplog.clear()
    started = time.monotonic()
    fetched = fetch(SPEC, [*bad, good], policy=policy)
    assert time.monotonic() - started < policy.per_file + SLACK
    assert (fetched.contents, fetched.source) == (CONTENTS, good)
    (bad[:],) = ([line for line in caplog.messages if line.startswith("mirror ")],)
    assert len(bad) == 1
    assert bad[0].isprintable()
    assert len(bad[0]) < 1000


def once(*pieces: bytes) -> Pieces:
    return lambda: pieces


def forever(begin: bytes, piece: bytes) -> Pieces:
    return lambda: chain([begin], repeat(piece))


ANSWERS: dict[str, tuple[Pieces, str]] = {
    "closed": (once(), "connection broke"),
    "no status line": (once(b"hello\r\n\r\n"), "connection broke"),
    "HTTP/0.9": (once(b"\x00" * 100), "connection broke"),
    "HTTP/9.9": (once(b"HTTP/9.9 200 OK\r\n\r\n"), "cut off"),
    "TLS": (once(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "connection broke"),
    "status 99": (once(b"HTTP/1.1 99 What\r\n\r\n"), "connection broke"),
    "status 999": (once(b"HTTP/1.1 999 What\r\n\r\n"), "answered 999|connection broke"),
    "status 1000": (once(b"HTTP/1.1 1000 What\r\n\r\n"), "connection broke"),
    "status 101": (once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), ""),
    "status 204": (once(b"HTTP/1.1 204 No Content\r\n\r\n"), "answered 204"),
    "status 206": (once(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx"), "answered 206"),
    "status 300 without location": (once(b"HTTP/1.1 300 Choose\r\nContent-Length: 0\r\n\r\n"), "answered 300"),
    "status 304": (once(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "answered 304"),
    "status 401": (once(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest \xff\r\n\r\n"), "answered 401"),
    "two statuses": (once(OK + OK + b"\r\n"), "connection broke"),
    "length -1": (once(OK + b"Content-Length: -1\r\n\r\nx"), "connection broke"),
    "length letters": (once(OK + b"Content-Length: many\r\n\r\nx"), "connection broke"),
    "length other digits": (once(OK + "Content-Length: ٣\r\n\r\nx".encode()), "connection broke"),
    "length 10**30": (once(OK + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\nx"), "connection broke"),
    "length 10**19": (once(OK + b"Content-Length: 1" + b"0" * 19 + b"\r\n\r\nx"), "connection broke"),
    "length 5000 digits": (once(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx"), "connection broke"),
    "two lengths": (once(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), "connection broke"),
    "two lengths in one": (once(OK + b"Content-Length: 1, 2\r\n\r\nxx"), "connection broke"),
    "equal lengths in one": (once(OK + b"Content-Length: 1, 1\r\n\r\nx"), "connection broke|not a valid gzip|cut off"),
    "length and chunks": (once(OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "cut off"),
    "chunk of 2**64": (once(OK + CHUNKED + b"10000000000000000\r\nx"), "connection broke"),
    "chunk of letters": (once(OK + CHUNKED + b"zz\r\nx"), "connection broke"),
    "unknown encoding": (once(OK + b"Transfer-Encoding: magic\r\n\r\nx"), "connection broke"),
    "truncated": (once(OK + b"Content-Length: 100\r\n\r\nx"), "connection broke"),
    "compressed again": (once(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(gzip.compress(b"x"))), "magic"),
    "unknown compression": (once(OK + b"Content-Encoding: \xff\r\n\r\nx"), "cut off"),
    "100,000 headers": (once(OK + b"X: y\r\n" * 100_000 + b"\r\n"), "connection broke"),
    "10,000 cookies": (once(OK + b"Set-Cookie: a=b\r\n" * 5000 + b"\r\n"), "cut off"),
    "damaged cookies": (once(OK + b"Set-Cookie: \xff=\xfe; expires=" + b"0" * 90_000 + b"\r\n\r\n"), "cut off"),
    "a header of 100 MB": (lambda: chain([OK], repeat(b"x" * 100_000, 1000)), "connection broke"),
    "headers for ever": (forever(OK, b"X: y\r\n"), "connection broke"),
    "chunks for ever": (forever(OK + CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"), "more than the"),
    "trailers for ever": (forever(OK + CHUNKED + b"0\r\n", b"X: y\r\n"), "connection broke"),
    "no such file, without end": (forever(b"HTTP/1.1 404 No\r\n\r\n", b"x" * 9999), "there is no"),
    "NUL in a header": (once(OK + b"X: \x00\r\n\r\n"), "connection broke"),
    "folded header": (once(OK + b" folded\r\n\r\n"), "connection broke"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_no_client_expects(kind: str, good: str, caplog: pytest.LogCaptureFixture) -> None:
    pieces, why = ANSWERS[kind]
    with sending(pieces) as mirror, given_up(good, caplog) as told:
        told.append(mirror)
    assert any(part in told[0] for part in why.split("|")), told


DRIPS = {
    "status line": (b"", b"H"),
    "headers": (OK, b"X"),
    "header lines": (OK, b"X: y\r\n"),
    "body": (OK + b"Content-Length: 4000\r\n\r\n", b"x"),
    "chunks": (OK + CHUNKED, b"1\r\nx\r\n"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's length": (OK + CHUNKED, b"0"),
}


@pytest.mark.parametrize(("kind", "pause"), [*((kind, 0.1) for kind in DRIPS), ("100 Continue", 0.0)])
def test_what_drips_for_ever_costs_the_time_of_one_file(
    kind: str, pause: float, good: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sending(forever(*DRIPS[kind]), pause=pause) as mirror, given_up(good, caplog, BRIEF) as told:
        told.append(mirror)
    assert "within 0.9 s" in told[0]
    wait_for_no_thread()


def wait_for_no_thread() -> None:
    """The thread of a read that was given up ends too."""
    until = time.monotonic() + 3
    while any(thread.name == "download" for thread in threading.enumerate()):
        assert time.monotonic() < until, "a thread is still at work"
        time.sleep(0.02)


def test_a_handshake_that_drips(good: str, caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        held = []
        while not over.wait(0.05):
            with suppress(OSError):
                held.append(server.accept()[0])
                held[-1].settimeout(0)
            for connection in held:
                with suppress(OSError):
                    connection.send(b"\x16\x03\x03\x40\x00\x02")
        for connection in held:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=drip, args=[server])
        thread.start()
        with given_up(good, caplog, BRIEF) as told:
            told.append(f"https://127.0.0.1:{server.getsockname()[1]}/")
        over.set()
        thread.join()
    assert "no answer within 0.4 s" in told[0] or "cannot connect" in told[0]


LOCATIONS: dict[str, tuple[bytes, str]] = {
    "downgrade": (b"http://example.org/x", "redirects to http://example.org, which is not https"),
    "file": (b"file:///etc/passwd", "which is not https"),
    "ftp": (b"ftp://example.org/x", "which is not https"),
    "data": (b"data:,x", "which is not https"),
    "port 99999": (b"//localhost:99999/x", ""),
    "port -1": (b"//localhost:-1/x", "redirects to none"),
    "port of letters": (b"//localhost:port/x", "redirects to none"),
    "https, port 99999": (b"https://localhost:99999/x", ""),
    "empty": (b"", "which is not https"),
    "no host": (b"https:///x", "which is not https|redirects to none"),
    "no host, no slash": (b"https:x", "which is not https"),
    "only a port": (b"https://:443/", "which is not https"),
    "tab": (b"https://localhost/\tx", "redirects to none|connection broke"),
    "escape": (b"https://localhost/\x1b[31m", "redirects to none|connection broke"),
    "DEL": (b"https://localhost/\x7f", "redirects to none|connection broke"),
    "Latin-1": (b"http://localhost/\xff\xfe", "which is not https"),
    "UTF-8": ("http://localhost/\u202e\u2028".encode(), "which is not https"),
    "64 KB": (b"http://localhost/" + b"x" * 60_000, "which is not https"),
    "90 KB": (b"https://localhost/" + b"x" * 90_000, "redirects to none"),
    "1 MB": (b"https://localhost/" + b"x" * 1_000_000, "connection broke"),
    "IDNA": ("https://\u2603\ufe0f.example/".encode(), "redirects to none"),
    "a label of 70 letters": (b"https://" + b"a" * 70 + b".example/", ""),
    "a host of 5,000 letters": (b"https://" + b"a." * 2500 + b"/", ""),
    "dots for a host": (b"https://../", ""),
    "IPv6 without end": (b"https://[::1", "redirects to none"),
    "IPv6 of letters": (b"https://[zz]/", "redirects to none"),
    "IPv6 with a zone": (b"https://[fe80::1%25eth0]/", ""),
    "IPv4 of large numbers": (b"https://999.999.999.999/", ""),
    "a scheme of 3,000 letters": (b"x" * 3000 + b":", "which is not https"),
    "no scheme": (b"://x", "which is not https|redirects to none"),
    "password": (b"http://user:hunter22@localhost/", "redirects to http://localhost, which is not https"),
}


@pytest.mark.parametrize("kind", LOCATIONS)
def test_a_redirect_to_nowhere(kind: str, good: str, caplog: pytest.LogCaptureFixture) -> None:
    location, why = LOCATIONS[kind]
    answer = b"HTTP/1.1 302 Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location
    with sending(once(answer)) as mirror, given_up(good, caplog) as told:
        told.append(mirror)
    assert any(part in told[0] for part in why.split("|")), told
    assert "hunter22" not in told[0]


def test_redirects_without_end_and_their_bodies_without_end(
    pem: Path, good: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = count()
    with ExitStack() as stack:

        def pieces() -> Iterator[bytes]:
            next(asked)
            yield b"HTTP/1.1 302 Moved\r\nLocation: /again\r\n\r\n"
            yield from repeat(b"x" * 65536)

        mirror = stack.enter_context(sending(pieces, pem=pem))
        tracemalloc.start()
        with given_up(good, caplog) as told:
            told.append(mirror)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "redirects more than 5 times" in told[0]
    assert next(asked) <= 6
    assert peak < 8_000_000


def test_a_redirect_is_followed(pem: Path) -> None:
    contents = iter([gzip.compress(content) for content in CONTENTS.values()])
    with sending(lambda: [OK + b"\r\n" + next(contents)], pem=pem) as target:
        answer = b"HTTP/1.1 301 Moved\r\nLocation: %b\r\n\r\n" % f"{target}elsewhere".encode()
        with sending(once(answer)) as mirror:
            assert fetch(SPEC, [mirror], policy=RetryPolicy()).contents == CONTENTS


ADDRESSES = {
    "": "not an https",
    "x://": "not an https",
    "nonsense": "not an https",
    "https://": "",
    "https:": "",
    "https:///x": "",
    "https://:443": "",
    "https://:443/x.npz": "",
    "https://localhost:99999": "",
    "https://localhost:99999/x.npz": "",
    "https://localhost:-1": "no valid address",
    "https://localhost:port/": "no valid address",
    "https://[bad": "no valid address",
    "https://[::1": "no valid address",
    "https://[::1]:x/": "no valid address",
    "https://\x00/": "no valid address",
    "https://local host/": "",
    "https://" + "a" * 70 + ".example/": "",
    "https://" + "a." * 2000: "",
    "https://xn--/": "",
    "https://\u2603\ufe0f.example/": "no valid address",
    "https://localhost/" + "x" * 70_000: "no valid address",
    "http://[bad": "no valid address",
    "file:": "not a folder or a file of this machine",
    "file:relative": "not a folder or a file of this machine",
    "file://otherhost/x": "not a folder or a file of this machine",
    "file://[bad/x": "no valid address",
    "file:///": "there is no file",
    "file:///nowhere.npz": "there is no file",
    "file:///%00": "no valid address",
    "file:///%00.npz": "no valid address",
    "file:///" + "x" * 5000: "File name too long",
    "file:///dev/null/x.npz": "Not a directory",
    "file:///dev/zero?.npz": "",
    "s3://": "not a bucket name",
    "s3:": "not a bucket name",
    "s3:///x.npz": "not a bucket name",
    "s3://bad bucket/x": "not a bucket name",
    "s3://bucket/a//b": "empty, . or .. part",
    "s3://bucket/" + "x" * 2000: "its prefix has 2,000 bytes",
    "s3://user:password@bucket/": "holds no credentials",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none(address: str, good: str, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    fetched = fetch(SPEC, [address, good], policy=PATIENT)
    assert (fetched.contents, fetched.source) == (CONTENTS, good)
    told = [line for line in caplog.messages if line.startswith("mirror ")]
    assert len(told) == 1
    assert ADDRESSES[address] in told[0]
    with pytest.raises(DownloadError, match="cannot download mnist"):
        fetch(SPEC, [address], policy=PATIENT)


def test_a_bucket_that_is_refused(bucket: str, good: str, caplog: pytest.LogCaptureFixture) -> None:
    for address in (f"{bucket}-gone/x", "s3://UPPER_bad/x", "s3://UPPER_bad/x.npz", "s3://UPPER_bad.npz"):
        with given_up(good, caplog) as told:
            told.append(address)


def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path, good: str, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    (tmp_path / "closed.npz").touch(0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.npz"))
        for name in ("pipe", "zero", "folder", "socket"):
            with given_up(good, caplog) as told:
                told.append(f"{tmp_path.as_uri()}/{name}.npz")
            assert f"{name}.npz is not a file" in told[0]
    for name in ("loop", "closed"):
        with given_up(good, caplog) as told:
            told.append(f"{tmp_path.as_uri()}/{name}.npz")
    folder = tmp_path / "mirror"
    folder.mkdir()
    os.mkfifo(folder / "train-images-idx3-ubyte.gz")
    with given_up(good, caplog) as told:
        told.append(folder.as_uri())
    assert "is not a file" in told[0]


S3_ANSWER = b'HTTP/1.1 200 OK\r\nETag: "tag"\r\nContent-Length: 30000\r\n\r\n'


@pytest.mark.parametrize(
    ("begin", "piece", "why"),
    [
        (S3_ANSWER, b"x", "within 0.9 s"),
        (OK, b"X: y\r\n", "within 0.9 s"),
        (S3_ANSWER.replace(b"30000", b"1" + b"0" * 15), b"x" * 100_000, "more than the"),
    ],
    ids=["body", "headers", "a petabyte"],
)
def test_a_bucket_that_drips_or_does_not_end(
    begin: bytes,
    piece: bytes,
    why: str,
    s3_server: str,
    good: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sending(forever(begin, piece), pause=0.05) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.rstrip("/"))
        with given_up(good, caplog, BRIEF if "within" in why else PATIENT) as told:
            told.append("s3://bucket/mnist")
    assert why in told[0]


def test_when_every_mirror_is_bad_there_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with sending(forever(OK, b"X"), pause=0.1) as drips, sending(once()) as closes:
        mirrors = [drips, "s3://", "https://[bad", closes, "file:///dev/zero", "x://"]
        with pytest.raises(DownloadError, match="none of its 6 mirrors has the right data") as error:
            fetch(SPEC, mirrors, policy=BRIEF)
    assert not isinstance(error.value, MirrorsUnreachable)
    assert len([line for line in caplog.messages if line.startswith("mirror ")]) == 6
