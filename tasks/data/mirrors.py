"""Where a data set is fetched from: the first mirror that has the right bytes.

A mirror is a folder (`https://`, `file://`, `s3://`) that holds each file as NAME.gz or NAME, or the address of Keras'
.npz. What it sends is bounded in time and size, unpacked, checked, and compared with the pinned SHA-256 of the
content. The compressed set is 11 MB, so it is held in memory. Called by the download step.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
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

Told = Callable[[str, int, int | None], None]

# A wrapper is smaller than what it holds; a raw file has no wrapper. This much more is allowed for headers.
OVERHEAD = 4096


@dataclass(frozen=True)
class Patience:
    """How long to wait for a mirror, in seconds, and how often to try it."""

    connect: float = 5.0
    read: float = 20.0
    per_file: float = 300.0
    attempts: int = 3
    backoff: float = 0.5


class Fetched(NamedTuple):
    """The four IDX contents by the name of their field in `Files`, and the mirror that served them."""

    contents: dict[str, bytes]
    source: str


class MirrorError(Exception):
    """One mirror failed; `reached` tells whether anything answered there. Stays inside this module."""

    def __init__(self, reason: str, *, reached: bool) -> None:
        super().__init__(reason)
        self.reached = reached


class NotThere(MirrorError):
    """The mirror answers, and has no file of this name."""


def fetch(
    spec: Spec, mirrors: Sequence[str], progress: Told = lambda *_: None, patience: Patience | None = None
) -> Fetched:
    """Get a data set from the first mirror that has it.

    Args:
        spec: The data set, with the digests its files must have.
        mirrors: Where to look, in order; none for the data set's public mirrors.
        progress: Called with (file name, bytes so far, bytes in all or None).
        patience: Time-outs and retries.

    Raises:
        MirrorsUnreachable: No mirror answered at all.
        DownloadError: Mirrors answered, and none delivered the right bytes. The message names each and why.
    """
    if not spec.mirrors:  # embedded: any mirror is meant for another data set
        return Fetched(verified(spec, embedded_digits()), "scikit-learn")
    reasons, reached = [], False
    for mirror in mirrors or spec.mirrors:
        try:
            return Fetched(_fetch_all(spec, mirror, progress, patience or Patience()), mirror)
        except (MirrorError, DataError) as error:
            reached |= isinstance(error, DataError) or error.reached
            reasons.append(f"{mirror}: {_one_line(error)}")
            LOG.warning("mirror %s failed: %s", mirror, _one_line(error))
    kind = DownloadError if reached else MirrorsUnreachable
    raise kind(
        f"cannot download {spec.name}", "; ".join(reasons), "Give another source with --mirror https://… or file://…"
    )


def verified(spec: Spec, contents: dict[str, bytes]) -> dict[str, bytes]:
    """The contents, each checked: IDX format, shape, label range, pinned digest. Raises DataError."""
    for field, file in spec.files.items():
        array = idx.decode(contents[field], file.name, file.shape)
        if len(file.shape) == 1:
            idx.check_labels(array, file.name, spec.classes)
        if digest(contents[field]) != file.sha256:
            raise DataError(
                f"cannot use {file.name}",
                f"its content has the SHA-256 {digest(contents[field])[:12]}… instead of {file.sha256[:12]}…",
                idx.ASK_AGAIN,
            )
    return contents


def _one_line(error: MirrorError | DataError) -> str:
    return f"{error.what}: {error.why}" if isinstance(error, DataError) else str(error)


def _fetch_all(spec: Spec, mirror: str, progress: Told, patience: Patience) -> dict[str, bytes]:
    read = _reader(mirror, progress, patience)
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
    except NotThere:
        return read(file.name, size + OVERHEAD)


def _reader(mirror: str, progress: Told, patience: Patience) -> Callable[[str, int], bytes]:
    """What reads (name, limit in bytes) from a mirror; the name is empty where the mirror is a file itself."""
    parts = urlsplit(mirror)
    if parts.scheme == "file":
        return lambda name, limit: _read_file(Path(unquote(parts.path)) / name, limit)
    if parts.scheme == "s3":
        return lambda name, limit: _read_s3(mirror, name, limit)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        folder = mirror if mirror.endswith((".npz", "/")) else f"{mirror}/"
        return lambda name, limit: _read_http(urljoin(folder, name), limit, progress, patience)
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
        raise NotThere(f"there is no file {path}", reached=True) from None
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
        raise NotThere(f"there is no object {name or last}", reached=True) from None
    except StoreError as error:
        raise MirrorError(error.why, reached=True) from error


def _bounded(data: B, limit: int) -> B:
    if len(data) > limit:
        raise MirrorError(f"sent more than the {limit:,} bytes that belong there", reached=True)
    return data


def _read_http(url: str, limit: int, progress: Told, patience: Patience) -> bytes:
    """Read over HTTP; tries again what may pass: no connection, a cut, a time-out, 429 and 5xx."""
    for attempt in range(1, patience.attempts + 1):
        try:
            return _read_once(url, limit, progress, patience)
        except _Passing as error:
            if attempt == patience.attempts:
                raise MirrorError(f"{error} ({attempt} attempts)", reached=error.reached) from error
            # Full jitter, so that many workers do not come back at once.
            time.sleep(random.uniform(0.5, 1.0) * patience.backoff * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


class _Passing(MirrorError):
    """May be gone when tried again."""


def _read_once(url: str, limit: int, progress: Told, patience: Patience) -> bytes:
    waits = httpx.Timeout(patience.read, connect=patience.connect)
    hooks = {"response": [_refuse_downgrade]}
    try:
        with (
            httpx.Client(timeout=waits, follow_redirects=True, max_redirects=5, event_hooks=hooks) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            _check_status(answer)
            return _read_body(answer, url, limit, progress, time.monotonic() + patience.per_file)
    except httpx.ConnectError as error:
        raise _Passing(f"cannot connect ({error})", reached=False) from error
    except httpx.TimeoutException as error:
        answered = not isinstance(error, httpx.ConnectTimeout)
        raise _Passing(
            f"no answer within {patience.read if answered else patience.connect:g} s", reached=answered
        ) from error
    except httpx.TooManyRedirects as error:
        raise MirrorError("redirects without end", reached=True) from error
    except httpx.TransportError as error:
        raise _Passing(f"the connection broke ({error})", reached=True) from error


def _refuse_downgrade(answer: httpx.Response) -> None:
    """A redirect may lead anywhere, but only over https://, whatever the mirror's own address was."""
    if answer.has_redirect_location:
        target = answer.url.join(answer.headers["Location"])
        if target.scheme != "https":
            raise MirrorError(f"redirects to {target}, which is not https://", reached=True)


def _check_status(answer: httpx.Response) -> None:
    if answer.status_code in {404, 410}:
        raise NotThere(f"there is no {answer.url} ({answer.status_code})", reached=True)
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _Passing(f"answered {answer.status_code}", reached=True)
    if answer.status_code != 200:
        raise MirrorError(f"answered {answer.status_code} for {answer.url}", reached=True)


def _read_body(answer: httpx.Response, url: str, limit: int, progress: Told, deadline: float) -> bytes:
    total = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
    body, told = bytearray(), time.monotonic()
    for chunk in answer.iter_raw():
        body += chunk
        _bounded(body, limit)
        if time.monotonic() > deadline:
            raise MirrorError(f"sent only {len(body):,} bytes within the time allowed", reached=True)
        if time.monotonic() - told > 0.5 and len(body) != total:
            told = time.monotonic()
            progress(url.rpartition("/")[2], len(body), total)
    progress(url.rpartition("/")[2], len(body), total)
    return bytes(body)
