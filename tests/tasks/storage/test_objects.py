"""The guarantees of `ObjectStore`: one suite for the local store and for S3."""

from __future__ import annotations

import base64
import hashlib
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import KeyConflict, KeyMissing, ObjectTooLarge, StoreError, UsageError
from tasks.learning.checkpoints import Checkpoint, Checkpoints
from tasks.registry.batches import BatchLedger
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.storage.probe import check
from tasks.storage.s3 import CONFIG
from tests import s3


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


def test_what_is_put_is_got(store: ObjectStore) -> None:
    for data in (b"", b"one", bytes(range(256)) * 5000):
        store.put("a/key", data)
        assert store.get("a/key", LARGEST_DOCUMENT).data == data


def test_an_object_is_read_up_to_its_limit_and_not_beyond(store: ObjectStore) -> None:
    for size in (0, 1, 70_000):
        store.put("a/key", bytes(size))
        assert store.get("a/key", size).data == bytes(size)
        with pytest.raises(ObjectTooLarge, match=rf"a/key: it has {size:,} bytes, and at most {size - 1:,} belong"):
            store.get("a/key", size - 1)
        assert store.etag("a/key") == store.get("a/key", size).etag
    with pytest.raises(KeyMissing, match="other/key"):
        store.etag("other/key")


def test_an_object_that_is_larger_than_what_is_written_is_not_read_by_a_conditional_write(store: ObjectStore) -> None:
    store.put("key", bytes(70_000))
    with pytest.raises(KeyConflict):
        store.put_once("key", b"mine")
    store.compare_and_swap("key", b"mine", store.etag("key"))
    assert store.get("key", 4).data == b"mine"


def test_a_missing_key_says_where_it_was_looked_for(store: ObjectStore) -> None:
    with pytest.raises(KeyMissing, match="some/key"):
        store.get("some/key", LARGEST_DOCUMENT)


def test_put_once_creates_and_never_replaces(store: ObjectStore) -> None:
    store.put_once("key", b"first")
    with pytest.raises(KeyConflict):
        store.put_once("key", b"second")
    assert store.get("key", LARGEST_DOCUMENT).data == b"first"


def test_compare_and_swap_replaces_only_what_was_read(store: ObjectStore) -> None:
    store.put("key", b"first")
    seen = store.etag("key")
    store.compare_and_swap("key", b"second", seen)
    assert store.get("key", LARGEST_DOCUMENT).data == b"second"
    with pytest.raises(KeyConflict):
        store.compare_and_swap("key", b"third", seen)
    assert store.get("key", LARGEST_DOCUMENT).data == b"second"


def test_a_conditional_write_of_what_is_there_already_succeeds(store: ObjectStore) -> None:
    store.put_once("key", b"first")
    store.put_once("key", b"first")
    seen = store.etag("key")
    store.compare_and_swap("key", b"second", seen)
    store.compare_and_swap("key", b"second", seen)
    assert store.get("key", LARGEST_DOCUMENT).data == b"second"


def test_compare_and_swap_of_what_is_gone_is_a_conflict(store: ObjectStore) -> None:
    store.put("key", b"first")
    seen = store.etag("key")
    store.delete("key")
    with pytest.raises(KeyConflict):
        store.compare_and_swap("key", b"second", seen)
    with pytest.raises(KeyMissing):
        store.get("key", LARGEST_DOCUMENT)


def test_the_same_content_has_the_same_tag(store: ObjectStore) -> None:
    store.put("one", b"data")
    store.put("two", b"data")
    assert store.etag("one") == store.etag("two")


def test_a_listing_has_every_key_of_the_prefix_in_order(store: ObjectStore) -> None:
    for key in ("a/2", "a/10/x", "a/1", "ab", "b"):
        store.put(key, key.encode())
    store.compare_and_swap("b", b"changed", store.etag("b"))
    assert [entry.key for entry in store.list("a/")] == ["a/1", "a/10/x", "a/2"]
    assert [entry.key for entry in store.list("a")] == ["a/1", "a/10/x", "a/2", "ab"]
    assert [entry.key for entry in store.list("")] == ["a/1", "a/10/x", "a/2", "ab", "b"]
    assert [entry.size for entry in store.list("a/1")] == [3, 6]
    assert not list(store.list("nothing/"))
    assert all(entry.modified.tzinfo for entry in store.list(""))


