"""Requests to the Prefect server, all of which wait while it is away: restarted, upgraded, too busy to answer.

Prefect's own client tries again after 2, 4, 8, … seconds, gives up after a minute, and does so at once for the first
request of a client: a server that was away for ten seconds cost 41, one that was away for longer ended the run. Its
pauses cannot be configured. So `wait_for_server` replaces that loop in every client of this process, the engine's
included, by one with a fixed pause and a limit in seconds. Called when a step is imported, thus before any run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import httpx
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

LOG = logging.getLogger("retrain.server")

# Seconds without an answer until a request fails.
SERVER_AWAY = 600.0

# The same at the end of the process, when only logs and events are left to send.
LAST_LOGS = 5.0

# Seconds between two attempts.
PAUSE = 1.0

# What a server answers that is starting, overloaded or behind a proxy that cannot reach it.
AWAY = frozenset({408, 429, 500, 502, 503, 504})

CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_limit: ContextVar[float | None] = ContextVar("limit", default=None)


@contextmanager
def wait_at_most(seconds: float) -> Iterator[None]:
    """Requests in this block fail after so many seconds without an answer: for what the run can do without."""
    token = _limit.set(seconds)
    try:
        yield
    finally:
        _limit.reset(token)


def wait_for_server() -> None:
    """Make every Prefect client of this process wait for the server."""
    PrefectHttpxSyncClient._send_with_retry = _send  # type: ignore[method-assign, assignment]
    PrefectHttpxAsyncClient._send_with_retry = _send_async  # type: ignore[method-assign, assignment]


class Absence:
    """The attempts of one request."""

    def __init__(self) -> None:
        self._start, self._told = time.monotonic(), False

    def is_over(self, answer: httpx.Response | httpx.TransportError) -> bool:
        """Whether the request has its answer, or has waited long enough for one."""
        if isinstance(answer, httpx.Response) and not (answer.status_code in AWAY or _is_csrf_error(answer)):
            return True
        limit = SERVER_AWAY if (limited := _limit.get()) is None else limited
        if getattr(threading, "_SHUTTING_DOWN", False):  # the last logs must not keep a process that is done
            limit = min(limit, LAST_LOGS)
        return time.monotonic() - self._start >= limit

    def tell(self, answer: httpx.Response | httpx.TransportError) -> None:
        """Log the first failure of a request that waits."""
        if not self._told and not (isinstance(answer, httpx.Response) and _is_csrf_error(answer)):
            why = f"answers {answer.status_code}" if isinstance(answer, httpx.Response) else "does not answer"
            LOG.warning("the Prefect server %s, waiting for it", why)
        self._told = True


def _send(
    self: PrefectHttpxSyncClient,
    request: httpx.Request,
    send: Callable[..., httpx.Response],
    send_args: tuple[Any, ...],
    send_kwargs: dict[str, Any],
    **_: object,
) -> httpx.Response:
    absence = Absence()
    while True:
        if self.enable_csrf_support and request.method in CHANGES:
            self._add_csrf_headers(request)
        answer: httpx.Response | httpx.TransportError
        try:
            answer = send(request, *send_args, **send_kwargs)
        except httpx.TransportError as error:
            answer = error
        if absence.is_over(answer):
            return _result(answer)
        absence.tell(answer)
        if isinstance(answer, httpx.Response) and _is_csrf_error(answer):
            self.csrf_token = None
        time.sleep(PAUSE)


async def _send_async(
    self: PrefectHttpxAsyncClient,
    request: httpx.Request,
    send: Callable[..., Awaitable[httpx.Response]],
    send_args: tuple[Any, ...],
    send_kwargs: dict[str, Any],
    **_: object,
) -> httpx.Response:
    """The same for logs and events, which are sent in the background and say nothing."""
    absence = Absence()
    while True:
        if self.enable_csrf_support and request.method in CHANGES:
            await self._add_csrf_headers(request)
        answer: httpx.Response | httpx.TransportError
        try:
            answer = await send(request, *send_args, **send_kwargs)
        except httpx.TransportError as error:
            answer = error
        if absence.is_over(answer):
            return _result(answer)
        if isinstance(answer, httpx.Response) and _is_csrf_error(answer):
            self.csrf_token = None
        await anyio.sleep(PAUSE)


def _result(answer: httpx.Response | httpx.TransportError) -> httpx.Response:
    if isinstance(answer, httpx.TransportError):
        raise answer
    return answer


def _is_csrf_error(answer: httpx.Response) -> bool:
    """Whether the token has expired; the next attempt fetches another one."""
    return answer.status_code == 403 and "Invalid CSRF token" in answer.text
