"""The whole job with a real Prefect server, a mirror over HTTP, a real training, and both kinds of store."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from tasks.errors import GateRejected
from tasks.learning import model_file
from tasks.registry import Registry
from tasks.registry.runs import RunIndex
from tasks.report.model_page import render
from tasks.storage import open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Outcome
from tests.end_to_end.jobs import CACHED, LENIENT, job, outcome, reused
from tests.mirrors import Mirror
from tests.workers.laptop import eventually

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.usefixtures("fresh_process")
def test_a_first_run_publishes_and_a_second_one_reuses_everything(store_url: str, mirror: Mirror) -> None:
    state = job(store_url, mirror)
    first = outcome(state)
    assert (state.name, first.verdict, reused(first)) == ("Published", "published", [])
    assert first.decision.accuracy > 0.9
    assert (first.decision.checks[-1].name, first.decision.checks[-1].value) == ("loaded back", 1.0)
    assert first.receipt
    assert (first.receipt.version, first.receipt.champion) == (1, 1)

    store = open_store(store_url)
    registry = Registry(store, "mnist")
    assert {file.path for file in registry.manifest(1).files} == {
        "README.md",
        "model.keras",
        "model.onnx",
        "predictions.npz",
        "report.html",
        "report.json",
        "report.md",
        "report.schema.json",
    }
    assert model_file.load(registry.read(1, "model.keras")).count_params() == 407_050
    report = json.loads(registry.read(1, "report.json"))
    assert report["evaluation"]["accuracy"] == first.decision.accuracy
    assert len(report["trained"]["history"]) == 3
    assert b"Passed the gate" in store.get(f"runs/{first.run}/report.html", LARGEST_DOCUMENT).data

    asked = list(mirror.asked)
    versions = list(store.list("models/mnist/versions/"))
    state = job(store_url, mirror)
    second = outcome(state)
    assert (state.name, second.verdict) == ("Unchanged", "already published")
    assert reused(second) == CACHED
    assert mirror.asked == asked, "a cached run asks no mirror"
    assert not list(store.list("checkpoints/")), "none outlives its training"
    assert list(store.list("models/mnist/versions/")) == versions
    rows = RunIndex(store, "mnist").rows()
    assert [(row.id, row.verdict, row.version) for row in rows] == [
        (first.run, "published", 1),
        (second.run, "unchanged", 1),
    ]
    assert rows[0].accuracy == pytest.approx(first.decision.accuracy, abs=1e-6)
    assert store.get("models/mnist/index.html", LARGEST_DOCUMENT).data == render(
        "mnist", RunIndex(store, "mnist").lines()
    )
    assert (first.decision.look, second.decision.look, len(list(store.list("looks/")))) == (1, 0, 1)
    assert (first.decision.verdict, first.decision.remark) == ("publish", "no champion yet")
    assert (second.decision.verdict, second.decision.remark) == ("no change", "version 1 has these weights already")
    assert second.decision.checks[:5] == first.decision.checks
    kept = json.loads(store.get(f"runs/{second.run}/report.json", LARGEST_DOCUMENT).data)
    assert (report.pop("changes"), kept.pop("changes")["differences"]) == (None, [])
    assert kept == report, "where nothing changes the report is the version's own, and says so"
    assert b"Nothing changed" in store.get(f"runs/{second.run}/report.html", LARGEST_DOCUMENT).data


@pytest.mark.parametrize("store_url", ["local"], indirect=True)
def test_a_model_below_the_gate_is_rejected_and_its_report_kept(
    store_url: str, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    state = job(store_url, mirror, gate=LENIENT.model_copy(update={"min_accuracy": 1.0}))
    assert state.name == "Rejected"
    assert state.is_failed()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "a verdict is no error"
    assert re.search(r" to 0\.\d{4}\. Accuracy is 0\.\d{4} and needs 1\.0000", str(state.message)), (
        "which row, in words"
    )
    with pytest.raises(GateRejected, match=r"Rejected by the gate: accuracy.*; accuracy 0\.\d{4}, 95 %") as rejection:
        state.result()
    result = cast(Outcome, rejection.value.outcome)
    assert (result.verdict, result.receipt) == ("rejected", None)
    store = open_store(store_url)
    (row,) = RunIndex(store, "mnist").rows()
    assert (row.id, row.verdict, row.version) == (result.run, "rejected", 0)
    assert re.fullmatch(r"accuracy is 0\.\d{4} and needs 1\.0000.*", row.why)
    assert {entry.key.split("/")[2] for entry in store.list("models/")} == {"runs", "runs.jsonl", "index.html"}
    decision = json.loads(store.get(f"runs/{result.run}/decision.json", LARGEST_DOCUMENT).data)
    assert decision["verdict"] == "reject"
    assert b"Rejected by the gate" in store.get(f"runs/{result.run}/report.html", LARGEST_DOCUMENT).data


def test_the_run_page_shows_tasks_gate_report_and_progress(
    tmp_path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = outcome(job(str(tmp_path), mirror))
    second = outcome(job(str(tmp_path), mirror))
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(cast(Any, result.run))
        assert (run.name, run.tags) == ("mnist, 3 epochs, seed 0: published version 1", ["published"])
        assert run.state_name == "Published"
        shown = {(str(one.flow_run_id), one.key): str(one.data) for one in client.read_artifacts()}
        first = {key: data for (id, key), data in shown.items() if id == result.run}
        assert set(first) == {"gate-mnist", "report-mnist", "train-mnist", "steps-mnist"}
        rows = [
            [cell.strip() for cell in row.split("|")[1:-1]] for row in shown[second.run, "steps-mnist"].splitlines()
        ]
        assert [row[0] for row in rows[2:5]] == ["download", "preprocess", "train"]
        assert rows[4][2].startswith("reused, computed ")
        assert "| accuracy lower bound |" in first["report-mnist"]
        assert "data:image/png;base64," in first["report-mnist"]
        assert f"retrain compare {result.run} --store " in first["report-mnist"]
        assert "| accuracy lower bound |" in first["gate-mnist"]
        assert "100 % epoch 3/3  loss " in first["train-mnist"]
        states = dict.fromkeys(CACHED, "Cached") | dict.fromkeys(["judge", "record"], "Completed")
        eventually(lambda: task_states(client, second.run) == states)


def task_states(client: SyncPrefectClient, run: str) -> dict[str, str | None]:
    """The states of a run's tasks by their names, as the server has them: it hears of the last one a moment later."""
    tasks = client.read_task_runs()
    return {task.name.split("-")[0]: task.state_name for task in tasks if str(task.flow_run_id) == run}
