from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RegistryError, UsageError
from tasks.registry import Registry
from tasks.registry.documents import File
from tasks.registry.fetch import fetch_version
from tasks.storage import open_store
from tasks.storage.local import LocalStore

FILES = {"model.keras": b"the model", "plots/curve.png": b"a curve"}
FACTS = {"metrics": {"accuracy": 0.98}}


@pytest.fixture
def registry(store_url: str) -> Registry:
    registry = Registry(open_store(store_url), "mnist")
    registry.publish(FILES, FACTS, "first")
    return registry


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_comes_with_its_manifest(registry: Registry, tmp_path: Path) -> None:
    champion = registry.champion()
    assert champion
    manifest = fetch_version(registry, champion, tmp_path / "model")
    assert manifest == registry.manifest(1)
    files = files_in(tmp_path / "model")
    assert files.pop("manifest.json")
    assert files == FILES


def test_a_folder_that_holds_the_version_already_is_left_as_it_is(registry: Registry, tmp_path: Path) -> None:
    for _ in range(2):
        fetch_version(registry, 1, tmp_path / "model")
    assert files_in(tmp_path / "model").keys() == {*FILES, "manifest.json"}


@pytest.mark.parametrize("name", ["model.keras", "other.txt"])
def test_a_folder_with_something_else_is_refused_and_kept(registry: Registry, tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match="it holds something else"):
        fetch_version(registry, 1, tmp_path / "model")
    assert files_in(tmp_path / "model") == {name: b"mine"}


def test_an_empty_folder_is_filled(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    fetch_version(registry, 1, tmp_path / "model")
    assert files_in(tmp_path / "model").keys() == {*FILES, "manifest.json"}


@given(name=st.sampled_from([*FILES, "manifest.json"]), data=st.data())
def test_any_one_byte_changed_is_refused_by_name_and_installs_nothing(
    published: LocalStore, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fetch") / "model"
    path = published.path(f"models/mnist/versions/1/{name}")
    before = path.read_bytes()
    changed = bytearray(before)
    changed[data.draw(st.integers(0, len(before) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        with pytest.raises(RegistryError, match=name):
            fetch_version(Registry(published, "mnist"), 1, folder)
        (problem,) = Registry(published, "mnist").verify(1)
        assert name in str(problem)
    finally:
        path.write_bytes(before)
    assert not list(folder.parent.iterdir())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    Registry(store, "mnist").publish(FILES, FACTS, "first")
    return store


@pytest.mark.parametrize("path", ["../out", "/out", "a/../../out", "..", "a//b", "a\\b", ""])
def test_no_manifest_can_name_a_file_out_of_its_folder(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        File(path=path, size=0, sha256=64 * "0")