def test_every_page_of_a_listing_is_read() -> None:
    def page(key: str, more: str) -> s3.Reply:
        item = f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        return s3.Reply(200, f"<ListBucketResult>{item}{more}</ListBucketResult>".encode())

    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>go</NextContinuationToken>"
    with answering(page("a/1", more), page("a/2", "<IsTruncated>false</IsTruncated>")) as (store, requests):
        assert [entry.key for entry in store.list("a/")] == ["a/1", "a/2"]
    assert "continuation-token=go" in requests[1].path


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    store.put("key", b"data")
    store.delete("key")
    store.delete("key")
    with pytest.raises(KeyMissing):
        store.get("key", LARGEST_DOCUMENT)


def test_an_address_is_one_that_a_person_can_use(store: ObjectStore, store_url: str) -> None:
    store.put("a/key", b"data")
    assert store.address("a/key") == f"{store_url}/a/key"


def test_stores_with_the_same_address_share_their_keys(store_url: str) -> None:
    open_store(store_url).put("key", b"data")
    assert open_store(store_url).get("key", LARGEST_DOCUMENT).data == b"data"


def test_a_prefix_keeps_stores_of_a_bucket_apart(bucket: str) -> None:
    open_store(f"{bucket}/one").put("key", b"data")
    assert not list(open_store(f"{bucket}/two").list(""))
    assert [entry.key for entry in open_store(bucket).list("")] == ["one/key"]


NO_STORES = ["", "s3://", "s3:/bucket", "s3:bucket", "s3://a b/c", "s3://[::1", "s3://bucket/a//b", "s3://bucket/../b"]
NO_STORES += [
    "gs://bucket",
    "https://bucket",
    "file://host/folder",
    "file://",
    "file:folder",
    "file:///a?b",
    "file://[a",
    "~nosuchuser/store",
]
NO_STORES += [
    f"{place}a{text}b" for place in ("s3://bucket/", "", "/") for text in ("\n", "\x1b[2J", "\x85", "\u2028", "\udcff")
]
NO_STORES += ["file:///a%0Ab", "file:///a%00b", "file:///a%FFb"]


@pytest.mark.parametrize("url", NO_STORES)
def test_an_address_that_is_no_store_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="cannot use the store") as caught:
        open_store(url)
    message = str(caught.value)
    assert message.isprintable(), "one line, for a terminal"


def test_a_prefix_leaves_room_for_the_longest_key(bucket: str) -> None:
    longest = f"{bucket}/{'ä/' * 213}a"
    training = f"train/{'0' * 64}/NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition"
    Checkpoints(store := open_store(longest), training).keep(Checkpoint((), []))
    BatchLedger(store, "m" * 50, "s3://data/*").enter([("b" * 100, "0" * 64, "0" * 64)], "a run")
    sizes = [len(f"{'ä/' * 213}a/{entry.key}".encode()) for entry in store.list("")]
    assert len(sizes) == 2
    assert 1000 < max(sizes) <= 1024
    for more in ("c", "c" * 300):
        with pytest.raises(UsageError, match=r"has (641|940) bytes, and 640 leave room") as caught:
            open_store(f"{longest}{more}")
        assert len(str(caught.value)) < 300


def test_a_current_folder_that_was_deleted_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "gone").mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(UsageError, match="current folder, which was deleted"):
        open_store("./store")
    assert open_store(str(tmp_path)).url == tmp_path.as_uri()


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="no credentials") as caught:
        open_store("s3://key:secret@bucket/prefix")
    assert "secret" not in str(caught.value)


def test_every_character_of_a_prefix_counts(s3_server: str) -> None:
    assert open_store("s3://bucket/a#b?c%20d/").address("key") == "s3://bucket/a#b?c%20d/key"


