"""The probe's results, on stores that treat conditional writes in every known way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tasks.errors import KeyConflict, NotOffered, StoreError
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import Entry, Stored
from tasks.storage.probe import Capabilities, check, race


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def test_both_stores_enforce_conditional_writes(store: ObjectStore) -> None:
    assert check(store) == Capabilities(create="enforced", swap="enforced", decides="pointer")


def test_the_check_leaves_nothing_behind(store: ObjectStore) -> None:
    check(store)
    assert not list(store.list(""))


class Careless(LocalStore):
    """A store that accepts conditions and ignores them."""

    def put_once(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        self.put(key, data)


class Refusing(LocalStore):
    """A store that refuses conditions."""

    def put_once(self, key: str, data: bytes) -> None:
        raise NotOffered("cannot write", "not implemented", "Do without.")

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        raise NotOffered("cannot write", "not implemented", "Do without.")


class Swapless(LocalStore):
    """A store that creates on condition, but does not swap."""

    compare_and_swap = Refusing.compare_and_swap


class Never(LocalStore):
    """A store whose swaps always conflict."""

    def compare_and_swap(self, key: str, data: bytes, etag: str) -> None:
        raise KeyConflict("cannot write", "it changed", "Read it again.")


class Unquoted(LocalStore):
    """A store whose conditions hold for tags without quotes only, though it returns them with quotes."""

    def get(self, key: str) -> Stored:
        stored = super().get(key)
        return stored._replace(etag=f'"{stored.etag}"')

    def _tag(self, key: str) -> str | None:
        tag = super()._tag(key)
        return tag.strip('"') if tag else None


STORES: list[tuple[type[LocalStore], str, str, str]] = [
    (LocalStore, "enforced", "enforced", "pointer"),
    (Unquoted, "enforced", "enforced without quotes", "pointer"),
    (Careless, "ignored", "ignored", "history"),
    (Refusing, "refused", "refused", "history"),
    (Swapless, "enforced", "refused", "history"),
    (Never, "enforced", "refused", "history"),
]


@pytest.mark.parametrize(("kind", "create", "swap", "decides"), STORES)
def test_the_probe_reports_what_a_store_does_with_conditions(
    kind: type[LocalStore], create: str, swap: str, decides: str, tmp_path: Path
) -> None:
    store = kind(tmp_path)
    capabilities = check(store)
    assert (capabilities.create, capabilities.swap, capabilities.decides) == (create, swap, decides)
    assert not list(store.list(""))


def test_a_tag_is_given_as_the_store_wants_it() -> None:
    quoted = Capabilities(create="enforced", swap="enforced", decides="pointer")
    bare = quoted.model_copy(update={"swap": "enforced without quotes"})
    assert (quoted.tag('"a"'), bare.tag('"a"')) == ('"a"', "a")


def test_a_setting_lets_the_history_decide_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAIN_HISTORY_DECIDES", "1")
    capabilities = check(LocalStore(tmp_path))
    assert (capabilities.create, capabilities.swap, capabilities.decides) == ("enforced", "enforced", "history")


def test_writers_that_race_have_one_winner_where_writes_are_atomic(tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path) for _ in range(8)]
    assert race(stores, check(stores[0])) == (1, 1)
    assert not list(stores[0].list(""))


def test_writers_that_race_expose_a_store_that_ignores_conditions(tmp_path: Path) -> None:
    stores = [Careless(tmp_path) for _ in range(4)]
    assert race(stores, check(stores[0])) == (4, 4)


class Lagging(LocalStore):
    """A store that does not yet list what was just written."""

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(())


class Undead(LocalStore):
    """A store that does not delete."""

    def delete(self, key: str) -> None:
        pass


@pytest.mark.parametrize("kind", [Lagging, Undead])
def test_a_store_that_lags_behind_its_writes_is_refused_before_any_work(kind: type[LocalStore], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lag behind"):
        check(kind(tmp_path))


def test_a_store_that_may_not_be_listed_is_refused_before_any_work(bucket: str) -> None:
    store = open_store(bucket)
    denied = StoreError("cannot list", "access is denied", "Grant s3:ListBucket.")
    with patch.object(store, "list", side_effect=denied), pytest.raises(StoreError, match="cannot list"):
        check(store)
