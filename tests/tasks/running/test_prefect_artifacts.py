"""Markdown and logged lines on a run's page; a server that fails costs the run nothing but them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.runtime import flow_run

from tasks.running import prefect_artifacts
from tasks.running.prefect_artifacts import (
    LINES,
    LogArtifact,
    artifact_key,
    logged_lines,
    show_markdown,
    show_verdict,
)
from tests.faults.proxy import Fault, Kind, Proxy
from tests.prefect_proxy import behind_proxy

pytestmark = pytest.mark.usefixtures("prefect_server")

LOG = logging.getLogger("retrain.train")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with behind_proxy() as proxy:
        yield proxy


@flow
def shows(series: str = "mnist", updates: int = 3) -> tuple[str, float]:
    start = time.monotonic()
    with LogArtifact(LOG, "train", series, "[its run](x)"):
        for number in range(updates):
            LOG.info("train: epoch %d", number + 1)
    show_markdown("report", series, "# Report", "The report")
    show_verdict("rejected")
    return str(flow_run.id), time.monotonic() - start


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    level = LOG.level
    LOG.setLevel(logging.INFO)
    yield
    LOG.setLevel(level)


def read(run: str) -> dict[str, Artifact]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
    with get_client(sync_client=True) as client:
        return {str(each.key): each for each in client.read_artifacts(artifact_filter=of_run)}


def artifacts(run: str) -> dict[str, Any]:
    return {key: artifact.data for key, artifact in read(run).items()}


def run_of(id: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(id))


def test_what_a_run_shows() -> None:
    run, _ = shows()
    assert artifacts(run) == {
        "train-mnist": "[its run](x)\n\n```text\nepoch 1\nepoch 2\nepoch 3\n```",
        "report-mnist": "# Report",
    }
    assert read(run)["train-mnist"].description == "epoch 3", "the card shows the newest line"
    with get_client(sync_client=True) as client:
        assert logged_lines(client, UUID(run), "train") == ["epoch 1", "epoch 2", "epoch 3"]


def test_each_model_has_a_history_of_its_own_and_so_have_its_dry_runs() -> None:
    keys = {artifact_key("report", series) for series in ("mnist", "digits", "mnist dry run", "Letters_v2/A")}
    assert keys == {"report-mnist", "report-digits", "report-mnist-dry-run", "report-letters-v2-a"}
    assert all(re.fullmatch("[a-z0-9-]+", key) for key in keys), "what Prefect takes"
    assert set(artifacts(shows("mnist dry run")[0])) == {"train-mnist-dry-run", "report-mnist-dry-run"}


@flow(flow_run_name="mnist, 5 epochs, seed 0")
def ends_twice() -> str:
    show_verdict("rejected")
    show_verdict("published", " version 3")
    return str(flow_run.id)


def test_the_verdict_is_in_name_and_tags_once_also_after_a_retry() -> None:
    run = run_of(shows()[0])
    assert run.name.endswith(": rejected")
    assert run.tags == ["rejected"]
    with tags("one-at-a-time", "rejected"):
        run = run_of(ends_twice())
    assert run.name == "mnist, 5 epochs, seed 0: published version 3"
    assert sorted(run.tags) == ["one-at-a-time", "published"]


def test_a_long_log_shows_its_last_lines_and_a_fence_in_it_ends_nothing() -> None:
    run, _ = shows(updates=LINES + 50)
    with get_client(sync_client=True) as client:
        assert logged_lines(client, UUID(run), "train") == [f"epoch {number + 51}" for number in range(LINES)]

    @flow
    def fenced() -> str:
        with LogArtifact(LOG, "train", "mnist"):
            LOG.info("train: ```\nand more")
        return str(flow_run.id)

    with get_client(sync_client=True) as client:
        assert logged_lines(client, UUID(fenced()), "train") == ["'''", "and more"]


def test_a_step_that_logs_nothing_or_a_run_that_shows_nothing_has_no_lines() -> None:
    run, _ = shows(updates=0)
    assert set(artifacts(run)) == {"report-mnist"}
    with get_client(sync_client=True) as client:
        assert logged_lines(client, UUID(run), "train") == []
        assert logged_lines(client, UUID(int=0), "train") == []


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
    assert caplog.text.count("train-mnist: cannot show the progress") == 1
    assert caplog.text.count("cannot show it on the run's page") == 1


def test_a_verdict_that_cannot_be_shown_is_told_and_dropped(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefect_artifacts, "OFFER_SECONDS", 0.5)

    @flow
    def ends() -> str:
        proxy.faults.append(Fault("status", path="flow_runs/[^/]*$", status=409, times=None))
        show_verdict("rejected")
        proxy.faults.clear()
        return "ended"

    assert ends() == "ended"
    assert "verdict: cannot show it on the run's page" in caplog.text


def test_a_server_that_hangs_does_not_stop_the_training(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_artifacts, "LONGEST_WAIT", 0.2)
    proxy.faults.append(Fault("hang", path="artifacts", times=None))
    _, seconds = shows()
    assert seconds < 3


def test_one_failure_leaves_the_rest_as_it_was(proxy: Proxy) -> None:
    proxy.faults.append(Fault("status", path="artifacts", status=500, times=1))

    @flow
    def slow() -> str:
        with LogArtifact(LOG, "train", "mnist"):
            LOG.info("train: epoch 1")
            time.sleep(0.5)
            LOG.info("train: epoch 2")
        return str(flow_run.id)

    assert artifacts(slow()) == {"train-mnist": "```text\nepoch 1\nepoch 2\n```"}
