from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RegistryError, StoreError, UsageError
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


NEXT = {"model.keras": b"the next model", "report.html": b"<p>"}


def test_an_older_version_in_the_folder_is_replaced(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fetch_version(registry, 1, folder)
    folder.chmod(0o751)
    registry.publish(NEXT, FACTS, "next")
    for version, files in ((2, NEXT), (1, FILES), (2, NEXT)):
        fetch_version(registry, version, folder)
        assert files_in(folder).keys() == {*files, "manifest.json"}
        assert files.items() <= files_in(folder).items()
    assert list(tmp_path.glob("*model*")) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o751
    before = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]]
    fetch_version(registry, 2, folder)
    assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]] == before


@pytest.fixture
def mounted() -> Iterator[None]:
    """Every folder is a mount point."""
    with patch.object(Path, "is_mount", lambda _: True):
        yield


def test_a_mount_point_is_updated_inside(registry: Registry, tmp_path: Path, mounted: None) -> None:
    folder = tmp_path / "model"
    (folder / "lost+found").mkdir(parents=True)
    registry.publish(NEXT, FACTS, "next")
    before = folder.stat().st_ino
    for version, files in ((1, FILES), (2, NEXT), (1, FILES)):
        fetch_version(registry, version, folder)
        assert files_in(folder).keys() == {*files, "manifest.json"}
        assert files.items() <= files_in(folder).items()
    assert folder.stat().st_ino == before
    (folder / "mine").write_bytes(b"mine")
    with pytest.raises(UsageError, match="it holds something else"):
        fetch_version(registry, 2, folder)


class Interrupted(BaseException):
    """The process ended here."""


@contextmanager
def interrupted_after(changes: int) -> Iterator[None]:
    """Whatever the block changes in a folder, it is interrupted after so many changes, or at its end."""
    left = iter([True] * changes)

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            if not next(left, False):
                raise Interrupted
            return change(*arguments, **options)

        return wrapped

    with (
        patch.object(Path, "replace", counted(Path.replace)),
        patch.object(Path, "unlink", counted(Path.unlink)),
        patch("tasks.registry.fetch.shutil.rmtree", counted(shutil.rmtree)),
        suppress(Interrupted),
    ):
        yield


@pytest.mark.parametrize("changes", range(8))
def test_an_update_inside_that_is_interrupted_is_never_a_mixture(
    registry: Registry, tmp_path: Path, mounted: None, changes: int
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    fetch_version(registry, 1, folder)
    registry.publish(NEXT, FACTS, "next")
    with interrupted_after(changes):
        fetch_version(registry, 2, folder)
    shown = files_in(folder)
    if "manifest.json" in shown:
        version = json.loads(shown["manifest.json"])["version"]
        assert {1: FILES, 2: NEXT}[version].items() <= shown.items()
    fetch_version(registry, 2, folder)
    assert files_in(folder).keys() == {*NEXT, "manifest.json"}
    assert NEXT.items() <= files_in(folder).items()


def test_where_the_parent_cannot_be_written_the_folder_is_updated_inside(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "model"
    fetch_version(registry, 1, folder)
    registry.publish(NEXT, FACTS, "next")
    with patch("tasks.registry.fetch._replace", side_effect=PermissionError(errno.EACCES, "no")):
        fetch_version(registry, 2, folder)
    assert NEXT.items() <= files_in(folder).items()
    with (
        patch("tasks.registry.fetch._replace", side_effect=OSError(errno.ENOSPC, "No space left on device")),
        pytest.raises(StoreError, match="No space left"),
    ):
        fetch_version(registry, 1, folder)


def test_without_an_exchange_the_folder_is_renamed_twice(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fetch_version(registry, 1, folder)
    registry.publish(NEXT, FACTS, "next")
    with patch("tasks.registry.fetch.ctypes.CDLL", return_value=object()):
        fetch_version(registry, 2, folder)
    assert NEXT.items() <= files_in(folder).items()
    assert list(tmp_path.glob("*model*")) == [folder]


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
