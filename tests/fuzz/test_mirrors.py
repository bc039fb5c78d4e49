"""What a mirror may send: files of each format, answers of HTTP over a socket, and where it redirects to.

Each case ends as the right bytes or as one error of the project.
"""

from __future__ import annotations

import gzip
import io
import socket
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import idx
from tasks.data.mirrors import RetryPolicy, fetch
from tasks.errors import DataError, DownloadError
from tests import tls
from tests.mirrors import mutations, sending, small_mnist, spec_for

CONTENTS = small_mnist(train=20, test=10)
SPEC = spec_for(CONTENTS)
FILES = {SPEC.files[field].name: content for field, content in CONTENTS.items()}
SHAPES = {file.name: file.shape for file in SPEC.files.values()}
ARRAYS = {name: idx.decode(content, name, SHAPES[name]) for name, content in FILES.items()}
LABELS = "t10k-labels-idx1-ubyte"
POLICY = RetryPolicy(connect=1.0, read=1.0, per_file=2.0, attempts=1)


def archive(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(buffer, **{idx.KERAS_NAMES[name]: array for name, array in ARRAYS.items()})
    return buffer.getvalue()


def npy(array: idx.Bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version)
    return buffer.getvalue()


def holding(labels: bytes) -> bytes:
    """An archive with these bytes as the array of the test's labels."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("y_test.npy", labels)
    return buffer.getvalue()


@given(st.sampled_from(sorted(FILES)).flatmap(lambda name: st.tuples(st.just(name), mutations(FILES[name]))))
def test_idx(case: tuple[str, bytes]) -> None:
    name, data = case
    with suppress(DataError):
        array = idx.decode(data, name, SHAPES[name])
        assert (array.shape, idx.encode(array)) == (SHAPES[name], data)


@given(mutations(gzip.compress(FILES[LABELS])) | mutations(gzip.compress(FILES["train-images-idx3-ubyte"])))
def test_gzip(data: bytes) -> None:
    with suppress(DataError):
        assert idx.gunzip(data, "file", 20_000) in FILES.values()


@given(mutations(archive(compressed=True)) | mutations(archive(compressed=False)))
def test_npz(data: bytes) -> None:
    with suppress(DataError):
        assert idx.keras_archive(data, "mnist.npz", SHAPES) == FILES


WORDS = ["{", "}", "(", ")", "[", "]", ",", ":", " ", "\n", "-", "L", "0x", "9" * 400, "10", "True", "False", "None"]
WORDS += ["'descr'", "'fortran_order'", "'shape'", "'|u1'", "'|O'", "'<f8'", "'V9999999999'", "\\", '"', "\0", "\xff"]
HEADER = st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=60).map("".join)


@given(
    st.one_of(
        mutations(npy(ARRAYS[LABELS])),
        mutations(npy(ARRAYS[LABELS], (2, 0))),
        st.builds(
            lambda text, version, length, rest: (
                b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 + 2 * (version > 1), "little") + text + rest
            ),
            HEADER.map(lambda text: text.encode("utf-8", "surrogatepass")),
            st.integers(0, 4),
            st.integers(0, 65535),
            st.binary(max_size=20),
        ),
    )
)
def test_npy(data: bytes) -> None:
    with suppress(DataError):
        (content,) = idx.keras_archive(holding(data), "mnist.npz", {LABELS: SHAPES[LABELS]}).values()
        assert len(content) == len(FILES[LABELS])


class Mirror:
    """A mirror that sends what the case says."""

    def __init__(self) -> None:
        self.answer = b""
        self.url = ""

    def why_refused(self) -> str:
        """The error that the answer leads to; "" where it was the right data."""
        try:
            fetched = fetch(SPEC, [self.url], policy=POLICY)
        except DownloadError as error:
            return str(error)
        assert fetched.contents == CONTENTS
        return ""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    trusted = tls.certificate(tmp_path_factory.mktemp("certificate"))  # one is read faster than all
    serves = Mirror()
    here = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(host, str):
            host.encode("idna")  # as the system's resolver
        if host not in {"127.0.0.1", "localhost", "::1"}:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return here(host, *rest, **more)

    with (
        sending(lambda: [serves.answer]) as url,
        patch("socket.getaddrinfo", resolve),
        patch.dict("os.environ", SSL_CERT_FILE=str(trusted)),
    ):
        serves.url = f"{url}mnist.npz"
        yield serves


BODY = archive(compressed=True)
NAMES = [b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Location", b"Set-Cookie", b"Connection"]
NAMES += [b"Content-Type", b"WWW-Authenticate", b"Retry-After", b"Upgrade", b"X", b"", b" ", b"\xff", b"A:B", b"C\0"]
VALUES = [b"%d" % len(BODY), b"-1", b"0", b"1", b"9" * 19, b"1e3", b"0x10", b"chunked", b"gzip, chunked", b"gzip"]
VALUES += [b"identity", b"close", b"keep-alive", b"/", b"//", b"https://[", b"a=b; expires=Thu, 99 Jan 1970; max-age=x"]
STATUSES = [
    b"%d" % status for status in (100, 101, 103, 200, 204, 206, 301, 304, 307, 401, 404, 429, 500, 999, 99, 1000)
]
STATUSES += [b"0", b"-200", b"two", b"", b"20 0", b"\xff"]

HEADERS = st.lists(
    st.tuples(
        st.sampled_from(NAMES) | st.binary(max_size=6),
        st.sampled_from([b": ", b":", b" : ", b"", b":\t"]),
        st.sampled_from(VALUES) | st.binary(max_size=20),
        st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r", b"\r\n "]),
    ).map(b"".join),
    max_size=8,
).map(b"".join)

ANSWERS = st.one_of(
    st.builds(
        lambda version, status, headers, end, body: version + b" " + status + b" x\r\n" + headers + end + body,
        st.sampled_from([b"HTTP/1.1"] * 9 + [b"HTTP/1.0", b"HTTP/2", b"HTTP/0.9", b"http/1.1", b"ICY", b""]),
        st.sampled_from([b"200"] * 20 + STATUSES),
        HEADERS,
        st.sampled_from([b"\r\n"] * 9 + [b"\n", b""]),
        st.sampled_from([BODY, b"", b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), b"ffffffffffffffff\r\nx", BODY[:99]]),
    ),
    mutations(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: y\r\n\r\n%b" % (len(BODY), BODY)),
    mutations(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    mutations(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nX: y\r\n\r\n").map(lambda head: head + BODY),
)


@given(answer=ANSWERS)
def test_answers(mirror: Mirror, answer: bytes) -> None:
    mirror.answer = answer
    assert len(mirror.why_refused()) < 2000


PARTS = [b"https", b"http", b"file", b"ftp", b":", b"/", b"//", b"[", b"]", b"@", b"?", b"#", b"%", b"%00", b" "]
PARTS += [b"localhost", b"127.0.0.1", b"::1", b"1", b"99999", b"-1", b".", b"..", b"a" * 70, b"xn--", b"\t", b"\x7f"]
PARTS += ["\u2603".encode(), "\u202e".encode(), b"\xff", b"\\", b"user:hunter22@", b"x" * 3000]

LOCATIONS = st.one_of(
    mutations(b"https://user:hunter22@localhost:1/mnist/x?a=b#c").map(lambda data: data.replace(b"\n", b"")),
    st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join),
    st.text(max_size=20).map(lambda text: b"https://" + text.encode("utf-8", "surrogatepass")),
)


@given(location=LOCATIONS, status=st.sampled_from([301, 302, 303, 307, 308]))
def test_redirects(mirror: Mirror, location: bytes, status: int) -> None:
    mirror.answer = b"HTTP/1.1 %d x\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
    told = mirror.why_refused()
    assert told.isprintable()
    assert len(told) < 2000
    assert told, "there is no data"
    assert b"user:hunter22@" not in location or "user:hunter22@" not in told
