"""Prefect's clients against a real server behind a proxy that answers errors, or nothing, for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, SyncPrefectClient

from tasks.running import server
from tests.faults.proxy import Fault, Kind, Proxy
from tests.prefect_proxy import behind_proxy

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with behind_proxy() as proxy:
        yield proxy


def read(proxy: Proxy) -> None:
    """The first request of a new client, which Prefect itself would not repeat."""
    with SyncPrefectClient(f"{proxy.url}/api") as client:
        client.read_flows()


async def read_async(proxy: Proxy) -> None:
    async with PrefectClient(f"{proxy.url}/api") as client:
        await client.read_flows()


@pytest.mark.parametrize(
    ("kind", "status"),
    [("status", 500), ("status", 502), ("status", 503), ("status", 504), ("status", 429), ("reset", 0), ("lost", 0)],
)
def test_a_request_waits_for_the_server(kind: Kind, status: int, proxy: Proxy) -> None:
    for is_async in (False, True):
        proxy.faults[:] = [Fault(kind, method="POST", status=status, times=20)]  # Prefect gives up after six
        start = time.monotonic()
        asyncio.run(read_async(proxy)) if is_async else read(proxy)
        assert time.monotonic() - start < 5, "it asks again soon"
        assert proxy.faults[0].times == 0


def test_a_refusal_is_no_absence(proxy: Proxy) -> None:
    proxy.faults[:] = [Fault("status", method="POST", status=422)]
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        read(proxy)


@pytest.mark.parametrize("kind", ["status", "reset"])
def test_the_wait_has_an_end(kind: Kind, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.faults[:] = [Fault(kind, times=None)]
    monkeypatch.setattr(server, "SERVER_AWAY", 0.2)
    with pytest.raises(httpx.HTTPError):
        read(proxy)
    monkeypatch.setattr(server, "SERVER_AWAY", 600.0)
    start = time.monotonic()
    with server.wait_at_most(0), pytest.raises(httpx.HTTPError):
        read(proxy)
    assert time.monotonic() - start < 2


def test_the_absence_is_told_once(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.faults[:] = [Fault("reset", method="POST", times=3)]
    read(proxy)
    assert caplog.messages.count("the Prefect server does not answer, waiting for it") == 1
