from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ChampionMoved, RegistryError, StoreError
from tasks.registry import Registry
from tasks.registry.documents import Pointer, encode, identity, now, sha256
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT, Entry, Stored
from tasks.storage.probe import Capabilities
from tests.tasks.registry.conftest import HISTORY, POINTER
from tests.tasks.registry.racing import race

FIRST = {"model.keras": b"first model", "report.html": b"<p>first</p>"}
SECOND = {"model.keras": b"second model", "report.html": b"<p>second</p>"}
FACTS = {"metrics": {"accuracy": 0.98}}


def snapshot(store: ObjectStore) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key, LARGEST_DOCUMENT).data for entry in store.list("")}


def champion_version(registry: Registry) -> int | None:
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
    assert registry.versions() == [1, 2]
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
    assert champion_version(registry) == 2
    assert len(registry.history()) == 2


def test_models_of_other_names_are_separate(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    assert Registry(store, "digits").publish(SECOND, FACTS, "first").version == 1


def test_the_history_holds_every_pointer_there_was(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    first, second = [entry.key for entry in store.list("models/mnist/history/")]
    assert "/00000001-v1-" in first
    assert "/00000002-v2-" in second
    assert store.get(second, LARGEST_DOCUMENT).data == store.get("models/mnist/champion.json", LARGEST_DOCUMENT).data
    assert [pointer.version for pointer in registry.history()] == [1, 2]
    assert registry.history()[-1] == registry.champion()


def test_a_file_that_was_never_published_is_an_error(registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    with pytest.raises(RegistryError, match=r"cannot read other\.txt"):
        registry.read(1, "other.txt")


def test_an_answer_altered_on_the_way_is_asked_for_again(store: ObjectStore) -> None:
    registry = Registry(AlteringReads(store), "mnist", POINTER)
    registry.publish(FIRST, FACTS, "first")
    assert registry.read(1, "model.keras") == b"first model"


class Killed(BaseException):
    """The process was killed here."""


class KilledAfterWrites:
    """A store whose writer is killed after so many writes: it makes no further one, not even to clean up."""

    def __init__(self, store: ObjectStore, mutations: int) -> None:
        self._store, self._left, self.url = store, mutations, store.url

    def get(self, key: str, limit: int) -> Stored:
        return self._store.get(key, limit)

    def etag(self, key: str) -> str:
        return self._store.etag(key)

    def put(self, key: str, data: bytes) -> None:
        self._live()
        self._store.put(key, data)
        self._die()

    def put_once(self, key: str, data: bytes) -> None:
        self._live()
        self._store.put_once(key, data)
        self._die()

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        self._live()
        self._store.compare_and_swap(key, data, etag)
        self._die()

    def list(self, prefix: str) -> Iterator[Entry]:
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._live()
        self._store.delete(key)
        self._die()

    def address(self, key: str) -> str:
        return self._store.address(key)

    def _live(self) -> None:
        if self._left == 0:
            raise Killed

    def _die(self) -> None:
        self._left -= 1
        self._live()


@pytest.fixture
def hasty() -> Iterator[None]:
    """Take a claim for that of a killed writer after a second: the store tells the times in whole seconds."""
    with patch("tasks.registry.champion.STALE", timedelta(seconds=1.5)):
        yield


# What a publish writes. Where the pointer decides: marker, two files, manifest, pointer, entry of the history. Where
# the history does: marker, two files, claim, manifest, entry; then it removes its claim and repairs the pointer.
WRITES = {"pointer": 6, "history": 8}
DECIDED = {"pointer": 5, "history": 6}


@pytest.mark.parametrize("mutations", range(1, 9))
def test_a_publish_killed_after_any_write_is_completed_by_the_next(
    store: ObjectStore, registry: Registry, capabilities: Capabilities, mutations: int, hasty: None
) -> None:
    if mutations > WRITES[capabilities.decides]:
        pytest.skip("it makes fewer writes")
    registry.publish(FIRST, FACTS, "first")
    with pytest.raises(Killed):
        Registry(KilledAfterWrites(store, mutations), "mnist", capabilities).publish(SECOND, FACTS, "second")
    # A reader sees the old champion or the complete new one.
    champion = registry.champion()
    assert champion
    assert champion.version == (2 if mutations >= DECIDED[capabilities.decides] else 1)
    assert not registry.verify(champion)

    receipt = registry.publish(SECOND, FACTS, "second")
    assert (receipt.version, receipt.champion) == (2, 2)
    assert registry.versions() == [1, 2]
    assert len(history(store)) == 2
    assert (
        store.get("models/mnist/champion.json", LARGEST_DOCUMENT).data
        == store.get(history(store)[-1], LARGEST_DOCUMENT).data
    )
    assert not registry.verify_champion()

    registry.publish({"model.keras": b"third"}, FACTS, "third")
    assert list(store.list("models/mnist/history/claims/")) == []


def history(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.list("models/mnist/history/0")]


def test_a_publish_takes_no_more_writes_than_were_tried_above(store: ObjectStore, capabilities: Capabilities) -> None:
    for files in (FIRST, SECOND):
        killed = KilledAfterWrites(store, WRITES[capabilities.decides] + 1)
        assert Registry(killed, "mnist", capabilities).publish(files, FACTS, "better").new


@pytest.mark.parametrize("writes_left", [0, 1])
def test_the_history_misses_nothing_when_another_publish_follows_a_killed_one(
    store: ObjectStore, registry: Registry, capabilities: Capabilities, writes_left: int
) -> None:
    mutations = WRITES[capabilities.decides] - writes_left
    with pytest.raises(Killed):
        Registry(KilledAfterWrites(store, mutations), "mnist", capabilities).publish(FIRST, FACTS, "first")
    registry.publish(SECOND, FACTS, "second")
    assert [pointer.version for pointer in registry.history()] == [1, 2]
    assert len(history(store)) == 2


def test_a_version_that_is_completed_late_is_the_newest_champion(
    store: ObjectStore, registry: Registry, capabilities: Capabilities
) -> None:
    with pytest.raises(Killed):
        Registry(KilledAfterWrites(store, 2), "mnist", capabilities).publish(FIRST, FACTS, "first")
    registry.publish(SECOND, FACTS, "second")
    late = registry.publish(FIRST, FACTS, "late")
    assert (late.version, late.new, late.champion) == (1, True, 1)
    assert [pointer.version for pointer in registry.history()] == [2, 1]


def test_a_number_that_another_content_was_about_to_take_is_left_to_it(store: ObjectStore, registry: Registry) -> None:
    other = "content-" + 64 * "0"
    store.put(f"models/mnist/versions/1/{other}", b"")
    store.put("models/mnist/versions/1/model.keras", b"its first file")
    assert registry.publish(FIRST, FACTS, "first").version == 2
    assert {entry.key for entry in store.list("models/mnist/versions/1/")} == {
        f"models/mnist/versions/1/{name}" for name in (other, "model.keras")
    }


class CompetingMarker(LocalStore):
    """A store where another writer's marker appears beside ours, and is withdrawn after so many listings."""

    def __init__(self, root: Path, other: str, listings: int) -> None:
        super().__init__(root)
        self._other, self._listings = f"models/mnist/versions/1/content-{other}", listings

    def list(self, prefix: str) -> Iterator[Entry]:
        if prefix == "models/mnist/versions/1/":
            self._listings -= 1
            if self._listings < 0:
                self.delete(self._other)
            else:
                self.put(self._other, b"")
        return super().list(prefix)


@pytest.mark.parametrize(("other", "version"), [(64 * "f", 1), (64 * "0", 2)])
def test_of_two_that_took_one_number_the_first_by_name_waits_and_the_other_withdraws(
    tmp_path: Path, other: str, version: int
) -> None:
    store = CompetingMarker(tmp_path, other, listings=3)
    assert Registry(store, "mnist", POINTER).publish(FIRST, FACTS, "first").version == version
    names = [entry.key.rpartition("/")[2] for entry in LocalStore(tmp_path).list(f"models/mnist/versions/{version}/")]
    assert len([name for name in names if name.startswith("content-")]) == 1


def test_a_number_is_given_up_where_the_other_never_withdraws(tmp_path: Path) -> None:
    store = CompetingMarker(tmp_path, 64 * "f", listings=1000)
    with patch("tasks.registry.registry.WITHDRAWAL_WAITS", [0.0, 0.0]):
        assert Registry(store, "mnist", POINTER).publish(FIRST, FACTS, "first").version == 2


class IgnoringConditions(LocalStore):
    """A store whose conditional writes are not atomic: another writer overwrites the pointer right after ours."""

    other: bytes | None = None

    def put_once(self, key: str, data: bytes) -> None:
        super().put_once(key, data)
        self._overwrite(key)

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        super().compare_and_swap(key, data, etag)
        self._overwrite(key)

    def _overwrite(self, key: str) -> None:
        if self.other and key.endswith("champion.json"):
            super().put(key, self.other)
            self.other = None


def test_a_move_that_another_overwrote_is_made_again(tmp_path: Path) -> None:
    store = IgnoringConditions(tmp_path)
    other = Pointer(
        version=7,
        identity=64 * "0",
        publish_id=32 * "0",
        generation=1,
        previous=None,
        moved=now(),
        reason="another's",
        decides="pointer",
    )
    store.other = encode(other)
    registry = Registry(store, "mnist", POINTER)
    receipt = registry.publish(FIRST, FACTS, "first")
    assert receipt.champion == 1
    assert [(pointer.generation, pointer.reason) for pointer in registry.history()] == [(1, "another's"), (2, "first")]


def test_writers_of_both_kinds_lose_nothing_to_each_other(store: ObjectStore) -> None:
    kinds = [POINTER, HISTORY, HISTORY, POINTER, POINTER, HISTORY]
    for number, capabilities in enumerate(kinds):
        registry = Registry(store, "mnist", capabilities)
        registry.publish({"model.keras": bytes([number])}, FACTS, str(number))
        champion = registry.champion()
        assert champion
        assert champion.reason == str(number)
    assert [pointer.version for pointer in Registry(store, "mnist").history()] == [1, 2, 3, 4, 5, 6]


def test_a_rollback_brings_a_former_champion_back_and_is_recorded(registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    pointer = registry.rollback(None, "it was bad")
    assert pointer == registry.champion()
    assert (pointer.version, pointer.previous, pointer.generation, pointer.reason) == (1, 2, 3, "it was bad")
    assert [entry.version for entry in registry.history()] == [1, 2, 1]
    assert registry.publish(SECOND, FACTS, "again").champion == 1
    assert registry.rollback(2, "it was good after all").version == 2


def test_without_a_champion_before_there_is_no_rollback(registry: Registry) -> None:
    for _ in range(2):
        with pytest.raises(RegistryError, match="no champion before"):
            registry.rollback(None, "why not")
        registry.publish(FIRST, FACTS, "first")


def test_no_rollback_leads_to_a_version_that_is_damaged_or_missing(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    store.put("models/mnist/versions/1/report.html", b"altered")
    with pytest.raises(RegistryError, match=r"versions/1/report\.html: the file was altered"):
        registry.rollback(1, "why not")
    with pytest.raises(RegistryError, match="no such version"):
        registry.rollback(3, "why not")
    assert champion_version(registry) == 2


def test_a_damaged_pointer_stops_a_publish_and_is_replaced_by_a_rollback(store: ObjectStore) -> None:
    registry = Registry(store, "mnist", POINTER)
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    store.put("models/mnist/champion.json", b"{")
    with pytest.raises(RegistryError, match=r"champion\.json"):
        registry.publish({"model.keras": b"third"}, FACTS, "third")
    assert registry.rollback(2, "the pointer was damaged").generation == 3
    assert champion_version(registry) == 2


def test_where_the_history_decides_a_damaged_pointer_is_repaired(store: ObjectStore) -> None:
    registry = Registry(store, "mnist", HISTORY)
    registry.publish(FIRST, FACTS, "first")
    store.put("models/mnist/champion.json", b"{")
    registry.publish(SECOND, FACTS, "second")
    assert champion_version(registry) == 2


@pytest.mark.parametrize("name", [*FIRST, "manifest.json"])
def test_publishing_again_mends_what_was_damaged_since(store: ObjectStore, registry: Registry, name: str) -> None:
    registry.publish(FIRST, FACTS, "first")
    store.put(f"models/mnist/versions/1/{name}", b"altered")
    assert registry.verify(1)
    assert not registry.publish(FIRST, FACTS, "again").new
    assert not registry.verify(1)
    assert len(registry.history()) == 1


def test_verify_names_every_bad_file(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    store.delete("models/mnist/versions/1/model.keras")
    store.put("models/mnist/versions/1/report.html", b"<p>other</p>")
    missing, altered = registry.verify(1)
    assert "model.keras: the file is missing" in str(missing)
    assert "report.html: the file was altered" in str(altered)


class Counting(KilledAfterWrites):
    """A store that counts its requests."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)
        self.requests = 0

    def get(self, key: str, limit: int) -> Stored:
        self.requests += 1
        return super().get(key, limit)

    def list(self, prefix: str) -> Iterator[Entry]:
        self.requests += 1
        return super().list(prefix)

    def _die(self) -> None:
        self.requests += 1


class AlteringReads(KilledAfterWrites):
    """A store whose every second answer is altered on the way."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)
        self._reads = 0

    def get(self, key: str, limit: int) -> Stored:
        stored = super().get(key, limit)
        self._reads += 1
        return stored if self._reads % 2 == 0 or "json" in key else Stored(stored.data[::-1] + b"X", stored.etag)


class Losing(KilledAfterWrites):
    """A store that returns other bytes than were written."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data[:-1])


def test_a_store_that_loses_bytes_is_detected_before_anything_is_published(store: ObjectStore) -> None:
    with pytest.raises(StoreError, match="it came back altered"):
        Registry(Losing(store), "mnist", POINTER).publish(FIRST, FACTS, "first")
    assert Registry(store, "mnist").champion() is None
    assert Registry(store, "mnist").versions() == []


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with a former champion and a champion."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    for files in (FIRST, SECOND):
        Registry(store, "mnist", POINTER).publish(files, {"accuracy": 0.98, "name": "modèle"}, "better")
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
    for version in registry.versions():
        for file in registry.manifest(version).files:
            registry.read(version, file.path)


def test_a_manifest_put_in_anothers_place_is_refused(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    store.put(
        "models/mnist/versions/2/manifest.json",
        store.get("models/mnist/versions/1/manifest.json", LARGEST_DOCUMENT).data,
    )
    with pytest.raises(RegistryError, match=r"2/manifest\.json: the file is another version's"):
        registry.manifest(2)


def test_a_champion_of_other_content_than_the_pointer_names_is_refused(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    pointer = registry.champion()
    assert pointer
    manifest = registry.manifest(1)
    digests = {file.path: 64 * "0" for file in manifest.files}
    other = {
        "identity": identity(digests),
        "files": tuple(file.model_copy(update={"sha256": 64 * "0"}) for file in manifest.files),
    }
    store.put("models/mnist/versions/1/manifest.json", encode(manifest.model_copy(update=other)))
    with pytest.raises(RegistryError, match=r"1/manifest\.json: the file is another version's"):
        registry.manifest(pointer)


@pytest.mark.parametrize("name", ["manifest.json", "content-" + 64 * "0"])
def test_a_file_with_a_name_of_the_registrys_own_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        registry.publish({name: b""}, FACTS, "first")
    assert registry.versions() == []


def test_a_publish_takes_as_many_requests_whatever_was_published_before(
    bucket: str, capabilities: Capabilities
) -> None:
    store = open_store(bucket)
    counts = []
    for number in range(5):
        counting = Counting(store)
        Registry(counting, "mnist", capabilities).publish({"model.keras": bytes([number])}, FACTS, "better")
        counts.append(counting.requests)
    assert len(set(counts[1:])) == 1, counts
    assert max(counts) <= {"pointer": 17, "history": 25}[capabilities.decides]


def test_a_damaged_pointer_is_an_error_not_an_empty_registry(tmp_path: Path) -> None:
    registry = Registry(store := LocalStore(tmp_path), "mnist", POINTER)
    registry.publish(FIRST, FACTS, "first")
    store.path("models/mnist/champion.json").write_bytes(b"{")
    with pytest.raises(RegistryError, match=r"champion\.json"):
        registry.champion()


def test_a_publish_follows_the_champion_that_it_was_judged_against(registry: Registry) -> None:
    assert registry.publish(FIRST, FACTS, "first", after=None).champion == 1
    pointer = registry.champion()
    assert pointer
    assert registry.publish(SECOND, FACTS, "second", after=pointer.publish_id).champion == 2
    assert [entry.version for entry in registry.history()] == [1, 2]


@pytest.mark.parametrize("after", [None, 32 * "0"])
def test_a_publish_after_another_champion_is_turned_down_and_leaves_no_trace(
    store: ObjectStore, registry: Registry, after: str | None
) -> None:
    registry.publish(FIRST, FACTS, "first")
    before = snapshot(store)
    with pytest.raises(ChampionMoved, match="version 1 is by now"):
        registry.publish(SECOND, FACTS, "second", after=after)
    assert snapshot(store) == before
    with pytest.raises(ChampionMoved, match="there is none by now"):
        Registry(store, "digits", POINTER).publish(SECOND, FACTS, "second", after=32 * "0")


class Overtaken(KilledAfterWrites):
    """A store in which another writer publishes right after the first put of a key with a word in it."""

    def __init__(self, store: ObjectStore, capabilities: Capabilities, word: str) -> None:
        super().__init__(store, -1)
        self._other, self._word, self._published = Registry(store, "mnist", capabilities), word, False

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        if self._word in key and not self._published:
            self._published = True
            self._other.publish({"model.keras": b"the other's"}, FACTS, "the other's")


@pytest.mark.parametrize("word", ["content-", "report.html", "manifest.json"])
def test_a_publish_that_is_overtaken_on_the_way_shows_no_version(
    store: ObjectStore, capabilities: Capabilities, word: str, hasty: None
) -> None:
    registry = Registry(store, "mnist", capabilities)
    registry.publish(FIRST, FACTS, "first")
    champion = registry.champion()
    assert champion
    overtaken = Registry(Overtaken(store, capabilities, word), "mnist", capabilities)
    with pytest.raises(ChampionMoved):
        overtaken.publish(SECOND, FACTS, "second", after=champion.publish_id)
    assert [entry.reason for entry in registry.history()] == ["first", "the other's"]
    assert len(registry.versions()) == 2
    assert not registry.verify_champion()
    champion = registry.champion()
    assert champion
    again = registry.publish(SECOND, FACTS, "second", after=champion.publish_id)
    assert (again.new, again.champion) == (True, again.version)
    assert not registry.verify(again.version)


@pytest.mark.parametrize("after", [None, "champion"])
def test_of_many_that_follow_one_champion_one_does(tmp_path: Path, capabilities: Capabilities, after: str) -> None:
    store = LocalStore(tmp_path)
    first = Registry(store, "mnist", capabilities)
    if after:
        first.publish(FIRST, FACTS, "first")
    champion = first.champion()

    def publish(number: int) -> int | None:
        registry = Registry(LocalStore(tmp_path), "mnist", capabilities)
        try:
            files = {"model.keras": bytes([number])}
            return registry.publish(files, FACTS, "next", after=champion.publish_id if champion else None).version
        except ChampionMoved:
            return None

    with ThreadPoolExecutor(6) as threads:
        winners = [version for version in threads.map(publish, range(6)) if version]
    assert [entry.version for entry in first.history() if entry.reason == "next"] == winners
    assert len(winners) == 1
    assert champion_version(first) == winners[0]
    assert first.versions() == sorted({*winners, *([1] if after else [])})
    assert not first.verify_champion()


class CompetingEntry(LocalStore):
    """A store where another's entry appears in the history beside ours, and is withdrawn after so many listings."""

    def __init__(self, root: Path, version: int, listings: int) -> None:
        super().__init__(root)
        self._listings, self._vanishing = listings, False
        self._pointer = Pointer(
            version=version,
            identity=64 * "0",
            publish_id=32 * "0",
            generation=1,
            previous=None,
            moved=now(),
            reason="the other's",
            decides="history",
        )
        self._other = f"models/mnist/history/{self._pointer.entry}"

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        if "history/0" in key:
            super().put(self._other, encode(self._pointer))

    def withdraw_when_read(self) -> None:
        """From now on the other's entry vanishes right before it is read."""
        self._vanishing = True

    def get(self, key: str, limit: int) -> Stored:
        if self._vanishing and key == self._other:
            self.delete(key)
        return super().get(key, limit)

    def list(self, prefix: str) -> Iterator[Entry]:
        if prefix == "models/mnist/history/" and any(super().list(self._other)):
            self._listings -= 1
            if self._listings < 0:
                self.delete(self._other)
        return super().list(prefix)


@pytest.fixture
def impatient() -> Iterator[None]:
    with patch("tasks.registry.champion.WITHDRAWAL_WAITS", [0.0] * 6):
        yield


def test_where_the_history_decides_the_higher_of_two_withdraws(tmp_path: Path) -> None:
    store = CompetingEntry(tmp_path, 1, listings=1000)
    store.put("models/mnist/versions/1/content-" + 64 * "0", b"")  # so ours is version 2
    registry = Registry(store, "mnist", HISTORY)
    with pytest.raises(ChampionMoved, match="version 1 is by now"):
        registry.publish(FIRST, FACTS, "first", after=None)
    assert [entry.reason for entry in registry.history()] == ["the other's"]
    assert registry.versions() == []


def test_where_the_history_decides_the_lower_of_two_waits_for_the_other(tmp_path: Path, impatient: None) -> None:
    registry = Registry(CompetingEntry(tmp_path, 7, listings=3), "mnist", HISTORY)
    assert registry.publish(FIRST, FACTS, "first", after=None).champion == 1
    assert [entry.reason for entry in registry.history()] == ["first"]


def test_where_the_history_decides_one_that_stays_was_first(tmp_path: Path, impatient: None) -> None:
    registry = Registry(CompetingEntry(tmp_path, 7, listings=1000), "mnist", HISTORY)
    with pytest.raises(ChampionMoved, match="version 7 is by now"):
        registry.publish(FIRST, FACTS, "first", after=None)
    assert [entry.reason for entry in registry.history()] == ["the other's"]
    assert registry.versions() == []


def test_a_version_is_pinned_and_unpinned(store: ObjectStore, registry: Registry) -> None:
    assert registry.pinned() is None
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    for version in (1, 2, 1):
        assert registry.pin(version, f"why {version}") == registry.pinned()
    pin = registry.pinned()
    assert pin
    assert (pin.version, pin.reason) == (1, "why 1")
    assert registry.manifest(pin).version == 1
    assert champion_version(registry) == 2
    registry.unpin()
    registry.unpin()
    assert registry.pinned() is None


def test_only_a_whole_version_is_pinned(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    with pytest.raises(RegistryError, match="no such version"):
        registry.pin(2, "why")
    store.put("models/mnist/versions/1/model.keras", b"altered")
    with pytest.raises(RegistryError, match="was altered"):
        registry.pin(1, "why")
    assert registry.pinned() is None


def test_a_damaged_pin_is_an_error_until_it_is_replaced(store: ObjectStore, registry: Registry) -> None:
    registry.publish(FIRST, FACTS, "first")
    registry.pin(1, "why")
    store.put(
        "models/mnist/reference.json",
        store.get("models/mnist/reference.json", LARGEST_DOCUMENT).data.replace(b"why", b"who"),
    )
    with pytest.raises(RegistryError, match=r"reference\.json: the file was altered"):
        registry.pinned()
    registry.pin(1, "again")
    assert registry.pinned()


class CompetingPin(KilledAfterWrites):
    """A store in which another writer pins between our read and our write."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, -1)

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        self._store.put(key, b"another")
        super().compare_and_swap(key, data, etag)


def test_two_pins_at_once_are_noticed(store: ObjectStore) -> None:
    Registry(store, "mnist", POINTER).publish(FIRST, FACTS, "first")
    registry = Registry(CompetingPin(store), "mnist", POINTER)
    registry.pin(1, "mine")
    with pytest.raises(RegistryError, match="another writer changed the pin meanwhile"):
        registry.pin(1, "mine again")


def delete_folder(store: ObjectStore, version: int) -> None:
    for entry in list(store.list(f"models/mnist/versions/{version}/")):
        store.delete(entry.key)


def test_a_number_is_never_used_twice_whatever_was_deleted(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    registry.rollback(1, "it was bad")
    delete_folder(store, 2)
    third = registry.publish({"model.keras": b"third"}, FACTS, "third")
    assert (third.version, third.new, third.champion) == (3, True, 3)
    registry.pin(3, "good")
    registry.rollback(1, "bad")
    delete_folder(store, 3)
    for key in history(store)[1:]:
        store.delete(key)
    assert registry.publish({"model.keras": b"fourth"}, FACTS, "fourth").version == 4


def test_a_content_under_the_number_of_another_one_is_no_success(store: ObjectStore, registry: Registry) -> None:
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    registry.rollback(1, "it was bad")
    delete_folder(store, 2)
    third = {"model.keras": b"third"}
    digests = {path: sha256(data) for path, data in third.items()}
    store.put(f"models/mnist/versions/2/content-{identity(digests)}", b"")  # as version 0.1.0 numbered it
    with pytest.raises(RegistryError, match="another content under this number"):
        registry.publish(third, FACTS, "third")
    assert registry.versions() == [1]


class Refusing(KilledAfterWrites):
    """A store that refuses to write keys with a word in them, or breaks down after so many reads of one."""

    def __init__(self, store: ObjectStore, word: str, *, reads: bool = False) -> None:
        super().__init__(store, -1)
        self._word, self._reads, self._written = word, reads, False

    def get(self, key: str, limit: int) -> Stored:
        if self._reads and self._written and self._word in key:
            raise StoreError("cannot read", "503", "Wait.")
        return super().get(key, limit)

    def put(self, key: str, data: bytes) -> None:
        self._refuse(key)
        super().put(key, data)

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        self._refuse(key)
        super().compare_and_swap(key, data, etag)

    def _refuse(self, key: str) -> None:
        self._written = self._written or self._word in key
        if not self._reads and self._word in key:
            raise StoreError("cannot write", "403", "Grant it.")


def publish_id(registry: Registry) -> str:
    champion = registry.champion()
    assert champion
    return champion.publish_id


@pytest.mark.parametrize(("kind", "word"), [(POINTER, "history/"), (HISTORY, "champion.json")])
def test_a_write_that_fails_after_the_champion_moved_is_a_warning(
    store: ObjectStore, kind: Capabilities, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(store, "mnist", kind)
    registry.publish(FIRST, FACTS, "first")
    refusing = Registry(Refusing(store, word), "mnist", kind)
    receipt = refusing.publish(SECOND, FACTS, "second", after=publish_id(registry))
    assert (receipt.version, receipt.new, receipt.champion) == (2, True, 2)
    assert "version 2 is the champion; the next publish repairs this: cannot write: 403" in caplog.text
    assert not registry.verify_champion()
    registry.publish({"model.keras": b"third"}, FACTS, "third", after=publish_id(registry))
    assert [entry.version for entry in registry.history()] == [1, 2, 3]
    assert len(history(store)) == 3


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_second_try_knows_what_the_first_one_published(
    store: ObjectStore, registry: Registry, capabilities: Capabilities, overtaken: bool
) -> None:
    registry.publish(FIRST, FACTS, "first")
    after = publish_id(registry)
    word = "champion.json" if capabilities.decides == "pointer" else "history/0"
    broken = Registry(Refusing(store, word, reads=True), "mnist", capabilities)
    with pytest.raises(StoreError, match="503"):
        broken.publish(SECOND, FACTS, "second", after=after)
    if overtaken:
        registry.publish({"model.keras": b"third"}, FACTS, "third", after=publish_id(registry))
    receipt = registry.publish(SECOND, FACTS, "second", after=after)
    assert (receipt.version, receipt.new, receipt.champion) == (2, True, 3 if overtaken else 2)
    assert [entry.version for entry in registry.history()] == [1, 2, 3][: 3 if overtaken else 2]


def test_a_loser_whose_first_try_broke_before_the_pointer_does_not_stay_visible(store: ObjectStore) -> None:
    registry = Registry(store, "mnist", POINTER)
    registry.publish(FIRST, FACTS, "first")
    after = publish_id(registry)
    with pytest.raises(StoreError, match="403"):
        Registry(Refusing(store, "champion.json"), "mnist", POINTER).publish(SECOND, FACTS, "second", after=after)
    assert registry.versions() == [1, 2]
    registry.publish({"model.keras": b"third"}, FACTS, "third", after=after)
    with pytest.raises(ChampionMoved):
        registry.publish(SECOND, FACTS, "second", after=after)
    assert registry.versions() == [1, 3]


def test_an_entry_that_is_withdrawn_while_it_is_read_is_listed_again(tmp_path: Path) -> None:
    """As a writer of version 0.1.0 withdraws it."""
    store = CompetingEntry(tmp_path, 7, listings=1000)
    registry = Registry(store, "mnist", HISTORY)
    store.withdraw_when_read()
    registry.publish(FIRST, FACTS, "first")
    for read in (registry.champion, registry.checked_champion, registry.history, registry.verify_champion):
        store.put("models/mnist/history/0", b"")  # the other's appears again
        assert "KeyMissing" not in str(read())
    assert champion_version(registry) == 1


def test_no_reader_sees_a_champion_that_is_withdrawn(
    store_url: str, capabilities: Capabilities, tmp_path: Path
) -> None:
    """With more publishes in `tests.faults`."""
    race(store_url, capabilities, 12, tmp_path)


def test_a_rollback_that_is_repeated_goes_no_further(registry: Registry) -> None:
    """A job that is retried, say."""
    for number in (1, 2, 3):
        registry.publish({"model.keras": b"%d" % number}, FACTS, "better")
    assert [registry.rollback(None, "bad").version for _ in range(3)] == [2, 2, 2]
    assert len(registry.history()) == 4
    assert [registry.rollback(None, "bad", only=version).version for version in (3, 2, 2, 3)] == [2, 1, 1, 1]
    with pytest.raises(RegistryError, match="no champion before"):
        registry.rollback(None, "bad", only=1)
    registry.publish({"model.keras": b"4"}, FACTS, "better")
    assert [registry.rollback(None, "bad").version for _ in range(2)] == [1, 1]
    assert [entry.version for entry in registry.history()] == [1, 2, 3, 2, 1, 4, 1]
    assert [registry.rollback(3, "good after all").version for _ in range(2)] == [3, 3]
    assert registry.rollback(2, "why", only=1).version == 3
    assert registry.rollback(2, "why", only=3).version == 2
    assert len(registry.history()) == 9
    assert not registry.verify_champion()


def test_verify_notices_what_was_deleted(store: ObjectStore, registry: Registry) -> None:
    for number in (1, 2, 3):
        registry.publish({"model.keras": b"%d" % number}, FACTS, "better")
    assert registry.verify_champion() == []
    assert registry.generations() == 3
    delete_folder(store, 2)
    store.delete(history(store)[0])
    generation, version = sorted(str(error) for error in registry.verify_champion())[::-1]
    assert "no entry for generation 1: it was deleted" in generation
    assert "cannot read version 2 of mnist: the history or the pin names it" in version


def test_an_older_pointer_put_back_is_named_with_its_remedy(store: ObjectStore) -> None:
    registry = Registry(store, "mnist", POINTER)
    registry.publish(FIRST, FACTS, "first")
    backup = store.get("models/mnist/champion.json", LARGEST_DOCUMENT).data
    registry.publish(SECOND, FACTS, "second")
    store.put("models/mnist/champion.json", backup)
    (problem,) = registry.verify_champion()
    said = "names version 1, generation 1, and the history goes on to version 2, generation 2"
    assert said in str(problem)
    assert "`retrain rollback --to 2`" in str(problem)
    with pytest.raises(RegistryError, match=said):
        registry.checked_champion()
    with pytest.raises(RegistryError, match=said):
        registry.rollback(None, "why")
    assert registry.rollback(2, "the backup was older").generation == 3
    assert registry.verify_champion() == []
    store.delete("models/mnist/champion.json")
    (problem,) = registry.verify_champion()
    assert "the file is missing" in str(problem)
    registry.rollback(2, "the pointer was deleted")
    assert registry.verify_champion() == []


def test_a_writer_killed_before_it_recorded_its_move_is_no_problem(store: ObjectStore) -> None:
    registry = Registry(store, "mnist", POINTER)
    for files in (FIRST, SECOND):
        registry.publish(files, FACTS, "better")
    store.delete(history(store)[-1])
    assert registry.verify_champion() == []
    assert registry.generations() == 2
