from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import RegistryError, StoreError
from tasks.storage import ObjectStore, Registry, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import Entry, Stored

FIRST = {"model.keras": b"first model", "report.html": b"<p>first</p>"}
SECOND = {"model.keras": b"second model", "report.html": b"<p>second</p>"}
FACTS = {"metrics": {"accuracy": 0.98}}


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def registry(store: ObjectStore) -> Registry:
    return Registry(store, "mnist")


def snapshot(store: ObjectStore) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key).data for entry in store.list("")}


def crowned(registry: Registry) -> int | None:
    pointer = registry.champion()
    return pointer.version if pointer else None


def test_before_the_first_publish_there_is_nothing(registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.versions() == []
    with pytest.raises(RegistryError, match="no such version"):
        registry.manifest(1)


def test_versions_are_consecutive_and_the_last_one_is_the_champion(registry: Registry) -> None:
    first, second = registry.publish(FIRST, FACTS, "first"), registry.publish(SECOND, FACTS, "second")
    assert (first.version, first.new, first.champion) == (1, True, 1)
    assert (second.version, second.new, second.champion) == (2, True, 2)
    assert [manifest.version for manifest in registry.versions()] == [1, 2]
    pointer = registry.champion()
    assert pointer
    assert (pointer.version, pointer.generation, pointer.previous, pointer.reason) == (2, 2, 1, "second")
    assert registry.read(1, "model.keras") == b"first model"
    assert registry.manifest(2).facts == FACTS


def test_publishing_the_same_again_changes_nothing(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    before = snapshot(store)
    again = registry.publish(FIRST, FACTS, "again")
    assert (again.version, again.new) == (1, False)
    assert snapshot(store) == before


def test_publishing_a_former_champion_again_does_not_bring_it_back(registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    registry.publish(SECOND, FACTS, "second")
    again = registry.publish(FIRST, FACTS, "again")
    assert (again.version, again.new, again.champion) == (1, False, 2)
    assert crowned(registry) == 2


def test_models_of_other_names_do_not_meet(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    assert Registry(store, "digits").publish(SECOND, FACTS, "first").version == 1


def test_the_history_holds_every_pointer_there_was(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    entries = [entry.key for entry in store.list("models/mnist/history/")]
    assert entries == [f"models/mnist/history/{generation:08d}.json" for generation in (1, 2)]
    assert store.get(entries[-1]).data == store.get("models/mnist/champion.json").data


def test_a_file_that_was_never_published_is_an_error(registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    with pytest.raises(RegistryError, match=r"cannot read other\.txt"):
        registry.read(1, "other.txt")


class Killed(BaseException):
    """The process would be gone here."""


class Mortal:
    """A store whose writer dies after so many mutations."""

    def __init__(self, store: ObjectStore, mutations: int) -> None:
        self._store, self._left, self.url = store, mutations, store.url

    def get(self, key: str) -> Stored:
        return self._store.get(key)

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)
        self._die()

    def put_once(self, key: str, data: bytes) -> None:
        self._store.put_once(key, data)
        self._die()

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        self._store.compare_and_swap(key, data, etag)
        self._die()

    def list(self, prefix: str) -> Iterator[Entry]:
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)
        self._die()

    def address(self, key: str) -> str:
        return self._store.address(key)

    def _die(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


# A publish makes seven: claim, two files, manifest, the old pointer into the history, pointer, the new one.
@pytest.mark.parametrize("mutations", range(1, 8))
def test_a_publish_killed_after_any_write_is_completed_by_the_next(store: ObjectStore, mutations: int) -> None:
    registry = Registry(store, "mnist")
    registry.publish(FIRST, FACTS, "first")
    with pytest.raises(Killed):
        Registry(Mortal(store, mutations), "mnist").publish(SECOND, FACTS, "second")
    # A reader sees the old champion or the complete new one.
    champion = crowned(registry)
    assert champion == (2 if mutations >= 6 else 1)
    assert registry.read(champion, "model.keras") == {1: b"first model", 2: b"second model"}[champion]

    receipt = registry.publish(SECOND, FACTS, "second")
    assert (receipt.version, receipt.champion) == (2, 2)
    assert crowned(registry) == 2
    assert [manifest.version for manifest in registry.versions()] == [1, 2]
    assert len(list(store.list("models/mnist/history/"))) == 2


def test_a_publish_takes_no_more_writes_than_were_tried_above(store: ObjectStore) -> None:
    for files in (FIRST, SECOND):
        assert Registry(Mortal(store, 8), "mnist").publish(files, FACTS, "better").new


def test_the_history_misses_nothing_when_another_publish_follows_a_killed_one(store: ObjectStore) -> None:
    with pytest.raises(Killed):
        Registry(Mortal(store, 5), "mnist").publish(FIRST, FACTS, "first")
    Registry(store, "mnist").publish(SECOND, FACTS, "second")
    assert len(list(store.list("models/mnist/history/"))) == 2


def test_an_older_version_that_is_completed_late_does_not_replace_a_newer_champion(store: ObjectStore) -> None:
    registry = Registry(store, "mnist")
    with pytest.raises(Killed):
        Registry(Mortal(store, 2), "mnist").publish(FIRST, FACTS, "first")
    registry.publish(SECOND, FACTS, "second")
    late = registry.publish(FIRST, FACTS, "late")
    assert (late.version, late.new, late.champion) == (1, True, 2)


class Losing(Mortal):
    """A store that returns other bytes than were written."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data[:-1])


def test_a_store_that_loses_bytes_is_found_out_before_anything_is_published(store: ObjectStore) -> None:
    with pytest.raises(StoreError, match="it came back altered"):
        Registry(Losing(store), "mnist").publish(FIRST, FACTS, "first")
    assert Registry(store, "mnist").champion() is None
    assert Registry(store, "mnist").versions() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_one_byte_changed_in_a_published_version_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    registry = Registry(store, "mnist")
    registry.publish(FIRST, FACTS, "first")
    name = data.draw(st.sampled_from([*FIRST, "manifest.json"]))
    path = store.path(f"models/mnist/versions/1/{name}")
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=name):
        _read_all(registry)


def _read_all(registry: Registry) -> None:
    for file in FIRST:
        registry.read(1, file)


def test_a_damaged_pointer_is_an_error_not_an_empty_registry(tmp_path: Path) -> None:
    registry = Registry(store := LocalStore(tmp_path), "mnist")
    registry.publish(FIRST, FACTS, "first")
    store.path("models/mnist/champion.json").write_bytes(b"{")
    with pytest.raises(RegistryError, match=r"champion\.json"):
        registry.champion()
