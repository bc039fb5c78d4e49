"""The Prefect server of the tests behind a proxy, as this process sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.running import server
from tests.faults.proxy import Proxy, proxying


@contextmanager
def behind_proxy() -> Iterator[Proxy]:
    """While the block runs, Prefect's clients ask the proxy, and again after a moment."""
    server.wait_for_server()
    upstream = str(PREFECT_API_URL.value()).removesuffix("/api")
    with proxying(upstream) as proxy, temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
        with patch.object(server, "PAUSE", 0.02):
            yield proxy
        proxy.faults.clear()
        for background in (APILogWorker, EventsWorker):  # what they still have to send needs the proxy
            background.drain_all(timeout=10)
