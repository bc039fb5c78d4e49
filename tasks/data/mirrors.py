"""Fetch a data set from the first mirror that has the right bytes.

A mirror is a folder (`https://`, `file://`, `s3://`) that holds each file as NAME.gz or NAME, or the address of Keras'
.npz. An answer is bounded in time and size, decompressed, checked, and compared with the pinned SHA-256 of the
content. The compressed set is 11 MB, so it is held in memory. Called by the download step; imports no Prefect.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from tasks.data import idx
from tasks.data.datasets import FileSpec, Spec, digest, embedded_digits
from tasks.errors import DataError, DownloadError, KeyMissing, MirrorsUnreachable, StoreError

LOG = logging.getLogger("retrain.download")

B = TypeVar("B", bytes, bytearray)

OnProgress = Callable[[str, int, int | None], None]

# How a connection fails where no server is, or no network. Anything else is an answer, or this machine's own fault.
NOTHING_THERE = (socket.gaierror, ConnectionRefusedError, TimeoutError)
NO_WAY_THERE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}

# Bytes allowed above the size of the content, for headers. A compressed image file is smaller than its content.
OVERHEAD = 4096


@dataclass(frozen=True)
class RetryPolicy:
    """Timeouts of HTTP in seconds, and how often to try."""

    connect: float = 5.0
    read: float = 20.0
    per_file: float = 300.0
    attempts: int = 3
    backoff: float = 0.5


class Fetched(NamedTuple):
    """The four IDX contents by their field in `tasks.values.Files`, and the mirror that served them."""

    contents: dict[str, bytes]
    source: str


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
        DownloadError: A mirror answered, but none delivered the right bytes. The message has the reason of each.
    """
    if not spec.mirrors:  # embedded: a mirror that is set belongs to another data set
        return Fetched(verified(spec, embedded_digits()), "scikit-learn")
    reasons, reached = [], False
    for mirror in mirrors or spec.mirrors:
        try:
            return Fetched(_fetch_all(spec, mirror, progress, policy or RetryPolicy()), mirror)
        except (MirrorError, DataError) as error:
            reached |= isinstance(error, DataError) or error.reached
            reasons.append(f"{mirror}: {_reason(error)}")
            LOG.warning("mirror %s failed: %s", mirror, _reason(error))
    kind = DownloadError if reached else MirrorsUnreachable
    raise kind(
        f"cannot download {spec.name}", "; ".join(reasons), "Give another source with --mirror https://… or file://…"
    )


