"""The probe's results, on stores that treat conditional writes in every known way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tasks.errors import KeyConflict, NotOffered, StoreError
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import Entry, Stored
from tasks.storage.probe import RUN_FOLDERS, Capabilities, check, folders_of_run, race
from tests.faults.proxy import Fault, proxying


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def test_both_stores_enforce_conditional_writes(store: ObjectStore) -> None:
    assert check(store) == Capabilities(create="enforced", swap="enforced", decides="pointer")


def test_the_check_leaves_nothing_behind(store: ObjectStore) -> None:
    check(store)
    assert not list(store.list(""))


@pytest.mark.parametrize("folder", [*RUN_FOLDERS, "models/digits/", "batches/digits/"])
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_every_folder_that_a_run_writes_is_tried_before_any_work(
    bucket: str, s3_server: str, folder: str, method: str
) -> None:
    folders = folders_of_run("digits", judges_only=False, grows=True)
    with proxying(s3_server) as proxy:
        denied = Fault("status", method, f"/{folder}", times=None, status=403, code="AccessDenied")
        proxy.faults.append(denied)
        store = open_store(bucket)
        check(store)
        with pytest.raises(StoreError, match=f"{bucket}/{folder}probe/.* access is denied"):
            check(store, folders)
        proxy.faults.remove(denied)
        check(store, folders)
        assert [entry.key.startswith(folder) for entry in store.list("")] == [True] * (method == "DELETE")


def test_a_run_tries_the_folders_of_what_it_may_write() -> None:
    assert folders_of_run("digits", judges_only=True) == RUN_FOLDERS
    assert folders_of_run("digits", judges_only=False) == (*RUN_FOLDERS, "models/digits/")
    assert folders_of_run("digits", judges_only=True, grows=True) == (*RUN_FOLDERS, "batches/digits/")


def lacking(call: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a system call fail as on a file system that does not have it; `fsync` only of folders."""
    original = os.fsync

    def fail(*arguments: Any, **_: Any) -> None:
        if call == "os.fsync" and not stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
            original(*arguments)
        else:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(call, fail)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_without_hard_links_the_history_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    lacking("os.link", code, monkeypatch)
    store = LocalStore(tmp_path)
    assert check(store) == Capabilities(create="refused", swap="enforced", decides="history")
    with pytest.raises(NotOffered, match="no hard links"):
        store.put_once("key", b"data")
    assert not list(store.list(""))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_history_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    lacking("fcntl.flock", code, monkeypatch)
    assert check(LocalStore(tmp_path)) == Capabilities(create="enforced", swap="refused", decides="history")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_cannot_be_flushed_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    lacking("os.fsync", code, monkeypatch)
    assert check(LocalStore(tmp_path / "new")).decides == "pointer"


@pytest.mark.parametrize("call", ["os.link", "fcntl.flock", "os.fsync"])
def test_a_disk_that_fails_is_not_taken_for_one_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    lacking(call, errno.EIO, monkeypatch)
    with pytest.raises(StoreError, match="Input/output error"):
        check(LocalStore(tmp_path))


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

    def get(self, key: str, limit: int) -> Stored:
        stored = super().get(key, limit)
        return stored._replace(etag=f'"{stored.etag}"')

    def etag(self, key: str) -> str:
        return f'"{super().etag(key)}"'

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
