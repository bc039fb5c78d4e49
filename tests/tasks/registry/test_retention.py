"""Retention: what the policy keeps; a removal that is killed or raced at any request leaves what is needed whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import model_page
from tasks.errors import KeyConflict, KeyMissing, RegistryError
from tasks.registry import Registry
from tasks.registry.answers import FOLDER
from tasks.registry.champion import CLAIMS
from tasks.registry.documents import Pointer, encode, now, sha256
from tasks.registry.garbage import ANSWERS, garbage
from tasks.registry.retention import old_runs, outdated, remove_run, unneeded
from tasks.registry.runs import RunIndex
from tasks.registry.verification import verify_everything
from tasks.settings import Retention
from tasks.storage import ObjectStore, open_store
from tasks.storage.objects import Entry, Stored
from tasks.storage.probe import Capabilities
from tasks.values import RunRow
from tests.tasks.registry.conftest import POINTER
from tests.tasks.report.runs import rows

LATER = datetime.now(UTC) + timedelta(days=1)
POLICY = Retention(keep_champions=1, keep_months=0)
WRITES = {"put", "put_once", "compare_and_swap", "delete"}
REQUESTS = {*WRITES, "get", "etag", "list"}


class Killed(BaseException):
    """The process was killed here."""


class Memory:
    """A store in memory, for hundreds of interleavings; it enforces conditions as a local one does."""

    url = "memory://store"

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})

    def get(self, key: str, limit: int) -> Stored:
        if key not in self.objects:
            raise KeyMissing(f"cannot read {key}", "it is missing", "Nothing.")
        return Stored(self.objects[key], sha256(self.objects[key]))

    def etag(self, key: str) -> str:
        return self.get(key, 0).etag

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def put_once(self, key: str, data: bytes) -> None:
        if self.objects.setdefault(key, data) != data:
            raise KeyConflict(f"cannot write {key}", "it is there", "Nothing.")

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        if key not in self.objects or self.etag(key) != etag:
            raise KeyConflict(f"cannot write {key}", "it changed", "Nothing.")
        self.objects[key] = data

    def list(self, prefix: str) -> Iterator[Entry]:
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        return iter([Entry(key, len(self.objects[key]), datetime.now(UTC)) for key in keys])

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def address(self, key: str) -> str:
        return key


class Interrupted:
    """A store that calls a function before its request number `at`, counted from 0; the function may end it all."""

    counted = REQUESTS

    def __init__(self, store: ObjectStore, at: int, call: Callable[[], object]) -> None:
        self._store, self._at, self._call, self.requests = store, at, call, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in self.counted:
            return found

        def request(*args: Any) -> Any:
            number, self.requests = self.requests, self.requests + 1
            if number == self._at:
                self._call()
            return found(*args)

        return request


class Dead(Interrupted):
    """A store whose client is killed before its write number `at`, and makes no further one.

    Killed before a read, it leaves the same as before the write that follows.
    """

    counted = WRITES

    def __init__(self, store: ObjectStore, at: int) -> None:
        super().__init__(store, at, self._die)

    def _die(self) -> None:
        self._at = self.requests  # the next one too
        raise Killed


def filled(store: ObjectStore, versions: int, capabilities: Capabilities = POINTER) -> Registry:
    registry = Registry(store, "mnist", capabilities)
    for number in range(1, versions + 1):
        files = {"model.keras": b"model %d" % number, "report.html": b"report"}
        registry.publish(files, {"metrics": {"accuracy": 0.9 + number / 1000}}, "better")
    return registry


def collect(
    store: ObjectStore,
    capabilities: Capabilities = POINTER,
    policy: Retention = POLICY,
    strays: datetime = LATER - timedelta(days=8),
) -> list[int]:
    """What `retrain gc` does, without its question; the versions that it removed. Strays are removed as by default."""
    registry = Registry(store, "mnist", capabilities)
    removed = []
    for version in outdated(registry, policy, LATER):
        if registry.retire(version, lambda: outdated(registry, policy, LATER)):
            removed.append(version)
    for entry in garbage(store, registry, strays):
        store.delete(entry.key)
    return removed


def require_whole(store: ObjectStore) -> None:
    """What pointer, pin and rollback need is there, byte by byte, and nobody is told of damage."""
    registry = Registry(store, "mnist", POINTER)
    champion, pin = registry.checked_champion(), registry.pinned()
    assert champion
    assert registry.verify(champion) == []
    assert pin is None or registry.verify(pin) == []
    assert registry.verify_champion() == []
    assert verify_everything(registry, lambda *_: None).problems == []
    before = {pointer.version: pointer.previous for pointer in reversed(registry.history())}[champion.version]
    if before in registry.versions() and not registry.tombstone(before):
        assert registry.verify(before) == []


# The policy.

MONTHS = [datetime(2026, month, 10, tzinfo=UTC) for month in range(1, 7)]


def pointers(*moves: tuple[int, datetime]) -> list[Pointer]:
    result: list[Pointer] = []
    for version, moved in moves:
        result.append(
            Pointer(
                version=version,
                identity=f"{version:064x}",
                publish_id=f"{len(result):032x}",
                generation=len(result) + 1,
                previous=result[-1].version if result else None,
                moved=moved,
                reason="better",
                decides="pointer",
            )
        )
    return result


def test_without_a_policy_nothing_is_removed() -> None:
    history = pointers(*((number, MONTHS[0]) for number in range(1, 50)))
    for policy in (Retention(), Retention(keep_months=0, keep_runs_days=1)):
        assert unneeded(history, range(1, 50), (), policy, LATER, LATER) == {}


def test_the_last_champions_and_that_of_each_month_stay() -> None:
    days = [
        (1, MONTHS[0]),
        (2, MONTHS[0]),
        (3, MONTHS[1]),
        (4, MONTHS[1]),
        (5, MONTHS[4]),
        (6, MONTHS[5]),
        (7, MONTHS[5]),
    ]
    history = pointers(*days)

    def kept(policy: Retention, *pinned: int) -> list[int]:
        gone = unneeded(history, range(1, 8), pinned, policy, LATER, MONTHS[5])
        return [number for number in range(1, 8) if number not in gone]

    assert kept(Retention(keep_champions=1)) == [2, 4, 5, 6, 7]
    assert kept(Retention(keep_champions=1, keep_months=0)) == [6, 7]
    assert kept(Retention(keep_champions=1, keep_months=2)) == [5, 6, 7]
    assert kept(Retention(keep_champions=1, keep_months=3)) == [4, 5, 6, 7], "who was champion when April ended"
    assert kept(Retention(keep_champions=3, keep_months=0)) == [4, 5, 6, 7]
    assert kept(Retention(keep_champions=1, keep_months=0), 3) == [3, 6, 7]
    (first, *_) = unneeded(history, range(1, 8), (), Retention(keep_champions=2), LATER, MONTHS[5]).items()
    assert first == (1, "was champion until 2026-01-10: not among the last 2 champions, nor the last of its month")


def test_what_was_rolled_back_from_and_what_a_rollback_leads_to_stay() -> None:
    history = pointers(*((number, MONTHS[0]) for number in (1, 2, 3, 4, 5, 6, 7, 8, 4)))
    gone = unneeded(history, range(1, 9), (), Retention(keep_champions=2, keep_months=0), LATER, LATER)
    assert list(gone) == [1], "rollbacks lead from 4 to 3 and 2; 5 to 8 were rolled back from"


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Pointer], set[int]]:
    """A history of publishes and rollbacks over months, and versions that are there."""
    moves, newest, moved = list[tuple[int, datetime]](), 0, datetime(2025, 1, 1, tzinfo=UTC)
    for _ in range(draw(st.integers(1, 25))):
        moved += timedelta(days=draw(st.integers(0, 40)))
        if newest > 1 and draw(st.integers(0, 3)) == 0:
            moves.append((draw(st.integers(1, newest)), moved))
        else:
            newest += draw(st.integers(1, 2))
            moves.append((newest, moved))
    gone = draw(st.sets(st.sampled_from([version for version, _ in moves]))) - {moves[-1][0]}
    return pointers(*moves), set(range(1, newest + 2)) - gone


@given(life=lives(), champions=st.integers(1, 6), months=st.none() | st.integers(0, 6), pin=st.integers(1, 25))
def test_nothing_that_is_needed_is_removed_and_the_order_does_not_matter(
    life: tuple[list[Pointer], set[int]], champions: int, months: int | None, pin: int
) -> None:
    history, versions = life
    policy, today = Retention(keep_champions=champions, keep_months=months), history[-1].moved
    gone = unneeded(history, versions, {pin}, policy, LATER, today)
    champion = history[-1]
    there = [pointer.version for pointer in history if pointer.version in versions]
    assert gone.keys() <= set(there) - {champion.version, champion.previous, pin}
    assert not gone.keys() & {*list(dict.fromkeys(reversed(there)))[:champions]}
    assert all(version < champion.version for version in gone)
    first = {pointer.version: pointer.previous for pointer in reversed(history)}
    step, steps = first.pop(champion.version), 0
    while step is not None and steps < champions:
        assert step not in gone
        steps += step in versions
        step = first.pop(step, None)
    if months is None:
        last = {(pointer.moved.year, pointer.moved.month): pointer.version for pointer in history}
        assert not gone.keys() & set(last.values())
    assert unneeded(history, versions, {pin}, policy, champion.moved - timedelta(days=60), today).keys() <= gone.keys()
    for removed in gone:
        rest = unneeded(history, versions - {removed}, {pin}, policy, LATER, today)
        assert rest.keys() == gone.keys() - {removed}


# The removal.


def test_a_version_is_removed_but_for_its_number_and_its_tombstone(
    store: ObjectStore, capabilities: Capabilities
) -> None:
    registry = filled(store, 4, capabilities)
    created = registry.manifest(2).created
    answers = f"seeds/{registry.manifest(1).identity}-{64 * '0'}.npz", f"seeds/{registry.manifest(4).identity}-x.npz"
    for key in answers:
        store.put(key, b"answers")
    assert collect(store, capabilities) == [1, 2]
    assert registry.versions() == [3, 4]
    assert {number: (each.created, each.accuracy) for number, each in registry.retired().items()} == {
        1: (registry.retired()[1].created, 0.901),
        2: (created, 0.902),
    }
    names = [entry.key.rpartition("/")[2] for entry in store.list("models/mnist/versions/1/")]
    assert [name.partition("-")[0] for name in names] == ["content", "retired"]
    assert [entry.key for entry in store.list("seeds/")] == [answers[1]]
    assert FOLDER == ANSWERS
    require_whole(store)
    assert str(verify_everything(registry, lambda *_: None)).startswith("2 versions and 2 retired, 4 files, ")
    for call in (registry.manifest, registry.verify, lambda each: registry.pin(each, "good"), registry.rollback):
        with suppress(TypeError):
            errors = [str(error) for error in called(call, 1)]
            assert f"it was retired on {now():%Y-%m-%d} under the retention policy" in errors[0]
    assert list(store.list(f"models/mnist/{CLAIMS}")) == []
    assert collect(store, capabilities) == [], "what is removed is not removed again"
    assert registry.publish({"model.keras": b"model 5"}, {}, "better").version == 5


def called(call: Callable[..., Any], version: int) -> list[RegistryError]:
    try:
        return list(call(version)) if call.__name__ == "verify" else [call(version, "why")]
    except RegistryError as error:
        return [error]


def test_the_content_of_a_retired_version_gets_a_number_of_its_own(
    store: ObjectStore, capabilities: Capabilities
) -> None:
    registry = filled(store, 3, capabilities)
    collect(store, capabilities)
    files = {"model.keras": b"model 1", "report.html": b"report"}
    assert registry.publish(files, {}, "again").version == 4
    assert registry.retired().keys() == {1}
    require_whole(store)


def test_a_rollback_passes_by_what_was_retired(store: ObjectStore, capabilities: Capabilities) -> None:
    registry = filled(store, 5, capabilities)
    registry.pin(2, "good")
    assert collect(store, capabilities) == [1, 3]
    assert registry.rollback(None, "bad", only=5).version == 4
    assert registry.rollback(None, "bad", only=4).version == 2
    with pytest.raises(RegistryError, match="no champion before"):
        registry.rollback(None, "bad", only=2)


def test_the_champion_and_the_pin_may_not_hide_behind_a_tombstone(store: ObjectStore) -> None:
    registry = filled(store, 3)
    registry.pin(1, "good")
    for version in (1, 3):
        tombstone = next(iter(one_tombstone()))
        store.put(f"models/mnist/versions/{version}/{tombstone}", encode(retired_document(registry, version)))
        store.put(f"models/mnist/versions/{version}/model.keras", b"altered")
    assert len(verify_everything(registry, lambda *_: None).problems) == 2
    for version in (1, 3):
        store.delete(f"models/mnist/versions/{version}/manifest.json")
    assert len(registry.verify_champion()) == 2


def one_tombstone() -> list[str]:
    return [f"retired-{32 * '0'}.json"]


def retired_document(registry: Registry, version: int) -> Any:
    from tasks.registry.documents import Retired

    manifest = registry.manifest(version)
    return Retired(version=version, identity=manifest.identity, created=manifest.created, accuracy=None, retired=now())


def test_gc_killed_at_any_request_leaves_what_is_needed_and_its_repetition_completes_it(
    store_url: str, capabilities: Capabilities
) -> None:
    before = Memory()
    filled(before, 3, capabilities).pin(2, "good")
    for at in count():
        store = open_store(f"{store_url}/{at}")
        for entry in before.list(""):
            store.put(entry.key, before.get(entry.key, 1 << 20).data)
        dead: Any = Dead(store, at)
        try:
            collect(dead, capabilities)
            break
        except Killed:
            require_whole(store)
        collect(store, capabilities)
        registry = Registry(store, "mnist", capabilities)
        assert (registry.versions(), list(registry.retired())) == ([2, 3], [1])
        require_whole(store)
        assert registry.verify(2) == []
    assert at == 4, "tombstone, manifest, two files"


def test_a_removal_that_was_killed_is_taken_back_by_another_policy(store: ObjectStore) -> None:
    registry = filled(store, 3)
    dead: Any = Registry(store, "mnist", POINTER)
    with pytest.raises(Killed):
        dead.retire(1, lambda: (_ for _ in ()).throw(Killed()))
    with pytest.raises(RegistryError, match="`retrain gc` is removing it"):
        registry.rollback(1, "bad")
    with pytest.raises(RegistryError, match="`retrain gc` is removing it"):
        registry.pin(1, "good")
    collect(store, policy=Retention())
    assert registry.tombstone(1), "perhaps it is still at work"
    collect(store, policy=Retention(), strays=LATER)
    assert registry.rollback(1, "bad").version == 1
    require_whole(store)


OPERATIONS: dict[str, Callable[[Registry], object]] = {
    "rollback": lambda registry: registry.rollback(1, "bad"),
    "pin": lambda registry: registry.pin(1, "good"),
    "publish": lambda registry: registry.publish({"model.keras": b"model 4"}, {}, "better"),
    "the same again": lambda registry: registry.publish(
        {"model.keras": b"model 1", "report.html": b"report"}, {}, "again", after=registry.history()[-1].publish_id
    ),
    "gc": lambda registry: collect(registry.store, registry.capabilities),
}


def attempt(store: Any, capabilities: Capabilities, operation: str) -> None:
    with suppress(RegistryError):  # it was retired before
        OPERATIONS[operation](Registry(store, "mnist", capabilities))


def start(capabilities: Capabilities) -> Memory:
    store = Memory()
    filled(store, 3, capabilities)
    return store


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gc_and_another_command_at_any_request_of_either(operation: str, capabilities: Capabilities) -> None:
    """Before each request of the one, the whole other."""
    before = start(capabilities).objects
    for at in count():
        store = Memory(before)
        outer: Any = Interrupted(store, at, partial(attempt, store, capabilities, operation))
        collect(outer, capabilities)
        require_whole(store)
        if outer.requests <= at:
            break
    assert at > 10
    for at in count():
        store = Memory(before)
        outer = Interrupted(store, at, partial(collect, store, capabilities))
        attempt(outer, capabilities, operation)
        require_whole(store)
        if outer.requests <= at:
            break
        collect(store, capabilities)
        require_whole(store)


@pytest.mark.parametrize("operation", ["rollback", "pin"])
def test_gc_and_a_command_that_is_killed(operation: str, capabilities: Capabilities) -> None:
    """The command begins before any request of gc, and is killed before any of its own writes; gc goes on."""
    before = start(capabilities).objects
    for at in count():
        for writes in count():
            store = Memory(before)
            dead: Any = Dead(store, writes)
            outer: Any = Interrupted(store, at, partial(end, dead, capabilities, operation))
            collect(outer, capabilities)
            require_whole(store)
            if dead.requests <= writes:
                break
        if outer.requests <= at:
            break
    assert at > 10


def end(store: Any, capabilities: Capabilities, operation: str) -> None:
    with suppress(Killed):
        attempt(store, capabilities, operation)


# The runs.

OLD = timedelta(days=400)


@pytest.fixture
def some(store: ObjectStore) -> list[RunRow]:
    """Runs with reports: of the model, of another one, and of both some that only judged."""
    filled(store, 2)
    entered = [
        row.model_copy(update={"version": place + 1 if row.verdict == "published" else 0})
        for place, row in enumerate(row for row in rows(12) if row.verdict != "rollback")
    ]
    for row in entered:
        RunIndex(store, "mnist").add(row)
    for run in [row.id for row in entered] + ["judged", "other", "former", "no-report", "no-json"]:
        store.put(f"runs/{run}/report.html", b"report")
        if run != "no-report":
            store.put(f"runs/{run}/report.json", report(run))
    return entered


def report(run: str) -> bytes:
    named = {"other": {"model": "digits"}, "former": {"prepared": {"dataset": "mnist"}}}
    return b"[" if run == "no-json" else json.dumps(named.get(run, {"model": "mnist"})).encode()


def drop(store: ObjectStore, days: int | None = 30, after: timedelta = OLD) -> list[str]:
    registry = Registry(store, "mnist", POINTER)
    found = old_runs(registry, Retention(keep_runs_days=days), datetime.now(UTC) + after)
    for run in found:
        remove_run(registry, run)
    return [run.id for run in found]


def folders(store: ObjectStore) -> set[str]:
    return {entry.key.split("/")[1] for entry in store.list("runs/")}


def test_the_reports_of_old_runs_are_removed_and_their_points_stay(store: ObjectStore, some: list[RunRow]) -> None:
    assert drop(store, None) == drop(store, after=timedelta()) == []
    kept = {row.id for row in some if row.verdict == "published" and row.version in (1, 2)}
    assert kept
    before = folders(store)
    assert set(drop(store)) == before - kept - {"other", "no-report", "no-json"}
    assert folders(store) == kept | {"other", "no-report", "no-json"}
    model_page.rebuild(store, "mnist")
    shown = {row["id"]: row["report"] for row in RunIndex(store, "mnist").shown()}
    assert {row.id: row.id in kept for row in some}.items() <= shown.items()
    assert drop(store) == []


def test_the_removal_of_a_report_that_was_killed_is_completed(store: ObjectStore, some: list[RunRow]) -> None:
    before = folders(store)
    for at in count():
        try:
            drop(Dead(store, at))
            break
        except Killed:
            without = {row.id for row in RunIndex(store, "mnist").rows() if not row.report}
            gone = {run for run in before if len(list(store.list(f"runs/{run}/"))) < 2} - {"no-report"}
            assert gone & {row.id for row in some} <= without, "no link leads to what is gone"
    kept = {row.id for row in some if row.verdict == "published" and row.version in (1, 2)}
    assert folders(store) == kept | {"other", "no-report", "no-json"}


def test_what_the_page_has_no_room_for_is_forgotten(
    store: ObjectStore, some: list[RunRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.registry.runs.MOST", 4)
    drop(store)
    left = {row.id for _, row in RunIndex(store, "mnist").files()}
    kept = {row.id for row in some if row.verdict == "published" and row.version in (1, 2)}
    assert left == kept | {row.id for row in sorted(some, key=lambda row: row.time)[-4:]}
    assert drop(store) == []


def test_a_row_of_an_earlier_version_reads_as_one_with_a_report(store: ObjectStore) -> None:
    row = rows(1)[0]
    assert b"report" not in encode(row)
    index = RunIndex(store, "mnist")
    index.add(row)
    index.add(rows(2)[1].model_copy(update={"report": False}))
    assert [each["report"] for each in index.shown()] == [True, False]
    assert [each.report for each in index.rows()] == [True, False]
    assert index.rebuild() == index.lines()


def test_the_page_shows_a_retired_version_without_a_link(store: ObjectStore) -> None:
    filled(store, 3)
    collect(store)
    shown = [(row["version"], row["accuracy"], row["report"]) for row in map(dict, published(store))]
    assert shown == [(1, 0.901, False), (2, 0.902, True), (3, 0.903, True)]


def published(store: ObjectStore) -> list[dict[str, Any]]:
    return [row for row in RunIndex(store, "mnist").shown() if row["verdict"] == "published"]
