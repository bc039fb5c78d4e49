from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import ArtifactError
from tasks.storage import Artifacts, ObjectStore, open_store
from tasks.values import Artifact

DATA = b"some bytes that matter" * 100


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def artifacts(store: ObjectStore, tmp_path: Path) -> Artifacts:
    return Artifacts(store, tmp_path / "copies")


def elsewhere(store: ObjectStore, tmp_path: Path) -> Artifacts:
    """Another machine: the same store, an empty disk."""
    return Artifacts(store, tmp_path / "other")


def key(artifact: Artifact) -> str:
    return f"cache/objects/{artifact.sha256}"


def test_the_same_bytes_are_one_artifact_that_any_machine_can_read(
    store: ObjectStore, artifacts: Artifacts, tmp_path: Path
) -> None:
    artifact = artifacts.put(DATA, "text/plain")
    assert artifacts.put(DATA, "text/plain") == artifact
    assert elsewhere(store, tmp_path).get(artifact) == DATA
    assert [entry.key for entry in store.list("cache/")] == [key(artifact)]


SPOILED = [
    (lambda store, name: store.delete(name), "not in the store"),
    (lambda store, name: store.put(name, DATA[:-1]), "2,19[89]"),
    (lambda store, name: store.put(name, b"X" + DATA[1:]), "altered"),
    (lambda store, name: store.put(name, DATA * 100), "220,000"),
]


@pytest.mark.parametrize(("spoil", "why"), SPOILED)
def test_a_missing_truncated_or_altered_object_is_never_used(
    store: ObjectStore, artifacts: Artifacts, tmp_path: Path, spoil: Callable[[ObjectStore, str], None], why: str
) -> None:
    artifact = artifacts.put(DATA, "text/plain")
    spoil(store, key(artifact))
    for use in (elsewhere(store, tmp_path).get, elsewhere(store, tmp_path).verify):
        with pytest.raises(ArtifactError, match=why):
            use(artifact)


@pytest.mark.parametrize(("spoil", "why"), SPOILED)
def test_putting_the_bytes_again_heals_the_store(
    store: ObjectStore, tmp_path: Path, spoil: Callable[[ObjectStore, str], None], why: str
) -> None:
    artifact = elsewhere(store, tmp_path).put(DATA, "text/plain")
    spoil(store, key(artifact))
    Artifacts(store, tmp_path / "third").put(DATA, "text/plain")
    assert Artifacts(store, tmp_path / "fourth").get(artifact) == DATA


@pytest.mark.parametrize("spoiled", [None, DATA[:-1], b"X" + DATA[1:], DATA * 100])
def test_a_damaged_local_copy_is_fetched_anew(
    bucket: str, tmp_path: Path, spoiled: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts = Artifacts(open_store(bucket), tmp_path)
    artifact = artifacts.put(DATA, "text/plain")
    copy = tmp_path / key(artifact)
    if spoiled is None:
        copy.unlink()
    else:
        copy.write_bytes(spoiled)
    assert artifacts.get(artifact) == DATA
    assert copy.read_bytes() == DATA
    assert ("fetched anew" in caplog.text) == (spoiled is not None)


def test_a_local_copy_does_not_hide_that_the_store_lost_the_object(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    artifacts = Artifacts(store, tmp_path)
    artifact = artifacts.put(DATA, "text/plain")
    store.delete(key(artifact))
    with pytest.raises(ArtifactError, match="not in the store"):
        artifacts.verify(artifact)


def test_copies_that_cannot_be_kept_are_a_warning(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("a file where a folder has to be")
    artifacts = Artifacts(open_store(bucket), tmp_path / "file" / "cache")
    one, two = artifacts.put(DATA, "text/plain"), artifacts.put(DATA * 2, "text/plain")
    assert (artifacts.get(one), artifacts.get(two)) == (DATA, DATA * 2)
    open_store(bucket).delete(key(one))
    with pytest.raises(ArtifactError, match="not in the store"):
        artifacts.verify(one)
    assert caplog.text.count("artifacts are fetched for every use: cannot write") == 1


def test_a_copy_that_cannot_be_read_is_fetched(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(open_store(bucket), tmp_path)
    artifact = artifacts.put(DATA, "text/plain")
    monkeypatch.setattr("os.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert artifacts.get(artifact) == DATA
