"""The whole job with a real Prefect server, a mirror over HTTP, a real training, and both kinds of store."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from flows.cli.main import main
from flows.retrain import retrain
from tasks import export
from tasks.caching.inventory import cache_items
from tasks.data.datasets import DATASETS
from tasks.errors import GateRejected
from tasks.learning import isolated, model_file
from tasks.registry import Registry
from tasks.settings import Data, GateSettings, RecipeSettings, StepName
from tasks.storage import ObjectStore, open_store
from tasks.values import Check, Outcome
from tests.mirrors import CONTENTS, Mirror, gzipped, serving, spec_for
from tests.tasks.learning.test_isolated import impostor

RECIPE = RecipeSettings(epochs=3, batch_size=32)
LENIENT = GateSettings(min_accuracy=0.5, min_accuracy_lower_bound=0.5, min_class_recall=0.2, max_regression=0.5)
CACHED = ["download", "preprocess", "train", "evaluate", "load_back", "export", "report"]

pytestmark = pytest.mark.usefixtures("prefect_server")


def job(
    store: str, mirror: Mirror, recipe: RecipeSettings = RECIPE, gate: GateSettings = LENIENT, **more: Any
) -> State[Outcome]:
    return cast(
        State[Outcome],
        retrain(Data(mirror=(mirror.url,)), recipe, gate, device="cpu", store=store, return_state=True, **more),
    )


def outcome(state: State[Outcome]) -> Outcome:
    return cast(Any, state.result())  # type: ignore[no-any-return]


def loaded_back(result: Outcome) -> Check:
    (row,) = [check for check in result.decision.checks if check.name == "loaded back"]
    return row


def reused(result: Outcome) -> list[str]:
    return [step.name for step in result.steps if step.cached]


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
    assert b"Passed the gate" in store.get(f"runs/{first.run}/report.html").data

    asked = list(mirror.asked)
    versions = list(store.list("models/"))
    state = job(store_url, mirror)
    second = outcome(state)
    assert (state.name, second.verdict) == ("Unchanged", "already published")
    assert reused(second) == CACHED
    assert mirror.asked == asked, "a cached run asks no mirror"
    assert not list(store.list("checkpoints/")), "none outlives its training"
    assert list(store.list("models/")) == versions
    assert (first.decision.verdict, first.decision.remark) == ("publish", "no champion yet")
    assert (second.decision.verdict, second.decision.remark) == ("no change", "version 1 has these weights already")
    assert second.decision.checks[:5] == first.decision.checks
    for name in ("report.html", "report.json", "report.md"):
        kept = store.get(f"runs/{second.run}/{name}").data
        assert kept == registry.read(1, name), "where nothing changes the report is the version's own"


def test_a_change_reruns_what_depends_on_it_and_says_why(
    tmp_path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    job(str(tmp_path), mirror)
    changed = outcome(job(str(tmp_path), mirror, RECIPE.model_copy(update={"learning_rate": 0.002})))
    assert reused(changed) == ["download", "preprocess"]
    assert "train: runs, learning_rate 0.001 → 0.002" in caplog.text
    assert changed.receipt
    assert (changed.receipt.version, changed.receipt.champion) == (2, 2)
    stricter = outcome(job(str(tmp_path), mirror, gate=LENIENT.model_copy(update={"min_class_recall": 0.21})))
    assert reused(stricter) == ["download", "preprocess", "train", "evaluate", "load_back", "export"]


def test_a_refresh_computes_everything_anew_with_the_same_result(tmp_path: Path, mirror: Mirror) -> None:
    first = outcome(job(str(tmp_path), mirror))
    again = outcome(job(str(tmp_path), mirror, refresh=get_args(StepName)))
    assert reused(again) == []
    assert again.decision.checks[:5] == first.decision.checks
    assert again.verdict == "already published", "the same weights are no new version"
    assert [step.reason for step in again.steps if step.name in get_args(StepName)] == ["a refresh was asked for"] * 6


def test_one_step_is_refreshed_alone(trained_store: Path, mirror: Mirror) -> None:
    again = outcome(job(str(trained_store), mirror, refresh=("evaluate",)))
    assert set(reused(again)) >= {"download", "preprocess", "train"}
    assert "evaluate" not in reused(again)


def test_a_model_below_the_gate_is_rejected_and_its_report_kept(store_url: str, mirror: Mirror) -> None:
    state = job(store_url, mirror, gate=LENIENT.model_copy(update={"min_accuracy": 1.0}))
    assert state.name == "Rejected"
    assert state.is_failed()
    with pytest.raises(GateRejected, match=r"Rejected by the gate: accuracy.*; accuracy 0\.\d{4}, 95 %") as rejection:
        state.result()
    result = cast(Outcome, rejection.value.outcome)
    assert (result.verdict, result.receipt) == ("rejected", None)
    store = open_store(store_url)
    assert not list(store.list("models/"))
    decision = json.loads(store.get(f"runs/{result.run}/decision.json").data)
    assert decision["verdict"] == "reject"
    assert b"Rejected by the gate" in store.get(f"runs/{result.run}/report.html").data


@pytest.mark.usefixtures("fresh_process")
def test_a_file_that_cannot_be_loaded_back_is_rejected_and_the_next_run_tries_again(
    trained_store: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(isolated, "ROOT", impostor(tmp_path, "os.kill(os.getpid(), 9)"))
        assert outcome(job(str(trained_store), mirror)).verdict == "already published", "cached: no process is started"
        state = job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 1}))
        assert state.name == "Rejected"
        with pytest.raises(GateRejected, match="loaded back") as rejection:
            state.result()
    row = loaded_back(cast(Outcome, rejection.value.outcome))
    assert (row.value, row.limit, row.passed) == (0, 1, False)
    assert row.sentence == "the file to be published: the process was killed by SIGKILL"
    assert Registry(open_store(str(trained_store)), "mnist").versions() == [1]
    again = outcome(job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 1})))
    assert again.verdict == "published"
    assert "load_back" not in reused(again)
    assert loaded_back(again).sentence.endswith("images the same in a fresh process, bit for bit")


def test_of_several_seeds_the_median_is_judged_and_more_of_them_reuse_those_that_are_there(
    trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    three = outcome(job(str(trained_store), mirror, seeds=3))
    assert [step.cached for step in three.steps if step.name == "train"] == [True, False, False]
    five = outcome(job(str(trained_store), mirror, seeds=5))
    for name in ("train", "evaluate"):
        assert [step.cached for step in five.steps if step.name == name] == [True, True, True, False, False]
    facts = json.loads(open_store(str(trained_store)).get(f"runs/{five.run}/report.json").data)
    accuracies = {score["seed"]: score["accuracy"] for score in facts["spread"]["scores"]}
    assert list(accuracies) == [0, 1, 2, 3, 4]
    assert five.decision.accuracy == sorted(accuracies.values())[2] == accuracies[facts["spread"]["judged"]]
    assert facts["recipe"]["seed"] == facts["spread"]["judged"]
    assert facts["trained"]["weights_digest"]
    assert f"seeds: {facts['spread']['judged']} has accuracy {five.decision.accuracy:.4f}, the median" in caplog.text
    again = outcome(job(str(trained_store), mirror, seeds=5))
    assert (again.verdict, set(reused(again))) == ("already published", set(CACHED))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(cast(Any, again.run)).name == "mnist, 3 epochs, seed 0 and 4 more"


def test_an_export_that_predicts_something_else_is_left_out_loudly(
    trained_store: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    result = outcome(job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 1})))
    assert result.verdict == "published"
    why = "it predicts 300 of 300 test images differently"
    assert f"model.onnx is left out: {why}" in caplog.text
    registry = Registry(open_store(str(trained_store)), "mnist")
    assert "model.onnx" not in {file.path for file in registry.manifest(2).files}
    assert registry.manifest(2).facts["onnx"] == {"file": None, "largest_difference": 0.0, "left_out": why}
    assert f"**model.onnx**: left out: {why}".encode() in registry.read(2, "report.md")


def test_a_second_machine_with_an_empty_disk_reuses_the_results(
    bucket: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(bucket, mirror)
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "elsewhere"))
    assert reused(outcome(job(bucket, mirror))) == CACHED


Change = Callable[[bytes], bytes | None]


def spoil(store: ObjectStore, step: str, change: Change) -> None:
    """Damage each artifact that the results of a step name: change its bytes, or delete it if `change` returns None."""
    for result in list(store.list(f"cache/results/{step}/")):
        for sha256 in set(re.findall(rb"[0-9a-f]{64}", store.get(result.key).data)):
            key = f"cache/objects/{sha256.decode()}"
            if not list(store.list(key)):
                continue  # not an artifact: the digest of the weights
            data = change(store.get(key).data)
            if data is None:
                store.delete(key)
            else:
                store.put(key, data)


@pytest.mark.parametrize(
    ("steps", "change"),
    [
        (CACHED[:4], lambda data: None),
        (CACHED[:4], lambda data: data[:-1]),
        (CACHED[:4], lambda data: b"X" + data[1:]),
        (["report"], lambda data: b"X" + data[1:]),  # made from the artifacts of the others, so damaged alone
    ],
    ids=["gone", "cut", "altered", "altered-report"],
)
def test_damaged_artifacts_are_noticed_said_and_computed_anew(
    trained_store: Path, mirror: Mirror, steps: list[str], change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    for step in steps:
        spoil(open_store(str(trained_store)), step, change)
    healed = outcome(job(str(trained_store), mirror))
    assert not set(steps) & set(reused(healed))
    for step in steps:
        assert f"{step}: its cached result cannot be used and is computed anew" in caplog.text
    assert healed.verdict == "already published"
    assert reused(outcome(job(str(trained_store), mirror))) == CACHED


def test_a_cache_that_was_cleared_is_filled_anew(trained_store: Path, mirror: Mirror) -> None:
    assert main(["cache", "clear", "--older-than", "0", "--yes", "--store", str(trained_store)]) == 0
    assert not cache_items(open_store(str(trained_store)))
    assert main(["verify", "--store", str(trained_store)]) == 0, "what is published stays"
    result = outcome(job(str(trained_store), mirror))
    assert (reused(result), result.verdict) == ([], "already published")


def test_altered_results_are_not_believed(
    trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(trained_store))
    for entry in list(store.list("cache/results/evaluate/")):
        data = store.get(entry.key).data
        store.put(entry.key, re.sub(rb"(accuracy[^0-9]*0\.)\d", rb"\g<1>1", data))
        assert store.get(entry.key).data != data
    healed = outcome(job(str(trained_store), mirror))
    assert reused(healed) == ["download", "preprocess", "train", "load_back", "export"], "the predictions are the same"
    assert "evaluate: its cached result cannot be used and is computed anew" in caplog.text


@pytest.fixture(scope="module")
def _first_store(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patched, serving(gzipped(CONTENTS)) as running:
        patched.setitem(DATASETS, "mnist", spec_for(CONTENTS))
        job(str(folder), running)
    return folder


@pytest.fixture
def trained_store(_first_store: Path, tmp_path: Path) -> Path:
    """A copy of a store that a run has filled."""
    return Path(shutil.copytree(_first_store, tmp_path / "store"))


def test_a_validation_split_is_watched_and_changes_the_training_set(tmp_path: Path, mirror: Mirror) -> None:
    data = Data(mirror=(mirror.url,), validation_fraction=0.25)
    gate = GateSettings(min_accuracy=0, min_accuracy_lower_bound=0, min_class_recall=0)
    state = cast(State[Outcome], retrain(data, RECIPE, gate, device="cpu", store=str(tmp_path), return_state=True))
    result = outcome(state)
    report = json.loads(open_store(str(tmp_path)).get(f"runs/{result.run}/report.json").data)
    assert report["prepared"]["statistics"]["validation"]["images"] == 160
    assert report["prepared"]["statistics"]["train"]["images"] == 480
    assert all(epoch["validation_accuracy"] > 0 for epoch in report["trained"]["history"])


def test_the_run_page_shows_tasks_gate_report_and_progress(
    tmp_path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    result = outcome(job(str(tmp_path), mirror))
    second = outcome(job(str(tmp_path), mirror))
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(cast(Any, result.run))
        assert run.name == "mnist, 3 epochs, seed 0"
        assert run.state_name == "Published"
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
        assert {"gate", "report", "download", "train", "steps"} <= artifacts.keys()
        (steps,) = (
            one.data for one in client.read_artifacts() if (one.key, str(one.flow_run_id)) == ("steps", second.run)
        )
        rows = json.loads(str(steps))
        assert [row["step"] for row in rows[:3]] == ["download", "preprocess", "train"]
        assert rows[2]["why"].startswith("reused, computed ")
        assert "| accuracy lower bound |" in str(artifacts["report"].data)
        assert "data:image/png;base64," in str(artifacts["report"].data)
        assert json.loads(str(artifacts["gate"].data))[1]["check"] == "accuracy"
        assert artifacts["train"].data == 100.0
        tasks = client.read_task_runs()
        states = {task.name.split("-")[0]: task.state_name for task in tasks if str(task.flow_run_id) == second.run}
    assert states == dict.fromkeys(CACHED, "Cached") | dict.fromkeys(["judge", "record"], "Completed")
