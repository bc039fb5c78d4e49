"""Progress bars, tables and Markdown on a run's page; a server that fails costs the run nothing but them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run

from tasks.report import prefect_artifacts
from tasks.report.prefect_artifacts import Progress, show_markdown, show_table
from tests.faults.proxy import Fault, Kind, Proxy
from tests.prefect_proxy import behind_proxy

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with behind_proxy() as proxy:
        yield proxy


@flow
def shows(updates: int = 3) -> tuple[str, float]:
    start = time.monotonic()
    with Progress("train", "Epochs of 3") as progress:
        for number in range(updates):
            progress.show((number + 1) / updates, "an epoch")
    show_table("gate", [{"check": "accuracy"}], "The gate")
    show_markdown("report", "# Report", "The report")
    return str(flow_run.id), time.monotonic() - start


def artifacts(run: str) -> dict[str, Any]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    with get_client(sync_client=True) as client:
        return {str(each.key): each.data for each in client.read_artifacts(artifact_filter=of_run)}


def test_what_a_run_shows() -> None:
    run, _ = shows()
    assert artifacts(run) == {"train": 100.0, "gate": '[{"check": "accuracy"}]', "report": "# Report"}


@pytest.mark.parametrize(("kind", "status"), [("reset", 0), ("status", 500), ("status", 409)])
def test_what_cannot_be_shown_is_told_and_dropped(
    kind: Kind, status: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_artifacts, "OFFER_SECONDS", 0.5)
    proxy.faults.append(Fault(kind, path="artifacts", status=status, times=None))
    run, seconds = shows()
    assert seconds < 10
    proxy.faults.clear()
    assert artifacts(run) == {}
    assert caplog.text.count("train: cannot show the progress") == 1
    assert caplog.text.count("cannot show it on the run's page") == 2


def test_a_server_that_hangs_does_not_stop_the_training(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_artifacts, "LONGEST_WAIT", 0.2)
    proxy.faults.append(Fault("hang", path="artifacts", times=None))
    _, seconds = shows()
    assert seconds < 3


def test_one_failure_leaves_the_rest_as_it_was(proxy: Proxy) -> None:
    proxy.faults.append(Fault("status", path="artifacts", status=500, times=1))
    run, _ = shows()
    assert artifacts(run)["train"] == 100.0