def test_a_path_and_its_file_url_are_the_same_store(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    open_store(str(folder)).put("key", b"data")
    assert open_store(folder.as_uri()).get("key", LARGEST_DOCUMENT).data == b"data"


@pytest.mark.parametrize("key", ["../out", "a//b", "/abs", ".", "a/../../b", ".retrain/x", ""])
def test_no_key_leaves_a_local_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        LocalStore(tmp_path).put(key, b"data")


@pytest.mark.parametrize("prefix", ["../", "/", "a/../../b"])
def test_no_listing_leaves_a_local_store(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "out").write_bytes(b"")
    store = LocalStore(tmp_path / "store")
    with suppress(ValueError):
        assert not list(store.list(prefix))


def test_a_folder_that_cannot_be_listed_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    LocalStore(tmp_path).put("a/b/key", b"data")
    scandir = os.scandir

    def denying(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder.name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    with patch("os.scandir", denying), pytest.raises(StoreError, match=r"cannot list .*a/b: Permission denied"):
        list(LocalStore(tmp_path).list("a/"))


KEYS = st.sets(st.lists(st.sampled_from(["a", "a-", "a.b", "a0", "b", "é"]), min_size=1, max_size=3).map("/".join))


@given(KEYS, st.sampled_from(["", "a", "a/", "a-", "a/a", "a/a.b/", "é", "c/", "a/b/a0/"]))
def test_a_local_listing_is_that_of_a_bucket_with_the_same_keys(keys: set[str], prefix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = set()
        for key in keys:
            path = Path(folder, key)
            with suppress(OSError):  # a folder cannot be a file too
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"data")
                written.add(key)
        found = [entry.key for entry in LocalStore(Path(folder)).list(prefix)]
    assert found == sorted(key for key in written if key.startswith(prefix))


# What is a link in the store, and what it points to, below `outside`.
LINKS = {"a file": ("a/key", "key"), "a folder": ("a", "."), "nothing": ("a/key", "no"), "no folder": ("a", "no")}
USES: dict[str, Callable[[LocalStore], object]] = {
    "get": lambda store: store.get("a/key", 99),
    "etag": lambda store: store.etag("a/key"),
    "put": lambda store: store.put("a/key", b"data"),
    "put_once": lambda store: store.put_once("a/key", b"data"),
    "compare_and_swap": lambda store: store.compare_and_swap("a/key", b"data", hashlib.sha256(b"theirs").hexdigest()),
    "list": lambda store: list(store.list("a/")),
    "list all": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("a/key"),
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("use", USES)
def test_no_link_below_the_root_of_a_local_store_is_followed(link: str, use: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "store", tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_bytes(b"theirs")
    at_fault = root / LINKS[link][0]
    at_fault.parent.mkdir(parents=True)
    at_fault.symlink_to(outside / LINKS[link][1])
    with pytest.raises(StoreError) as caught:
        USES[use](LocalStore(root))
    assert str(caught.value).startswith(f"cannot use {at_fault}: it is a symbolic link, and below its root a store")
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"key": b"theirs"}
    assert at_fault.is_symlink()
    assert not list(root.glob(".retrain/*.tmp"))


def test_a_link_elsewhere_in_a_local_store_is_not_looked_at(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/key", b"data")
    (tmp_path / "b").symlink_to("nowhere")
    assert [entry.key for entry in store.list("a/")] == ["a/key"]
    assert store.get("a/key", 4).data == b"data"


def test_the_root_of_a_local_store_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "store")
    check(store)
    store.put("a/key", b"data")
    assert [entry.key for entry in store.list("")] == ["a/key"]
    assert (tmp_path / "disk/a/key").read_bytes() == b"data"


def test_links_among_the_private_files_of_a_local_store_are_refused(tmp_path: Path) -> None:
    store, outside = LocalStore(tmp_path / "store"), tmp_path / "outside"
    store.put("key", b"data")
    (lock,) = (tmp_path / "store/.retrain").glob("*.lock")
    lock.unlink()
    lock.symlink_to(outside)
    with pytest.raises(StoreError, match=rf"cannot use {lock}: it is a symbolic link"):
        store.put("key", b"other")
    shutil.rmtree(lock.parent)
    lock.parent.symlink_to(outside)
    with pytest.raises(StoreError, match=rf"cannot use {lock.parent}: it is a symbolic link"):
        store.put("key", b"other")
    with pytest.raises(StoreError, match=rf"cannot use {lock.parent}: it is a symbolic link"):
        store.delete("key")
    assert not outside.exists()
    assert store.get("key", 4).data == b"data"


def test_a_pipe_in_a_local_store_is_one_line_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    with pytest.raises(StoreError, match="it is no regular file"):
        LocalStore(tmp_path).get("key", 99)


@contextmanager
def flooding(announced: int | None, most: int = 1 << 30) -> Iterator[list[int]]:
    """An S3 server whose objects are a gigabyte, announced as this or not at all; what it could send of each."""
    sent: list[int] = []

    def serve(listener: socket.socket) -> None:
        length = "" if announced is None else f"Content-Length: {announced}\r\n"
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                sent.append(0)
                with connection, suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(f'HTTP/1.1 200 OK\r\nETag: "a"\r\n{length}Connection: close\r\n\r\n'.encode())
                    while sent[-1] < most:
                        sent[-1] += connection.send(bytes(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        endpoint = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        try:
            with patch.dict(os.environ, s3.SETTINGS | endpoint):
                yield sent
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


READ = """
import resource
from tasks.errors import ObjectTooLarge
from tasks.storage import open_store
store = open_store("s3://bucket")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    store.get("key", 100_000)
except ObjectTooLarge as error:
    print(error)
store.etag("key")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("announced", "why"), [(1 << 30, "it has 1,073,741,824 bytes, and"), (None, "more than the 100,000 bytes")]
)
def test_a_gigabyte_that_a_server_sends_is_not_read(announced: int | None, why: str) -> None:
    with flooding(announced) as sent:
        done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message, grown = done.stdout.splitlines()
    assert message.startswith(f"cannot read s3://bucket/key: {why}")
    assert int(grown) < 20_000, "KiB"
    assert len(sent) == 2, "one for each request"
    assert max(sent) < 50_000_000, "what fits between the two"


def test_files_of_a_local_store_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        LocalStore(tmp_path).put("key", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_writer_left_is_never_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("key", b"data")
    (tmp_path / ".retrain" / "left.tmp").write_bytes(b"da")
    assert [entry.key for entry in store.list("")] == ["key"]


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
        ({"AWS_ENDPOINT_URL_S3": "https://127.0.0.1:9"}, "Check the network, AWS_ENDPOINT_URL_S3"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "Check the network, AWS_ENDPOINT_URL_S3"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials"),
    ],
)
def test_a_store_that_cannot_work_says_why_before_any_work(bucket: str, settings: dict[str, str], why: str) -> None:
    environment = {name: value for name, value in (os.environ | settings).items() if value}
    with patch.dict(os.environ, environment, clear=True), patch("tasks.storage.s3.CONFIG", _fail_fast()):
        store = open_store(bucket)
        with pytest.raises(StoreError, match=why):
            check(store)


def _fail_fast() -> Config:
    return CONFIG.merge(Config(retries={"total_max_attempts": 1}, connect_timeout=1))


@contextmanager
def answering(*replies: s3.Reply) -> Iterator[tuple[ObjectStore, list[s3.Request]]]:
    """A store whose server gives these answers, and the requests that it got."""
    with s3.scripted(list(replies)) as requests, patch("tasks.storage.s3.CONFIG", _fail_fast()):
        yield open_store("s3://bucket"), requests


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (403, "AccessDenied", r"access is denied\. Grant s3:PutObject on the prefix"),
        (400, "ExpiredToken", r"token has expired\. Log in again"),
        (403, "InvalidAccessKeyId", "does not know the access key. Check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "Check AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", r"clock is wrong\. Set the clock"),
        (404, "NoSuchBucket", r"the bucket does not exist\. Create it"),
        (400, "AuthorizationHeaderMalformed", "in another region. Set AWS_DEFAULT_REGION"),
        (418, "Teapot", "the server answered 418 .*said the server"),
    ],
)
def test_what_a_server_refuses_is_one_line_with_the_next_step(status: int, code: str, why: str) -> None:
    with answering(s3.failure(status, code)) as (store, _), pytest.raises(StoreError, match=why) as caught:
        check(store)
    assert str(caught.value).startswith("cannot write s3://bucket/probe/")
    assert "\n" not in str(caught.value)


def test_a_read_that_is_denied_may_be_a_missing_object() -> None:
    denied = s3.failure(403, "AccessDenied")
    with answering(denied) as (store, _), pytest.raises(StoreError, match="or the object is missing: without s3:List"):
        store.get("key", LARGEST_DOCUMENT)


def test_an_answer_that_is_no_s3_is_one_line(s3_server: str) -> None:
    with answering(s3.Reply(200, b"<html>Log in<br></html>")) as (store, _), pytest.raises(StoreError, match="list"):
        list(store.list("key"))


@pytest.mark.parametrize(
    "settings",
    [{"AWS_PROFILE": "nobody"}, {"AWS_ENDPOINT_URL_S3": "storage.example.org"}, {"AWS_DEFAULT_REGION": "no region"}],
)
def test_aws_settings_that_cannot_be_used_are_a_usage_error(s3_server: str, settings: dict[str, str]) -> None:
    with patch.dict(os.environ, settings), pytest.raises(UsageError, match="cannot use the AWS settings"):
        open_store("s3://bucket")


def test_a_body_that_breaks_off_is_asked_for_again() -> None:
    with answering(s3.Reply(200, b"hal", 4), s3.Reply(200, b"half")) as (store, requests):
        assert store.get("key", LARGEST_DOCUMENT).data == b"half"
    assert len(requests) == 2


def test_a_body_that_breaks_off_for_ever_is_an_error() -> None:
    with (
        answering(s3.Reply(200, b"hal", 4)) as (store, _),
        pytest.raises(StoreError, match="broke off 4 times"),
        patch("time.sleep"),
    ):
        store.get("key", LARGEST_DOCUMENT)


AMBIGUOUS = [s3.failure(412, "PreconditionFailed"), s3.failure(500, "InternalError"), s3.failure(503, "SlowDown")]


@pytest.mark.parametrize("answer", AMBIGUOUS)
def test_a_conditional_write_that_landed_counts_whatever_was_answered(answer: s3.Reply) -> None:
    with answering(answer, s3.Reply(200, b"mine")) as (store, requests):
        store.compare_and_swap("key", b"mine", '"old"')
    assert [request.method for request in requests] == ["PUT", "GET"]


@pytest.mark.parametrize(("answer", "error"), list(zip(AMBIGUOUS, (KeyConflict, StoreError, StoreError), strict=True)))
def test_a_conditional_write_that_did_not_land_is_an_error(answer: s3.Reply, error: type[StoreError]) -> None:
    with answering(answer, s3.Reply(200, b"another's")) as (store, _), pytest.raises(StoreError) as caught:
        store.put_once("key", b"mine")
    assert type(caught.value) is error
    assert str(caught.value).startswith("cannot write")


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "XAmzContentSHA256Mismatch"])
def test_a_write_that_the_server_wants_again_is_sent_again(code: str) -> None:
    with answering(s3.failure(409, code), s3.Reply(200)) as (store, requests):
        store.put_once("key", b"mine")
    assert [request.headers["if-none-match"] for request in requests] == ["*", "*"]


def test_a_write_is_signed_whole_and_carries_its_sha256(s3_server: str) -> None:
    with answering(s3.Reply(200)) as (store, requests):
        store.compare_and_swap("key", b"data", '"old"')
    ((method, path, headers),) = requests
    digest = hashlib.sha256(b"data")
    assert (method, path) == ("PUT", "/bucket/key")
    assert headers["x-amz-checksum-sha256"] == base64.b64encode(digest.digest()).decode()
    assert headers["x-amz-content-sha256"] == digest.hexdigest()
    assert headers["if-match"] == '"old"'
    assert not {"x-amz-trailer", "content-md5", "x-amz-acl", "transfer-encoding"} & headers.keys()
    assert "aws-chunked" not in headers.get("content-encoding", "")


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


def _delete(store: LocalStore) -> None:
    store.delete("key")


def _count_up(url: str, number: int) -> int:
    store, done = open_store(url), 0
    while done < 25:
        seen = store.get("counter", LARGEST_DOCUMENT)
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
    assert open_store(str(tmp_path)).get("counter", LARGEST_DOCUMENT).data.split()[0] == b"100"


@pytest.mark.parametrize(("change", "left"), [(lambda store: store.put("key", b"later"), [5]), (_delete, [])])
def test_what_comes_amid_a_swap_of_a_local_key_waits_for_its_end(
    tmp_path: Path, change: Callable[[LocalStore], None], left: list[int]
) -> None:
    store = LocalStore(tmp_path)
    store.put("key", b"first")
    other = threading.Thread(target=change, args=[LocalStore(tmp_path)])

    def tag(key: str) -> str:
        seen = store.etag(key)
        other.start()
        other.join(0.2)
        return seen

    with patch.object(store, "_tag", tag):
        store.compare_and_swap("key", b"swapped", store.etag("key"))
    other.join()
    assert [entry.size for entry in store.list("")] == left
