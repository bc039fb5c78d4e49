"""Looks at a test set are counted, whatever is renamed, deleted or damaged, and whoever looks at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RegistryError, StoreError
from tasks.registry.documents import now, sha256
from tasks.registry.looks import MOST, Look, Looks
from tasks.storage import open_store
from tasks.storage.local import LocalStore

TEST_SET = sha256(b"images"), sha256(b"labels")


def look(candidate: int = 0, model: str = "mnist", champion: str = "", reference: str = "", run: str = "a run") -> Look:
    digest = sha256(str(candidate).encode())
    return Look(run=run, model=model, candidate=digest, champion=champion, reference=reference, created=now())


def test_verdicts_are_numbered_and_the_same_verdict_keeps_its_number(store_url: str) -> None:
    looks = Looks(open_store(store_url), *TEST_SET)
    assert looks.count() == 0
    assert [looks.enter(look(candidate)) for candidate in range(3)] == [1, 2, 3]
    assert looks.enter(look(1, run="another run")) == 2, "the same models, the same verdict"
    assert looks.enter(look(1, champion="2f")) == 4, "against another champion"
    assert looks.enter(look(1, reference="2f")) == 5
    assert looks.enter(look(1, model="renamed")) == 6
    assert Looks(open_store(store_url), *TEST_SET).count() == 6
    assert Looks(open_store(store_url), *reversed(TEST_SET)).count() == 0


def test_two_runs_at_once_are_two_looks(store_url: str) -> None:
    looks = Looks(open_store(store_url), *TEST_SET)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(looks.enter, map(look, range(8))))
    assert looks.count() >= 8
    assert max(numbers) >= 8
    assert all(sum(number <= bound for number in numbers) <= bound for bound in range(1, 9)), "none counts too few"


def test_runs_that_enter_the_same_look_at_once_disturb_nothing(store_url: str) -> None:
    looks = Looks(open_store(store_url), *TEST_SET)
    with ThreadPoolExecutor(8) as pool:
        for candidate in range(10):
            same = [look(candidate, run=f"run {number}") for number in range(8)]
            assert set(pool.map(looks.enter, same)) == {candidate + 1}
    assert looks.count() == 10


def test_a_look_that_the_store_loses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr(store, "put", lambda key, data: None)
    with pytest.raises(StoreError, match=r"cannot trust .*looks.*: it was lost\. Check the disks"):
        Looks(store, *TEST_SET).enter(look(0))


@given(st.sets(st.integers(0, 9)), st.integers(0, 20))
def test_deleting_entries_does_not_make_a_later_look_an_earlier_one(
    tmp_path_factory: pytest.TempPathFactory, deleted: set[int], known: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = LocalStore(folder)
    looks = Looks(store, *TEST_SET)
    for candidate in range(10):
        looks.enter(look(candidate))
    keys = [entry.key for entry in store.list("looks/")]
    for number in deleted:
        store.delete(keys[number])
    kept = max((number + 1 for number in set(range(10)) - deleted), default=0)
    assert looks.count(known) == max(kept, known)
    assert looks.enter(look(10), known) == max(kept, known) + 1


def test_whatever_lies_there_counts(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    looks = Looks(store, *TEST_SET)
    looks.enter(look(0))
    (key,) = [entry.key for entry in store.list("looks/")]
    store.put(key, b"damaged")
    store.put(f"{key.rpartition('/')[0]}/a-copy.json", b"")
    assert looks.enter(look(0)) == 1
    assert looks.enter(look(1)) == 3


def test_a_number_that_nobody_reached_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    forged = f"{MOST + 1:08d}-{'0' * 64}.json"
    Looks(store, *TEST_SET).enter(look(0))
    (key,) = [entry.key for entry in store.list("looks/")]
    store.put(f"{key.rpartition('/')[0]}/{forged}", b"{}")
    with pytest.raises(RegistryError, match=rf"{forged} has a number that no count reaches\. Delete that object\."):
        Looks(store, *TEST_SET).enter(look(1))
