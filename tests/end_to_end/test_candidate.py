"""What a whole run measures on its model: loaded back, exported, several seeds, held-out images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from flows.retrain import retrain
from tasks import export, load_back
from tasks.errors import GateRejected, LoadBackError, SubprocessError
from tasks.learning import isolated
from tasks.registry import Registry
from tasks.settings import Data, GateSettings
from tasks.storage import open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Outcome
from tests.end_to_end.jobs import CACHED, RECIPE, job, loaded_back, outcome, reused
from tests.mirrors import Mirror
from tests.tasks.learning.test_isolated import impostor

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.usefixtures("fresh_process")
def test_what_the_machine_lacks_for_loading_back_is_an_error_and_the_next_run_tries_again(
    trained_store: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(isolated, "ROOT", impostor(tmp_path, "os.kill(os.getpid(), 9)"))
        assert outcome(job(str(trained_store), mirror)).verdict == "already published", "cached: no process is started"
        state = job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 1}))
        assert state.name == "Failed"
        with pytest.raises(SubprocessError, match="on this machine: the process was killed by SIGKILL"):
            state.result()
    assert Registry(open_store(str(trained_store)), "mnist").versions() == [1]
    again = outcome(job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 1})))
    assert again.verdict == "published"
    assert "load_back" not in reused(again)
    assert loaded_back(again).sentence.endswith("images the same in a fresh process, bit for bit")


def test_a_file_that_is_refused_when_it_is_loaded_back_is_rejected(
    trained_store: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise LoadBackError("the model file cannot be loaded back", "it holds the class X", "Run again.")

    monkeypatch.setattr(load_back, "predict_isolated", refuse)
    with pytest.raises(GateRejected, match="loaded back") as rejection:
        job(str(trained_store), mirror, RECIPE.model_copy(update={"seed": 1})).result()
    row = loaded_back(cast(Outcome, rejection.value.outcome))
    assert (row.value, row.limit, row.passed) == (0, 1, False)
    assert row.sentence == "the file to be published: it holds the class X"


def test_of_several_seeds_the_median_is_judged_and_more_of_them_reuse_those_that_are_there(
    trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    three = outcome(job(str(trained_store), mirror, seeds="3"))
    assert [step.cached for step in three.steps if step.name == "train"] == [True, False, False]
    five = outcome(job(str(trained_store), mirror, seeds="5"))
    for name in ("train", "evaluate"):
        cached = [step.cached for step in five.steps if step.name == name]
        assert cached[:5] == [True, True, True, False, False]
    facts = json.loads(open_store(str(trained_store)).get(f"runs/{five.run}/report.json", LARGEST_DOCUMENT).data)
    accuracies = {score["seed"]: score["accuracy"] for score in facts["spread"]["scores"]}
    assert list(accuracies) == [0, 1, 2, 3, 4]
    assert five.decision.accuracy == sorted(accuracies.values())[2] == accuracies[facts["spread"]["judged"]]
    assert facts["recipe"]["seed"] == facts["spread"]["judged"]
    assert facts["trained"]["weights_digest"]
    assert f"seeds: {facts['spread']['judged']} has accuracy {five.decision.accuracy:.4f}, the median" in caplog.text
    again = outcome(job(str(trained_store), mirror, seeds="5"))
    assert (again.verdict, set(reused(again))) == ("already published", set(CACHED))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(cast(Any, again.run)).name.startswith(
            "mnist, 3 epochs, seed 0, 5 seeds: unchanged version "
        )


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


def test_a_validation_split_is_watched_and_changes_the_training_set(tmp_path: Path, mirror: Mirror) -> None:
    data = Data(mirror=(mirror.url,), validation_fraction=0.25)
    gate = GateSettings(min_accuracy=0, min_accuracy_lower_bound=0, min_class_recall=0)
    state = cast(State[Outcome], retrain(data, RECIPE, gate, device="cpu", store=str(tmp_path), return_state=True))
    result = outcome(state)
    report = json.loads(open_store(str(tmp_path)).get(f"runs/{result.run}/report.json", LARGEST_DOCUMENT).data)
    assert report["prepared"]["statistics"]["validation"]["images"] == 160
    assert report["prepared"]["statistics"]["train"]["images"] == 480
    assert all(epoch["validation_accuracy"] > 0 for epoch in report["trained"]["history"])
