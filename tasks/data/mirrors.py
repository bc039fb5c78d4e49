"""Fetch a data set from the first mirror that has the right bytes.

A mirror is a folder (`https://`, `file://`, `s3://`) that holds each file as NAME.gz or NAME, or the address of Keras'
.npz. A file is bounded in time and size, decompressed, checked, and compared with the pinned SHA-256 of the content.
Whatever a mirror is or sends, the next one is tried. The compressed set is 11 MB, so it is held in memory. A mirror is
shown without user, password and query. User and password are best in `~/.netrc`. Called by the download step; imports
no Prefect.
"""

from __future__ import annotations

import contextvars
import errno
import logging
import os
import random
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from netrc import NetrcParseError
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from tasks.address import Address
from tasks.data import idx
from tasks.data.datasets import FileSpec, Spec, digest, embedded_digits
from tasks.errors import (
    DataError,
    DownloadError,
    KeyMissing,
    MirrorsUnreachable,
    ObjectTooLarge,
    StoreError,
    UsageError,
    causes,
    reason_of,
)
from tasks.settings import require_usable_environment

LOG = logging.getLogger("retrain.download")

# It logs each request with its whole address.
logging.getLogger("httpx").addFilter(lambda record: record.levelno > logging.INFO)

B = TypeVar("B", bytes, bytearray)
T = TypeVar("T")

OnProgress = Callable[[str, int, int | None], None]

# How a connection fails where no server is, or no network. Anything else is an answer, or this machine's own fault.
NOTHING_THERE = (socket.gaierror, ConnectionRefusedError, TimeoutError)
NO_WAY_THERE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}

# Seconds for a file of somebody's own data, which may be large.
OWN_FILE = 3600.0

# Bytes allowed above the size of the content, for headers. A compressed image file is smaller than its content.
OVERHEAD = 4096

REDIRECTS = 5

# The most characters of an address that a message repeats.
LONGEST_SHOWN = 200


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds that a mirror may take, and how often to try.

    `connect` and `read` bound one wait for HTTP. `per_file` bounds all that a file of any mirror takes: resolver,
    connections, redirects, headers, the last byte, every attempt and the pause before it, NAME after NAME.gz. So the
    longest that one mirror can cost is four times `per_file`, 20 minutes, and one `per_file` for an archive.
    """

    connect: float = 5.0
    read: float = 20.0
    per_file: float = 300.0
    attempts: int = 3
    backoff: float = 0.5


class Fetched(NamedTuple):
    """The four IDX contents by their field in `tasks.values.Files`, and the mirror that served them."""

    contents: dict[str, bytes]
    source: Address


class MirrorError(Exception):
    """One mirror failed. `reached`: whether it answered at all. Never leaves this module."""

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


class NotFound(MirrorError):
    """The mirror answers and has no file of this name."""


def fetch(
    spec: Spec, mirrors: Sequence[str], progress: OnProgress = lambda *_: None, policy: RetryPolicy | None = None
) -> Fetched:
    """Fetch a data set from the first mirror that has it.

    Args:
        spec: The data set, with the digests its files must have.
        mirrors: Addresses to try, in order; empty: the data set's public mirrors.
        progress: Called with (file name, bytes received, total bytes or None), every 0.5 s and at the end.
        policy: Timeouts and retries.

    Raises:
        MirrorsUnreachable: No mirror answered.
        UsageError: A variable of the environment, as a proxy's, cannot be used.
        DownloadError: A mirror answered, but none delivered the right bytes. The log has the reason of each.
    """
    if not spec.mirrors:  # embedded: a mirror that is set belongs to another data set
        return Fetched(verified(spec, embedded_digits()), Address("scikit-learn"))
    require_usable_environment()
    why, reached = "", False
    for mirror in (addresses := tuple(map(Address, mirrors or spec.mirrors))):
        try:
            return Fetched(_fetch_all(spec, mirror, progress, policy or RetryPolicy()), mirror)
        except (MirrorError, DataError) as error:
            reached |= isinstance(error, DataError) or error.reached
            why = f"{mirror}: {_reason(error)}"
            if len(addresses) > 1:  # the error tells of a single one
                LOG.warning("mirror %s", why)
    if len(addresses) > 1:
        why = (
            f"none of its {len(addresses)} mirrors {'has the right data' if reached else 'can be reached'}, see the log"
        )
    kind = DownloadError if reached else MirrorsUnreachable
    raise kind(f"cannot download {spec.name}", why, "Give another source with --mirror https://… or file://…")


def reader(address: Address, progress: OnProgress = lambda *_: None) -> Callable[[str, int], bytes]:
    """A function (name, most bytes) that reads a file of a folder over HTTP; "" for the name: the address is the file.

    It raises KeyMissing where there is no such file, and DownloadError where it cannot be read.
    """
    require_usable_environment()

    policy = RetryPolicy(per_file=OWN_FILE)

    def read(name: str, limit: int) -> bytes:
        try:
            read_file = _reader(address, progress, policy)
            return _Deadline(policy.per_file).run(lambda deadline: read_file(name, limit, deadline))
        except NotFound as error:
            raise KeyMissing(f"cannot read {name or address}", str(error), "Check the address.") from error
        except MirrorError as error:
            raise DownloadError(f"cannot read {name or address}", str(error), "Check the address.") from error

    return read


def verified(spec: Spec, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Return the contents after checking each: IDX format, shape, label range, pinned digest. Raises DataError."""
    for field, file in spec.files.items():
        array = idx.decode(contents[field], file.name, file.shape)
        if len(file.shape) == 1:
            idx.check_labels(array, file.name, spec.classes)
        if file.sha256 and digest(contents[field]) != file.sha256:
            raise DataError(
                f"cannot use {file.name}",
                f"its content has the SHA-256 {digest(contents[field])[:12]}… instead of {file.sha256[:12]}…",
                idx.NEXT_STEP,
            )
    return contents


