"""What a whole run reuses and what it computes anew: changes, a refresh, damage, another machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from flows.cli.main import main
from tasks.caching.inventory import cache_items
from tasks.data.arrays import from_npy, from_npz, to_npy, to_npz
from tasks.settings import StepName
from tasks.storage import Artifacts, ObjectStore, open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.storage.verified import fetch_sealed, sealed
from tasks.values import Artifact
from tests.end_to_end.jobs import CACHED, LENIENT, RECIPE, job, outcome, reused
from tests.mirrors import Mirror
from tests.model_files import small_model

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_change_reruns_what_depends_on_it_and_says_why(
    tmp_path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    job(str(tmp_path), mirror)
    changed = outcome(job(str(tmp_path), mirror, RECIPE.model_copy(update={"learning_rate": 0.002})))
    assert reused(changed) == ["download", "preprocess"]
    assert changed.decision.look == 2
    state = job(str(tmp_path), mirror, RECIPE.model_copy(update={"learning_rate": 0.5}))
    assert "This is look 3 at these test images: what the gate says with 95 % confidence each time holds for" in str(
        state.message
    )
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
        for sha256 in set(re.findall(rb"[0-9a-f]{64}", store.get(result.key, LARGEST_DOCUMENT).data)):
            key = f"cache/objects/{sha256.decode()}"
            if not list(store.list(key)):
                continue  # not an artifact: the digest of the weights
            data = change(store.get(key, LARGEST_DOCUMENT).data)
            if data is None:
                store.delete(key)
            else:
                store.put(key, data)


@pytest.mark.parametrize(
    ("steps", "change"),
    [
        (CACHED[:4], lambda data: None),
        pytest.param(CACHED[:4], lambda data: data[:-1], marks=pytest.mark.nightly),
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


def forge(store: ObjectStore, step: str, change: Callable[[dict[str, Any], Artifacts], object]) -> None:
    """Change the values that are kept of a step, and seal them again, as somebody can who may write the store."""
    artifacts = Artifacts(store, Path("unused"))
    for entry in list(store.list(f"cache/results/{step}/")):
        outer = json.loads(fetch_sealed(store, entry.key))
        record = json.loads(outer["result"])
        change(record["value"], artifacts)
        store.put(entry.key, sealed(json.dumps(outer | {"result": json.dumps(record)}).encode()))


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any], Artifacts], object]:
    """Another artifact, whole and of the same kind, in place of the one of that name, wherever it stands."""

    def in_place(value: Any, artifacts: Artifacts) -> None:
        for key, inside in value.items() if isinstance(value, dict) else ():
            if key == name and isinstance(inside, dict):
                data = change(artifacts.get(Artifact.model_validate(inside)))
                value[key] = artifacts.put(data, inside["media_type"]).model_dump()
            else:
                in_place(inside, artifacts)

    return in_place


def array(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    return lambda data: to_npy(change(from_npy(data)))


def predictions(change: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[bytes], bytes]:
    return lambda data: to_npz(*change(*from_npz(data)))


def lacking(name: str) -> Callable[[dict[str, Any], Artifacts], object]:
    """Nothing in it."""
    return lambda value, _: value.update({name: type(value[name])()})


def other(**values: Any) -> Callable[[dict[str, Any], Artifacts], object]:
    return lambda value, _: value.update(values)


# Of each step what no run returns: values that contradict each other, their arrays, or what the step was called with.
FORGED: dict[str, list[Callable[[dict[str, Any], Artifacts], object]]] = {
    "download": [
        replaced("labels", array(lambda labels: labels[:-1])),
        replaced("labels", array(lambda labels: labels + 100)),
        replaced("images", array(lambda images: images.astype(np.float32))),
        replaced("images", array(lambda images: images[:, 1:])),
        replaced("labels", lambda data: b"text"),
    ],
    "preprocess": [
        lacking("statistics"),
        other(shape=[7, 7]),
        other(classes=["a", "b"]),
        replaced("labels", array(lambda labels: labels[::-1] * 0)),
        replaced("images", array(lambda images: images[:-1])),
    ],
    "train": [
        lacking("history"),
        replaced("model", lambda data: b"text"),
        replaced("model", lambda data: small_model(inputs=49)),
        other(history=[{"loss": 0.1, "accuracy": 0.9, "seconds": 1}] * 99),
        replaced("model", lambda data: data[:-9]),
    ],
    "evaluate": [
        lacking("confusion"),
        other(accuracy=1.0),
        lacking("classes"),
        replaced("predictions", predictions(lambda each, labels: (each[::-1], labels[::-1]))),
        replaced("predictions", predictions(lambda each, labels: (each[:, ::-1].copy(), labels))),
    ],
    "load_back": [
        other(images=0, same=0),
        other(same=10**9),
        other(same=-1),
        other(failure="it crashed"),
        other(images=1, same=1),
    ],
    "report": [
        replaced("data", lambda data: b"{}"),
        replaced("html", lambda data: b"\xff"),
        replaced("run_page", lambda data: b"\xff"),
        replaced("data", lambda data: re.sub(rb'"accuracy": 0\.\d', b'"accuracy": 0.9', data)),
        replaced("markdown", lambda data: b"\xff"),
    ],
}


# The report is made from the results of the others, so it is forged alone.
@pytest.mark.parametrize("steps", [[*FORGED][:-1], ["report"]], ids=["steps", "report"])
@pytest.mark.parametrize("number", [0, 3, *(pytest.param(each, marks=pytest.mark.nightly) for each in (1, 2, 4))])
def test_forged_results_are_not_believed(
    number: int, steps: list[str], trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(trained_store))
    for step in steps:
        forge(store, step, FORGED[step][number])
    healed = outcome(job(str(trained_store), mirror))
    assert not set(steps) & set(reused(healed))
    for step in steps:
        assert f"{step}: its cached result cannot be used and is computed anew" in caplog.text
    assert healed.verdict == "already published"
    assert reused(outcome(job(str(trained_store), mirror))) == CACHED


def test_altered_results_are_not_believed(
    trained_store: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(trained_store))
    for entry in list(store.list("cache/results/evaluate/")):
        data = store.get(entry.key, LARGEST_DOCUMENT).data
        store.put(entry.key, re.sub(rb"(accuracy[^0-9]*0\.)\d", rb"\g<1>1", data))
        assert store.get(entry.key, LARGEST_DOCUMENT).data != data
    healed = outcome(job(str(trained_store), mirror))
    assert reused(healed) == ["download", "preprocess", "train", "load_back", "export"], "the predictions are the same"
    assert "evaluate: its cached result cannot be used and is computed anew" in caplog.text
