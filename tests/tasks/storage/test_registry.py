from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
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
    first, second = [entry.key for entry in store.list("models/mnist/history/")]
    assert "/00000001-v1-" in first
    assert "/00000002-v2-" in second
    assert store.get(second).data == store.get("models/mnist/champion.json").data


def test_a_file_that_was_never_published_is_an_error(registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    with pytest.raises(RegistryError, match=r"cannot read other\.txt"):
        registry.read(1, "other.txt")


def test_an_answer_altered_on_the_way_is_asked_for_again(store: ObjectStore) -> None:
    registry = Registry(Garbling(store), "mnist")
    registry.publish(FIRST, FACTS, "first")
    assert registry.read(1, "model.keras") == b"first model"


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


# A publish makes seven: claim, its content's name, two files, manifest, pointer, history.
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
        Registry(Mortal(store, 6), "mnist").publish(FIRST, FACTS, "first")
    Registry(store, "mnist").publish(SECOND, FACTS, "second")
    assert len(list(store.list("models/mnist/history/"))) == 2


def test_an_older_version_that_is_completed_late_does_not_replace_a_newer_champion(store: ObjectStore) -> None:
    registry = Registry(store, "mnist")
    with pytest.raises(Killed):
        Registry(Mortal(store, 2), "mnist").publish(FIRST, FACTS, "first")
    registry.publish(SECOND, FACTS, "second")
    late = registry.publish(FIRST, FACTS, "late")
    assert (late.version, late.new, late.champion) == (1, True, 2)


class Counting(Mortal):
    """A store that counts what it is asked."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)
        self.requests = 0

    def get(self, key: str) -> Stored:
        self.requests += 1
        return super().get(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        self.requests += 1
        return super().list(prefix)

    def _die(self) -> None:
        self.requests += 1


class Garbling(Mortal):
    """A store whose every second answer is altered on the way."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)
        self._reads = 0

    def get(self, key: str) -> Stored:
        stored = super().get(key)
        self._reads += 1
        return stored if self._reads % 2 == 0 or "json" in key else Stored(stored.data[::-1] + b"X", stored.etag)


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


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with a former champion and a champion."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    for files in (FIRST, SECOND):
        Registry(store, "mnist").publish(files, {"accuracy": 0.98, "name": "modèle"}, "better")
    return store


PUBLISHED = [f"versions/{version}/{name}" for version in (1, 2) for name in (*FIRST, "manifest.json")]


@given(name=st.sampled_from([*PUBLISHED, "champion.json"]), data=st.data())
def test_any_one_byte_changed_in_what_is_published_is_refused(
    published: LocalStore, name: str, data: st.DataObject
) -> None:
    path = published.path(f"models/mnist/{name}")
    before = path.read_bytes()
    changed = bytearray(before)
    changed[data.draw(st.integers(0, len(before) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        with pytest.raises(RegistryError, match=name):
            _read_all(Registry(published, "mnist"))
    finally:
        path.write_bytes(before)


def _read_all(registry: Registry) -> None:
    assert registry.champion()
    for manifest in registry.versions():
        for file in manifest.files:
            registry.read(manifest.version, file.path)


def test_a_manifest_put_in_anothers_place_is_refused(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    store.put("models/mnist/versions/2/manifest.json", store.get("models/mnist/versions/1/manifest.json").data)
    with pytest.raises(RegistryError, match=r"2/manifest\.json: the file is not the one that the champion names"):
        registry.manifest(2)


@pytest.mark.parametrize("name", ["claim.json", "manifest.json", "content-" + 64 * "0"])
def test_a_file_with_a_name_of_the_registrys_own_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        registry.publish({name: b""}, FACTS, "first")
    assert registry.versions() == []


def test_a_publish_takes_as_many_requests_whatever_was_published_before(bucket: str) -> None:
    store = open_store(bucket)
    counts = []
    for number in range(5):
        counting = Counting(store)
        Registry(counting, "mnist").publish({"model.keras": bytes([number])}, FACTS, "better")
        counts.append(counting.requests)
    assert len(set(counts)) == 1
    assert counts[0] <= 14


def test_a_damaged_pointer_is_an_error_not_an_empty_registry(tmp_path: Path) -> None:
    registry = Registry(store := LocalStore(tmp_path), "mnist")
    registry.publish(FIRST, FACTS, "first")
    store.path("models/mnist/champion.json").write_bytes(b"{")
    with pytest.raises(RegistryError, match=r"champion\.json"):
        registry.champion()