def _reason(error: MirrorError | DataError) -> str:
    return f"{error.what}: {error.why}" if isinstance(error, DataError) else str(error)


def _fetch_all(spec: Spec, mirror: Address, progress: OnProgress, policy: RetryPolicy) -> dict[str, bytes]:
    read = _reader(mirror, progress, policy)
    if mirror.endswith(".npz"):
        limit = sum(idx.content_size(file.shape) + OVERHEAD for file in spec.files.values())
        shapes = {file.name: file.shape for file in spec.files.values()}
        archive = _Deadline(policy.per_file).run(lambda deadline: read("", limit, deadline))
        arrays = idx.keras_archive(archive, mirror, shapes)
        return verified(spec, {field: arrays[file.name] for field, file in spec.files.items()})
    return verified(spec, {field: _fetch_file(file, read, policy) for field, file in spec.files.items()})


def _fetch_file(file: FileSpec, read: Read, policy: RetryPolicy) -> bytes:
    size = idx.content_size(file.shape)

    def either(deadline: _Deadline) -> bytes:
        try:
            return idx.gunzip(read(f"{file.name}.gz", size + OVERHEAD, deadline), f"{file.name}.gz", size)
        except NotFound:
            return read(file.name, size + OVERHEAD, deadline)

    return _Deadline(policy.per_file).run(either)


class _Deadline:
    """The time that one file may take. Each read happens in a thread, which is given up when the time is over.

    The timeouts of HTTP clients bound one wait for a socket, so a server that sends a byte now and then would hold them
    for ever, and nothing bounds a resolver or a file system. The thread ends soon, because its connection is shut; in a
    resolver, a file system or the client of S3 when those return, at the latest with the process.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._connecting = False
        self._connection: socket.socket | None = None
        self.over = threading.Event()

    def run(self, read: Callable[[_Deadline], T]) -> T:
        """What `read` returns or raises; MirrorError if it does neither in time."""
        done: Future[T] = Future()
        context = contextvars.copy_context()  # it has the run that Prefect's log belongs to

        def work() -> None:
            try:
                done.set_result(context.run(read, self))
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=work, name="download", daemon=True).start()
        try:
            return done.result(self._seconds)
        except TimeoutError:
            why = f"did not deliver a whole file within {self._seconds:g} s"
            raise MirrorError(why, reached=bool(self._connection) or not self._connecting) from None
        finally:  # also after Ctrl-C
            self.over.set()
            if not done.done():
                self._shut()

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpx calls at each of its steps (its extension `trace`): keeps the connection that is open now."""
        if event == "connection.connect_tcp.started":
            self._connecting = True
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._connecting = False
            self._connection = info["return_value"].get_extra_info("socket")
            if self.over.is_set():
                self._shut()

    def _shut(self) -> None:
        if self._connection:
            with suppress(OSError):  # not the method of a TLS socket, which is not made for two threads
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


