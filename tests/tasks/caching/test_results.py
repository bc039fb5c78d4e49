from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.caching.results import ResultFiles
from tasks.errors import ArtifactError, KeyMissing
from tasks.storage import Artifacts, open_store


def result(value: object) -> bytes:
    """A result as Prefect writes it: JSON inside JSON."""
    return json.dumps({"metadata": {}, "result": json.dumps({"value": value})}).encode()


def test_a_result_is_read_only_while_its_artifacts_are_intact(store_url: str, tmp_path: Path) -> None:
    store = open_store(store_url)
    artifacts = Artifacts(store, tmp_path / "copies")
    files = ResultFiles.of(store, artifacts)
    artifact = artifacts.put(b"data", "text/plain")
    content = result({"deep": [{"inside": artifact.model_dump()}]})
    files.write_path("/step/key", content)
    assert files.read_path("step/key") == content
    assert [entry.key for entry in store.list("cache/results/")] == ["cache/results/step/key.json"]
    store.delete(f"cache/objects/{artifact.sha256}")
    with pytest.raises(ArtifactError, match="not in the store"):
        files.read_path("step/key")
    with pytest.raises(KeyMissing):
        files.read_path("step/other")
