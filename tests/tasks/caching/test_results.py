from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect._internal.result_records import ResultRecord

from tasks.caching.inventory import cache_items
from tasks.caching.results import ResultFiles
from tasks.data.sources.interface import MOST_BYTES
from tasks.errors import ArtifactError, KeyMissing, ModelFileError
from tasks.storage import Artifacts, open_store
from tasks.storage.verified import sealed
from tasks.values import (
    KERAS,
    LARGEST_ARRAY,
    LARGEST_FILE,
    LARGEST_PAGE,
    NPY,
    NPZ,
    ONNX,
    Artifact,
    Evaluation,
    Examples,
    Export,
    Reports,
    Trained,
    Value,
)
from tests.tasks.report.examples import example

RECORD = {"seconds": 0.5, "at": "2026-01-02T03:04:05Z", "worker": "here", "why": "for the first time in this store"}


def anything(value: Value, read: Callable[[Artifact], bytes]) -> None:
    """Of a step that takes any value."""


class Deep(Value):
    deep: list[dict[str, Artifact]]


def result(value: object, **changed: object) -> bytes:
    """A result as Prefect writes it: JSON inside JSON."""
    return json.dumps({"metadata": {}, "result": json.dumps({"value": value, **RECORD, **changed})}).encode()


def test_a_result_is_read_only_while_its_artifacts_are_intact(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url)
    artifacts = Artifacts(store, tmp_path / "copies")
    files = ResultFiles.of(store, artifacts, Deep, anything)
    artifact = artifacts.put(b"data", "text/plain")
    value = {"deep": [{"inside": artifact.model_dump()}]}
    files.write_path("/step/key", result(value))
    assert files.read("/step/key") == {"value": value, **RECORD}
    assert ResultRecord.deserialize(files.read_path("/step/key")).result == {"value": value, **RECORD}
    assert [entry.key for entry in store.list("cache/results/")] == ["cache/results/step/key.json"]
    store.delete(f"cache/objects/{artifact.sha256}")
    with pytest.raises(ArtifactError, match="not in the store"):
        ResultFiles.of(store, artifacts, Deep, anything).read_path("step/key")
    with pytest.raises(KeyMissing):
        files.read_path("step/other")


def test_a_call_of_a_step_reads_its_result_once(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url)
    checked: list[Value] = []
    files = ResultFiles.of(store, Artifacts(store, tmp_path), Deep, lambda value, _: checked.append(value))
    files.write_path("step/key", result({"deep": []}))
    before = files.read_path("/step/key")
    assert files.read_path("step/key") == before.replace(b"/step/key", b"step/key")
    assert len(checked) == 1
    files.write_path("step/key", result({"deep": []}, seconds=7.0))
    assert ResultRecord.deserialize(files.read_path("step/key")).result["seconds"] == 7.0


ARTIFACT: dict[str, Any] = {"sha256": "0" * 64, "size": 1, "media_type": "a/b"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 200_000,
        json.dumps({"result": "[" * 200_000}).encode(),
        json.dumps({"result": None}).encode(),
        json.dumps({"result": "{}"}).encode(),
        result([]),
        result({}),
        result({"other": 1}),
        result({"deep": [{"inside": ARTIFACT | {"size": -1}}]}),
        result({"deep": [{"inside": ARTIFACT | {"sha256": "../../etc"}}]}),
        result({"deep": []}, at="yesterday"),
        result({"deep": []}, at=10**400),
        result({"deep": []}, seconds=float("nan")),
        result({"deep": []}, worker=None),
    ],
)
def test_what_is_sealed_and_no_result_is_a_cache_miss_that_is_said(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    store.put("cache/results/step/key.json", sealed(content))
    with pytest.raises(ArtifactError, match="it is no result of this step"):
        ResultFiles.of(store, Artifacts(store, tmp_path), Deep, anything).read_path("step/key")
    assert "step: its cached result cannot be used and is computed anew" in caplog.text
    assert len(cache_items(store)) == 1


def results_naming(artifact: dict[str, Any]) -> list[tuple[type[Value], dict[str, Any], str]]:
    """Each kind of result, with this in place of each artifact that it can name; the artifact's own media type."""
    facts = example(wrong=4, images=20).document
    pages = {"html": "text/html", "markdown": "text/markdown", "data": "application/json", "run_page": "text/markdown"}
    named = {name: {"sha256": "0" * 64, "size": 9, "media_type": kind} for name, kind in pages.items()}
    images = {"labels": {"sha256": "0" * 64, "size": 9, "media_type": NPY}}
    return [
        (Examples, images | {"images": artifact}, NPY),
        (Trained, facts.trained.model_dump(mode="json") | {"model": artifact}, KERAS),
        (Evaluation, facts.evaluation.model_dump(mode="json") | {"predictions": artifact}, NPZ),
        (Export, {"file": artifact}, ONNX),
        *((Reports, named | {name: artifact}, kind) for name, kind in pages.items()),
    ]


LARGEST = {NPY: LARGEST_ARRAY, NPZ: LARGEST_ARRAY, KERAS: LARGEST_FILE, ONNX: LARGEST_FILE}


def test_a_result_that_names_a_larger_or_another_artifact_than_its_kind_is_a_cache_miss(tmp_path: Path) -> None:
    """The store may then have an object of that size, which would be read into memory."""
    store, artifact = open_store(str(tmp_path)), {"sha256": "0" * 64}
    for number in range(len(results_naming(artifact))):
        media_type = results_naming(artifact)[number][2]
        largest = LARGEST.get(media_type, LARGEST_PAGE)
        for size, said, why in (
            (largest, media_type, "it is not in the store"),
            (largest + 1, media_type, "it is no result of this step"),
            (9, "a/b", "it is no result of this step"),
        ):
            kind, value, _ = results_naming(artifact | {"size": size, "media_type": said})[number]
            store.put("cache/results/step/key.json", sealed(result(value)))
            with pytest.raises(ArtifactError, match=why):
                ResultFiles.of(store, Artifacts(store, tmp_path), kind, anything).read("step/key")
    assert LARGEST_ARRAY > MOST_BYTES


@pytest.mark.parametrize("error", [ValueError("it does not fit"), ModelFileError("no", "it does not fit", "Ask.")])
def test_a_result_that_the_step_says_is_none_is_a_cache_miss(error: Exception, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    artifacts = Artifacts(store, tmp_path)
    artifact = artifacts.put(b"hello", "text/plain")

    def fits(value: Deep, read: Callable[[Artifact], bytes]) -> None:
        assert (value.deep[0]["inside"], read(artifact)) == (artifact, b"hello")
        raise error

    store.put("cache/results/step/key.json", sealed(result({"deep": [{"inside": artifact.model_dump()}]})))
    with pytest.raises(ArtifactError, match=r"it is no result of this step \(.*it does not fit"):
        ResultFiles.of(store, artifacts, Deep, fits).read("step/key")