# Reads a file from a mirror: its name, which is empty for an archive; the most bytes; until when.
Read = Callable[[str, int, _Deadline], bytes]


def _reader(mirror: Address, progress: OnProgress, policy: RetryPolicy) -> Read:
    try:
        parts = urlsplit(mirror.usable)
        _ = parts.port  # a number that is none
    except ValueError:
        raise MirrorError("it is no valid address", reached=True) from None
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise MirrorError("it is not a folder or a file of this machine", reached=True)
        return lambda name, limit, _: _read_file(Path(unquote(parts.path)) / name, limit)
    if parts.scheme == "s3":
        return lambda name, limit, _: _read_s3(mirror.usable, name, limit)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return lambda name, limit, deadline: _read_http(
            mirror.file(name) if name else mirror.usable, limit, progress, policy, deadline
        )
    if parts.scheme == "http":
        raise MirrorError("http:// is not encrypted; use https://", reached=True)
    raise MirrorError("not an https://, file:// or s3:// address", reached=True)


def _is_loopback(host: str | None) -> bool:
    return host in {"localhost", "127.0.0.1", "::1"}


def _read_file(path: Path, limit: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device could wait, or send, for ever
            raise MirrorError(f"{path} is not a file", reached=True)
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", reached=True) from None
    except OSError as error:
        raise MirrorError(f"cannot read {path}: {error.strerror}", reached=True) from error
    except ValueError:  # a NUL, or what the file system's encoding does not have
        raise MirrorError("it is no valid address", reached=True) from None
    return _bounded(data, limit)


def _read_s3(mirror: str, name: str, limit: int) -> bytes:
    from tasks.storage import open_store

    folder, _, last = mirror.rstrip("/").rpartition("/")
    try:
        store, key = (open_store(mirror), name) if name else (open_store(folder), last)
        return store.get(key, limit).data
    except KeyMissing:
        raise NotFound(f"there is no object {name or last}", reached=True) from None
    except ObjectTooLarge:
        raise _too_large(limit) from None
    except (StoreError, UsageError) as error:
        raise MirrorError(error.why, reached=True) from error


def _bounded(data: B, limit: int) -> B:
    if len(data) > limit:
        raise _too_large(limit)
    return data


def _too_large(limit: int) -> MirrorError:
    return MirrorError(f"sent more than the {limit:,} bytes that belong there", reached=True)


def _read_http(url: str, limit: int, progress: OnProgress, policy: RetryPolicy, deadline: _Deadline) -> bytes:
    """Read over HTTP, with retries after no connection, a lost one, a timeout, 429 and 5xx."""
    for attempt in range(1, policy.attempts + 1):
        try:
            return _read_once(url, limit, progress, policy, deadline)
        except _Transient as error:
            if attempt == policy.attempts or deadline.over.is_set():
                raise MirrorError(f"{error} ({attempt} attempts)", reached=error.reached) from error
            # Random, so that many workers do not retry at the same moment.
            deadline.over.wait(random.uniform(0.5, 1.0) * policy.backoff * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


class _Transient(MirrorError):
    """A failure that a retry may overcome."""


def _read_once(url: str, limit: int, progress: OnProgress, policy: RetryPolicy, deadline: _Deadline) -> bytes:
    timeout = httpx.Timeout(policy.read, connect=policy.connect)
    auth = _credentials(url)
    try:
        with httpx.Client(timeout=timeout, event_hooks={"response": [_refuse_downgrade]}) as client:
            request = client.build_request(
                "GET", url, headers={"Accept-Encoding": "identity"}, extensions={"trace": deadline.watch}
            )
            # Not the client's own redirects: it reads the body of each, however long, and decompresses it.
            for _ in range(1 + REDIRECTS):
                with closing(client.send(request, auth=auth, stream=True)) as response:
                    if response.next_request is None:
                        _check_status(response)
                        return _read_body(response, url, limit, progress)
                    request, auth = response.next_request, None
    except httpx.ConnectError as error:
        raise _no_connection(error) from error
    except httpx.TimeoutException as error:
        answered = not isinstance(error, httpx.ConnectTimeout)
        raise _Transient(
            f"no answer within {policy.read if answered else policy.connect:g} s", reached=answered
        ) from error
    except httpx.TransportError as error:
        raise _Transient(f"the connection broke ({reason_of(error)})", reached=True) from error
    except (httpx.InvalidURL, ValueError):
        raise MirrorError("it is no valid address, or it redirects to none", reached=True) from None
    raise MirrorError(f"redirects more than {REDIRECTS} times", reached=True)


def _credentials(url: str) -> httpx.Auth | None:
    """User and password of the mirror's host in `~/.netrc`, or the file that NETRC names; the address' own come first.

    They stay on this machine; the address is a parameter of the run, which the Prefect server stores.
    """
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if urlsplit(url).username or not file.is_file():
        return None
    try:
        return httpx.NetRCAuth(str(file))
    except NetrcParseError as error:  # its message repeats a word of the file
        raise MirrorError(f"line {error.lineno} of {file} is not what a netrc file has", reached=True) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MirrorError(f"cannot read {file}: {reason_of(error)}", reached=True) from None


def _no_connection(error: httpx.ConnectError) -> MirrorError:
    """A refused certificate is an answer, for example of a proxy that inspects what passes, and no reason to retry."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return MirrorError(
                f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names the trusted ones",
                reached=True,
            )
    nothing = any(
        isinstance(cause, NOTHING_THERE) or (isinstance(cause, OSError) and cause.errno in NO_WAY_THERE)
        for cause in causes(error)
    )
    return _Transient(f"cannot connect ({reason_of(error)})", reached=not nothing)


def _refuse_downgrade(response: httpx.Response) -> None:
    """Raise MirrorError for a redirect to anything but https://, even if the mirror is http:// on this machine."""
    if response.has_redirect_location:
        target = response.url.join(response.headers["Location"])
        _ = urlsplit(str(target)).port  # a number that is none
        if target.scheme != "https" or not target.host:
            there = f"{target.scheme}://{target.host}"[:LONGEST_SHOWN]
            raise MirrorError(f"redirects to {there}, which is not https://", reached=True)


def _check_status(response: httpx.Response) -> None:
    if response.status_code in {404, 410}:
        raise NotFound(f"there is no {_shown(response.url)} ({response.status_code})", reached=True)
    if response.status_code in {401, 407}:
        place = "~/.netrc of this machine" if response.status_code == 401 else "the variable of the proxy"
        raise MirrorError(f"answered {response.status_code}: user and password belong in {place}", reached=True)
    if response.status_code == 429 or response.status_code >= 500:
        raise _Transient(f"answered {response.status_code}", reached=True)
    if response.status_code != 200:
        raise MirrorError(f"answered {response.status_code} for {_shown(response.url)}", reached=True)


def _shown(url: httpx.URL) -> str:
    address = Address(str(url))
    return address if len(address) <= LONGEST_SHOWN else f"{address[:LONGEST_SHOWN]}…"


def _read_body(response: httpx.Response, url: str, limit: int, progress: OnProgress) -> bytes:
    total = int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
    body, reported, name = bytearray(), time.monotonic(), Address(url).rpartition("/")[2]
    for chunk in response.iter_raw():
        body += chunk
        _bounded(body, limit)
        if time.monotonic() - reported > 0.5 and len(body) != total:
            reported = time.monotonic()
            progress(name, len(body), total)
    progress(name, len(body), total)
    return bytes(body)
