"""What both stores promise, one suite for the two."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from tasks.errors import KeyConflict, KeyMissing, StoreError, UsageError
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.probe import check


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def test_what_is_put_is_got(store: ObjectStore) -> None:
    for data in (b"", b"one", bytes(range(256)) * 5000):
        store.put("a/key", data)
        assert store.get("a/key").data == data


def test_a_missing_key_says_where_it_was_looked_for(store: ObjectStore) -> None:
    with pytest.raises(KeyMissing, match="some/key"):
        store.get("some/key")


def test_put_once_creates_and_never_replaces(store: ObjectStore) -> None:
    store.put_once("key", b"first")
    with pytest.raises(KeyConflict):
        store.put_once("key", b"second")
    assert store.get("key").data == b"first"


def test_compare_and_swap_replaces_only_what_was_read(store: ObjectStore) -> None:
    store.put("key", b"first")
    seen = store.get("key").etag
    store.compare_and_swap("key", b"second", seen)
    assert store.get("key").data == b"second"
    with pytest.raises(KeyConflict):
        store.compare_and_swap("key", b"third", seen)
    assert store.get("key").data == b"second"


def test_a_conditional_write_of_what_is_there_already_succeeds(store: ObjectStore) -> None:
    store.put_once("key", b"first")
    store.put_once("key", b"first")
    seen = store.get("key").etag
    store.compare_and_swap("key", b"second", seen)
    store.compare_and_swap("key", b"second", seen)
    assert store.get("key").data == b"second"


def test_compare_and_swap_of_what_is_gone_is_a_conflict(store: ObjectStore) -> None:
    store.put("key", b"first")
    seen = store.get("key").etag
    store.delete("key")
    with pytest.raises(KeyConflict):
        store.compare_and_swap("key", b"second", seen)
    with pytest.raises(KeyMissing):
        store.get("key")


def test_the_same_content_has_the_same_tag(store: ObjectStore) -> None:
    store.put("one", b"data")
    store.put("two", b"data")
    assert store.get("one").etag == store.get("two").etag


def test_a_listing_has_every_key_of_the_prefix_in_order(store: ObjectStore) -> None:
    for key in ("a/2", "a/10/x", "a/1", "ab", "b"):
        store.put(key, key.encode())
    store.compare_and_swap("b", b"changed", store.get("b").etag)
    assert [entry.key for entry in store.list("a/")] == ["a/1", "a/10/x", "a/2"]
    assert [entry.key for entry in store.list("a")] == ["a/1", "a/10/x", "a/2", "ab"]
    assert [entry.key for entry in store.list("")] == ["a/1", "a/10/x", "a/2", "ab", "b"]
    assert [entry.size for entry in store.list("a/1")] == [3, 6]
    assert not list(store.list("nothing/"))
    assert all(entry.modified.tzinfo for entry in store.list(""))


def test_more_keys_than_a_page_are_all_listed(bucket: str) -> None:
    store = open_store(bucket)
    for number in range(1001):
        store.put(f"k{number:04d}", b"")
    assert len(list(store.list("k"))) == 1001


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    store.put("key", b"data")
    store.delete("key")
    store.delete("key")
    with pytest.raises(KeyMissing):
        store.get("key")


def test_an_address_is_one_that_a_person_can_use(store: ObjectStore, store_url: str) -> None:
    store.put("a/key", b"data")
    assert store.address("a/key") == f"{store_url}/a/key"


def test_the_check_leaves_nothing_behind(store: ObjectStore) -> None:
    check(store)
    assert not list(store.list(""))


def test_stores_with_the_same_address_share_their_keys(store_url: str) -> None:
    open_store(store_url).put("key", b"data")
    assert open_store(store_url).get("key").data == b"data"


def test_a_prefix_keeps_stores_of_a_bucket_apart(bucket: str) -> None:
    open_store(f"{bucket}/one").put("key", b"data")
    assert not list(open_store(f"{bucket}/two").list(""))
    assert [entry.key for entry in open_store(bucket).list("")] == ["one/key"]


@pytest.mark.parametrize("url", ["", "s3://", "gs://bucket", "https://bucket", "file://host/folder", "file://"])
def test_an_address_that_is_no_store_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="cannot use the store"):
        open_store(url)


def test_a_path_and_its_file_url_are_the_same_store(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    open_store(str(folder)).put("key", b"data")
    assert open_store(folder.as_uri()).get("key").data == b"data"


@pytest.mark.parametrize("key", ["../out", "a//b", "/abs", ".", "a/../../b", ".retrain/x", ""])
def test_no_key_leaves_a_local_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        LocalStore(tmp_path).put(key, b"data")


def test_a_failed_write_to_a_local_store_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot write .*file/key"):
        LocalStore(tmp_path).put("file/key", b"data")
    assert not list((tmp_path / ".retrain").glob("*.tmp"))


def test_opening_a_local_store_does_not_import_boto3() -> None:
    code = "import sys; from tasks.storage import open_store; open_store('x'); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "Check the network, AWS_ENDPOINT_URL_S3"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials"),
    ],
)
def test_a_store_that_cannot_work_says_why_before_any_work(bucket: str, settings: dict[str, str], why: str) -> None:
    kept = {name: value for name, value in (os.environ | settings).items() if value}
    with patch.dict(os.environ, kept, clear=True), patch("tasks.storage.s3.CONFIG", _hasty()):
        store = open_store(bucket)
        with pytest.raises(StoreError, match=why):
            check(store)


def _hasty() -> object:
    from botocore.config import Config

    from tasks.storage.s3 import CONFIG

    return CONFIG.merge(Config(retries={"total_max_attempts": 1}, connect_timeout=1))


def test_a_missing_bucket_is_named(s3_server: str) -> None:
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/probe.*the bucket does not exist"):
        check(open_store("s3://no-such-bucket"))


def test_an_endpoint_that_is_not_encrypted_is_refused_unless_it_is_this_machine(s3_server: str) -> None:
    with (
        patch.dict(os.environ, AWS_ENDPOINT_URL_S3="http://storage.example.org"),
        pytest.raises(UsageError, match="not encrypted"),
    ):
        open_store("s3://bucket")


def _race(work: Callable[[str, int], int], url: str, processes: int = 4) -> list[int]:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.starmap(work, [(url, number) for number in range(processes)])


def _create_all(url: str, number: int) -> int:
    won = 0
    for key in range(50):
        try:
            open_store(url).put_once(f"key/{key}", str(number).encode())
            won += 1
        except KeyConflict:
            pass
    return won


def _count_up(url: str, number: int) -> int:
    store, done = open_store(url), 0
    while done < 25:
        seen = store.get("counter")
        try:
            store.compare_and_swap("counter", f"{int(seen.data.split()[0]) + 1} {number}".encode(), seen.etag)
            done += 1
        except KeyConflict:
            pass
    return done


def test_processes_that_race_to_create_a_local_key_have_one_winner_each(tmp_path: Path) -> None:
    assert sum(_race(_create_all, str(tmp_path))) == 50


def test_processes_that_race_to_swap_a_local_key_lose_no_update(tmp_path: Path) -> None:
    open_store(str(tmp_path)).put("counter", b"0")
    _race(_count_up, str(tmp_path))
    assert open_store(str(tmp_path)).get("counter").data.split()[0] == b"100"