def verified(spec: Spec, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Return the contents after checking each: IDX format, shape, label range, pinned digest. Raises DataError."""
    for field, file in spec.files.items():
        array = idx.decode(contents[field], file.name, file.shape)
        if len(file.shape) == 1:
            idx.check_labels(array, file.name, spec.classes)
        if digest(contents[field]) != file.sha256:
            raise DataError(
                f"cannot use {file.name}",
                f"its content has the SHA-256 {digest(contents[field])[:12]}… instead of {file.sha256[:12]}…",
                idx.NEXT_STEP,
            )
    return contents


def _reason(error: MirrorError | DataError) -> str:
    return f"{error.what}: {error.why}" if isinstance(error, DataError) else str(error)


def _fetch_all(spec: Spec, mirror: str, progress: OnProgress, policy: RetryPolicy) -> dict[str, bytes]:
    read = _reader(mirror, progress, policy)
    if mirror.endswith(".npz"):
        limit = sum(idx.content_size(file.shape) + OVERHEAD for file in spec.files.values())
        shapes = {file.name: file.shape for file in spec.files.values()}
        arrays = idx.keras_archive(read("", limit), mirror, shapes)
        return verified(spec, {field: arrays[file.name] for field, file in spec.files.items()})
    return verified(spec, {field: _fetch_file(file, read) for field, file in spec.files.items()})


def _fetch_file(file: FileSpec, read: Callable[[str, int], bytes]) -> bytes:
    size = idx.content_size(file.shape)
    try:
        return idx.gunzip(read(f"{file.name}.gz", size + OVERHEAD), f"{file.name}.gz", size)
    except NotFound:
        return read(file.name, size + OVERHEAD)


def _reader(mirror: str, progress: OnProgress, policy: RetryPolicy) -> Callable[[str, int], bytes]:
    """A function (name, limit in bytes) that reads a file from a mirror; the name of an archive is empty."""
    parts = urlsplit(mirror)
    if parts.scheme == "file":
        return lambda name, limit: _read_file(Path(unquote(parts.path)) / name, limit)
    if parts.scheme == "s3":
        return lambda name, limit: _read_s3(mirror, name, limit)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        folder = mirror if mirror.endswith((".npz", "/")) else f"{mirror}/"
        return lambda name, limit: _read_http(urljoin(folder, name), limit, progress, policy)
    if parts.scheme == "http":
        raise MirrorError("http:// is not encrypted; use https://", reached=True)
    raise MirrorError("not an https://, file:// or s3:// address", reached=True)


def _is_loopback(host: str | None) -> bool:
    return host in {"localhost", "127.0.0.1", "::1"}


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", reached=True) from None
    except OSError as error:
        raise MirrorError(f"cannot read {path}: {error.strerror}", reached=True) from error
    return _bounded(data, limit)


def _read_s3(mirror: str, name: str, limit: int) -> bytes:
    from tasks.storage import open_store

    folder, _, last = mirror.rstrip("/").rpartition("/")
    try:
        store, key = (open_store(mirror), name) if name else (open_store(folder), last)
        return _bounded(store.get(key).data, limit)
    except KeyMissing:
        raise NotFound(f"there is no object {name or last}", reached=True) from None
    except StoreError as error:
        raise MirrorError(error.why, reached=True) from error


def _bounded(data: B, limit: int) -> B:
    if len(data) > limit:
        raise MirrorError(f"sent more than the {limit:,} bytes that belong there", reached=True)
    return data


def _read_http(url: str, limit: int, progress: OnProgress, policy: RetryPolicy) -> bytes:
    """Read over HTTP, with retries after no connection, a lost one, a timeout, 429 and 5xx."""
    for attempt in range(1, policy.attempts + 1):
        try:
            return _read_once(url, limit, progress, policy)
        except _Transient as error:
            if attempt == policy.attempts:
                raise MirrorError(f"{error} ({attempt} attempts)", reached=error.reached) from error
            # Random, so that many workers do not retry at the same moment.
            time.sleep(random.uniform(0.5, 1.0) * policy.backoff * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


class _Transient(MirrorError):
    """A failure that a retry may overcome."""


def _read_once(url: str, limit: int, progress: OnProgress, policy: RetryPolicy) -> bytes:
    timeout = httpx.Timeout(policy.read, connect=policy.connect)
    hooks = {"response": [_refuse_downgrade]}
    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=True, max_redirects=5, event_hooks=hooks) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            _check_status(response)
            return _read_body(response, url, limit, progress, time.monotonic() + policy.per_file)
    except httpx.ConnectError as error:
        raise _no_connection(error) from error
    except httpx.TimeoutException as error:
        answered = not isinstance(error, httpx.ConnectTimeout)
        raise _Transient(
            f"no answer within {policy.read if answered else policy.connect:g} s", reached=answered
        ) from error
    except httpx.TooManyRedirects as error:
        raise MirrorError("redirects without end", reached=True) from error
    except httpx.TransportError as error:
        raise _Transient(f"the connection broke ({error})", reached=True) from error


def _no_connection(error: httpx.ConnectError) -> MirrorError:
    """A refused certificate is an answer, for example of a proxy that inspects what passes, and no reason to retry."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return MirrorError(
                f"its certificate is not trusted ({cause.verify_message}); SSL_CERT_FILE names the trusted ones",
                reached=True,
            )
    nothing = any(
        isinstance(cause, NOTHING_THERE) or (isinstance(cause, OSError) and cause.errno in NO_WAY_THERE)
        for cause in causes
    )
    return _Transient(f"cannot connect ({error})", reached=not nothing)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _refuse_downgrade(response: httpx.Response) -> None:
    """Raise MirrorError for a redirect to anything but https://, even if the mirror is http:// on this machine."""
    if response.has_redirect_location:
        target = response.url.join(response.headers["Location"])
        if target.scheme != "https":
            raise MirrorError(f"redirects to {target}, which is not https://", reached=True)


def _check_status(response: httpx.Response) -> None:
    if response.status_code in {404, 410}:
        raise NotFound(f"there is no {response.url} ({response.status_code})", reached=True)
    if response.status_code == 429 or response.status_code >= 500:
        raise _Transient(f"answered {response.status_code}", reached=True)
    if response.status_code != 200:
        raise MirrorError(f"answered {response.status_code} for {response.url}", reached=True)


def _read_body(response: httpx.Response, url: str, limit: int, progress: OnProgress, deadline: float) -> bytes:
    total = int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
    body, reported = bytearray(), time.monotonic()
    for chunk in response.iter_raw():
        body += chunk
        _bounded(body, limit)
        if time.monotonic() > deadline:
            raise MirrorError(f"sent only {len(body):,} bytes within the time allowed", reached=True)
        if time.monotonic() - reported > 0.5 and len(body) != total:
            reported = time.monotonic()
            progress(url.rpartition("/")[2], len(body), total)
    progress(url.rpartition("/")[2], len(body), total)
    return bytes(body)
