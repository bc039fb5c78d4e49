"""The bytes that the S3 store sends over TLS, and its result for every kind of answer, or for none."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from botocore.config import Config

from tasks.errors import KeyConflict, KeyMissing, NotOffered, StoreError, UsageError
from tasks.storage import ObjectStore, open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.storage.probe import check
from tasks.storage.s3 import ATTEMPTS, CONFIG, FIRST_ANSWER, SMALL, client
from tests import s3, tls
from tests.faults.proxy import Conditions, proxying
from tests.s3 import Reply, failure

ONCE = Config(retries={"total_max_attempts": 1}, connect_timeout=1)

# Headers without a meaning of their own for the store. No others are sent: no ACL, tags, encryption, MD5 or trailer.
PLAIN = {
    "accept-encoding",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "authorization",
    "content-length",
    "expect",
    "host",
    "user-agent",
    "x-amz-date",
}


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tls.certificate(tmp_path_factory.mktemp("tls"))


@contextmanager
def connected(
    pem: Path, *acts: tls.Act, config: Config = ONCE, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[ObjectStore, list[tls.Sent]]]:
    """A store whose server acts so, over TLS, and what the server got; `config` and `settings` change the store's."""
    with (
        tls.recording(pem, acts) as sent,
        patch.dict(os.environ, settings or {}),
        patch("tasks.storage.s3.CONFIG", CONFIG.merge(config)),
    ):
        yield open_store("s3://bucket/a prefix"), sent


def page(*keys: str, more: str = "<IsTruncated>false</IsTruncated>") -> Reply:
    """One page of a listing."""
    stamp = "<Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
    items = "".join(f"<Contents><Key>a prefix/{key}</Key>{stamp}</Contents>" for key in keys)
    return Reply(200, f"<ListBucketResult>{more}{items}</ListBucketResult>".encode())


def followed_by(token: str) -> str:
    return f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"


def differences(request: tls.Sent, data: bytes = b"", **conditions: str) -> set[str]:
    """Differences from the expected request: names of headers that are wrong, missing or too many, and `body`."""
    digest = hashlib.sha256(data)
    due = {"x-amz-content-sha256": digest.hexdigest()} | conditions
    if request.line.startswith("PUT"):
        due["content-length"] = str(len(data))
        due["x-amz-checksum-sha256"] = base64.b64encode(digest.digest()).decode()
    wrong = {name for name in due if request.headers.get(name) != due[name]}
    too_many = request.headers.keys() - due.keys() - PLAIN
    return wrong | too_many | ({"body"} if request.body != data else set())


UNSIGNED = "[default]\ns3 =\n  payload_signing_enabled = false\n"
ALL_CHECKSUMS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_supported",
}


@pytest.mark.parametrize("data", [b"", bytes(range(256)) * 5000])
@pytest.mark.parametrize("settings", [{}, ALL_CHECKSUMS])
def test_a_request_is_the_data_and_its_signature_whatever_the_user_s_settings(
    pem: Path, tmp_path: Path, data: bytes, settings: dict[str, str]
) -> None:
    (tmp_path / "config").write_text(UNSIGNED)
    settings = settings | ({"AWS_CONFIG_FILE": str(tmp_path / "config")} if settings else {})
    acts = [Reply(200)] * 3 + [Reply(200, data), page(), Reply(204)]
    with connected(pem, *acts, settings=settings) as (store, sent):
        store.put("a+key", data)
        store.put_once("key", data)
        store.compare_and_swap("key", data, '"quoted"')
        assert store.get("key", LARGEST_DOCUMENT).data == data
        assert not list(store.list("key"))
        store.delete("key")
    put, once, swap, get, listing, delete = sent
    assert not differences(put, data)
    assert not differences(once, data, **{"if-none-match": "*"})
    assert not differences(swap, data, **{"if-match": '"quoted"'})
    assert not differences(get) | differences(listing) | differences(delete)
    assert put.line == "PUT /bucket/a%20prefix/a%2Bkey HTTP/1.1"
    assert listing.line == "GET /bucket?list-type=2&prefix=a%20prefix%2Fkey&encoding-type=url HTTP/1.1"


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        (Config(response_checksum_validation="when_supported"), [set(), {"x-amz-checksum-mode"}]),
        (Config(s3={"payload_signing_enabled": False}), [{"x-amz-content-sha256"}] * 2),
    ],
)
def test_a_setting_left_out_would_be_seen_on_the_wire(pem: Path, config: Config, seen: list[set[str]]) -> None:
    with connected(pem, Reply(200), Reply(200, b"data"), config=config) as (store, sent):
        store.put("key", b"data")
        store.get("key", LARGEST_DOCUMENT)
    assert [differences(sent[0], b"data"), differences(sent[1])] == seen


FRAME = {"body", "content-length", "content-encoding", "transfer-encoding", "x-amz-decoded-content-length"}
TRAILER = {"x-amz-trailer", "x-amz-checksum-sha256", "x-amz-content-sha256", "x-amz-sdk-checksum-algorithm"}


@pytest.mark.parametrize(
    ("config", "seen"),
    [(Config(), {"x-amz-checksum-sha256"}), (Config(request_checksum_calculation="when_supported"), FRAME | TRAILER)],
)
def test_a_frame_around_data_without_a_checksum_would_be_seen_on_the_wire(
    pem: Path, config: Config, seen: set[str]
) -> None:
    with connected(pem, Reply(200), config=config, settings=ALL_CHECKSUMS) as (_, sent):
        client().put_object(Bucket="bucket", Key="key", Body=b"data")
    assert differences(sent[0], b"data") == seen


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("models/mnist/index.html", "text/html; charset=utf-8"),
        ("runs/x/report.json", "application/json"),
        ("models/mnist/versions/1/model.keras", None),
        ("a.html/no-page", None),
    ],
)
def test_a_page_in_a_bucket_is_shown_by_a_browser(pem: Path, key: str, kind: str | None) -> None:
    with connected(pem, *[Reply(200)] * 3) as (store, sent):
        store.put(key, b"data")
        store.put_once(key, b"data")
        store.compare_and_swap(key, b"data", "tag")
    assert [request.headers.get("content-type") for request in sent] == [kind] * 3


def test_a_tag_goes_over_the_wire_as_it_is_given(pem: Path) -> None:
    with connected(pem, Reply(200)) as (store, sent):
        store.compare_and_swap("key", b"data", "no quotes")
    assert sent[0].headers["if-match"] == "no quotes"


def error_of(store: ObjectStore, verb: str = "write") -> str:
    """The error of a failing request without its first part; checks that it is one line."""
    requests: dict[str, Callable[[], object]] = {
        "write": lambda: store.put("key", b"data"),
        "read": lambda: store.get("key", LARGEST_DOCUMENT),
        "list": lambda: list(store.list("key")),
        "delete": lambda: store.delete("key"),
    }
    with pytest.raises(StoreError) as caught:
        requests[verb]()
    what, message = f"cannot {verb} s3://bucket/a prefix/key: ", str(caught.value)
    assert message.startswith(what)
    assert "\n" not in message
    return message.removeprefix(what)


CHECK_TLS, CHECK_NETWORK = "Check AWS_ENDPOINT_URL_S3 and AWS_CA_BUNDLE.", "Check the network, AWS_ENDPOINT_URL_S3"


def test_a_certificate_of_an_unknown_authority_is_refused(pem: Path) -> None:
    with connected(pem, Reply(200)) as (_, sent), patch.dict(os.environ):
        del os.environ["AWS_CA_BUNDLE"]
        message = error_of(open_store("s3://bucket/a prefix"))
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    assert message.startswith(f"the certificate of {endpoint} is not trusted: self")
    assert message.endswith(". Set AWS_CA_BUNDLE to the certificates of its authority.")
    assert not sent


@pytest.mark.parametrize(("since", "until", "why"), [(-9, -2, "has expired"), (2, 9, "is not yet valid")])
def test_a_certificate_of_another_day_names_the_clock(tmp_path: Path, since: int, until: int, why: str) -> None:
    with connected(tls.certificate(tmp_path, since, until), Reply(200)) as (store, sent):
        message = error_of(store)
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    assert message.startswith(
        f"the certificate of {endpoint} is not valid now: certificate {why}. Check this machine's"
    )
    assert f"clock, which says {datetime.now(UTC):%Y-%m-%d}" in message
    assert not sent


def moved(endpoint: str) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_S3": endpoint}


def test_a_certificate_for_another_host_is_refused(pem: Path) -> None:
    with connected(pem, Reply(200)) as (_, sent):
        elsewhere = os.environ["AWS_ENDPOINT_URL_S3"].replace("localhost", "127.0.0.1")
        with patch.dict(os.environ, moved(elsewhere)):
            message = error_of(open_store("s3://bucket/a prefix"))
    assert message.startswith(f"the certificate of {elsewhere} is not trusted: ")
    assert "127.0.0.1" in message.removeprefix(f"the certificate of {elsewhere}")
    assert not sent


def test_a_missing_file_of_certificates_is_not_the_server_s_fault(pem: Path) -> None:
    with connected(pem, Reply(200), settings={"AWS_CA_BUNDLE": "/no/such/file"}) as (store, _):
        assert error_of(store).endswith(f": No such file or directory. {CHECK_TLS}")


def test_a_server_without_tls_is_not_taken_for_one_with_a_bad_certificate() -> None:
    with s3.scripted([Reply(200)]), patch("tasks.storage.s3.CONFIG", CONFIG.merge(ONCE)):
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"].replace("http:", "https:")
        with patch.dict(os.environ, moved(endpoint)):
            message = error_of(open_store("s3://bucket/a prefix"))
    assert message.startswith(f"no TLS with {endpoint}: ")
    assert message.endswith(CHECK_TLS)


@pytest.fixture
def refusing() -> str:
    """An endpoint where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"https://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def busy() -> Iterator[str]:
    """An endpoint that accepts no more connections."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield f"https://127.0.0.1:{full.getsockname()[1]}"
        for one in waiting:
            one.close()


def unreached(endpoint: str) -> str:
    with patch.dict(os.environ, s3.SETTINGS | moved(endpoint)), patch("tasks.storage.s3.CONFIG", CONFIG.merge(ONCE)):
        return error_of(open_store("s3://bucket/a prefix"))


def test_an_endpoint_that_refuses_is_named(refusing: str) -> None:
    assert unreached(refusing).startswith(f"{refusing} cannot be reached: Connection refused. {CHECK_NETWORK}")


def test_an_endpoint_that_does_not_exist_is_named_and_its_password_is_not() -> None:
    message = unreached("https://user:secret@no-such-host.invalid")
    assert message.startswith("https://no-such-host.invalid cannot be reached: ")
    assert CHECK_NETWORK in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse what Linux lets wait")
def test_an_endpoint_that_does_not_let_in_is_named(busy: str) -> None:
    assert unreached(busy).startswith(f"{busy} cannot be reached: no connection in time. {CHECK_NETWORK}")


@pytest.mark.parametrize("verb", ["write", "read", "list", "delete"])
@pytest.mark.parametrize(
    ("act", "why"), [("hang", "did not answer in time"), ("drop", "closed the connection without an answer")]
)
def test_an_endpoint_that_gives_no_answer_is_named(pem: Path, verb: str, act: tls.Act, why: str) -> None:
    with connected(pem, act, config=ONCE.merge(Config(read_timeout=0.5))) as (store, _):
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
        assert error_of(store, verb).startswith(f"{endpoint} {why}. {CHECK_NETWORK}")


def test_an_endpoint_that_never_answered_costs_a_minute_and_one_that_did_has_more_time(pem: Path) -> None:
    patient = ONCE.merge(Config(read_timeout=1.5))
    with patch("tasks.storage.s3.FIRST_ANSWER", 0.3), connected(pem, "hang", config=patient) as (store, _):
        assert seconds_of(lambda: error_of(store)) < 1
        assert seconds_of(lambda: error_of(store, "list")) < 1
        with pytest.raises(StoreError):
            assert seconds_of(lambda: store.put("key", bytes(SMALL + 1))) > 1.5, "it may take this long to store it"
    with patch("tasks.storage.s3.FIRST_ANSWER", 0.3), connected(pem, page(), "hang", config=patient) as (store, _):
        list(store.list(""))
        assert seconds_of(lambda: error_of(store)) > 1.5
    assert 4 * FIRST_ANSWER + 7 <= 63, "four attempts, and the longest waits between them"


def seconds_of(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@pytest.mark.parametrize("act", [Reply(503), "drop"])
def test_a_request_without_a_good_answer_is_made_four_times(pem: Path, act: tls.Act) -> None:
    fewer = {"AWS_MAX_ATTEMPTS": "1", "AWS_RETRY_MODE": "legacy"}
    with connected(pem, act, config=Config(), settings=fewer) as (store, sent):
        error_of(store)
        assert len(sent) == 4
        error_of(store, "list")
    assert len(sent) == 8


@pytest.mark.parametrize(
    ("settings", "tried"), [("", "https://storage.invalid"), ("virtual", "https://bucket.storage.invalid")]
)
def test_a_bucket_is_part_of_the_path_unless_the_settings_want_it_in_the_host(
    tmp_path: Path, settings: str, tried: str
) -> None:
    file = tmp_path / "config"
    file.write_text(f"[default]\ns3 =\n  addressing_style = {settings}\n" if settings else "")
    with patch.dict(s3.SETTINGS, AWS_CONFIG_FILE=str(file)):
        assert unreached("https://storage.invalid").startswith(f"{tried} cannot be reached: ")


ABROAD = moved("http://storage.example.org")


def test_an_endpoint_without_encryption_is_refused_with_the_way_to_allow_it() -> None:
    with patch.dict(os.environ, s3.SETTINGS | ABROAD), pytest.raises(UsageError, match="give --allow-http"):
        open_store("s3://bucket")


@pytest.mark.parametrize(("value", "allowed"), [("1", True), ("true", True), ("TRUE", True), ("0", False), ("", False)])
def test_an_endpoint_without_encryption_can_be_allowed(value: str, allowed: bool) -> None:
    with patch.dict(os.environ, s3.SETTINGS | ABROAD | {"RETRAIN_ALLOW_HTTP": value}):
        if allowed:
            assert open_store("s3://bucket").url == "s3://bucket"
        else:
            with pytest.raises(UsageError, match="not encrypted"):
                open_store("s3://bucket")


@pytest.mark.parametrize(
    "endpoint", ["http://localhost:9", "http://127.0.0.1:9", "http://127.1.2.3:9", "http://[::1]:9"]
)
def test_an_endpoint_on_this_machine_needs_no_encryption(endpoint: str) -> None:
    with patch.dict(os.environ, s3.SETTINGS | moved(endpoint)):
        assert open_store("s3://bucket").url == "s3://bucket"


@pytest.mark.parametrize("denial", [failure(403, "AccessDenied"), Reply(403)])
@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("write", "access is denied. Grant s3:PutObject on the prefix."),
        ("list", "access is denied. Grant s3:ListBucket on the bucket."),
        ("delete", "access is denied. Grant s3:DeleteObject on the prefix."),
        (
            "read",
            "access is denied, or the object is missing: without s3:ListBucket the server does not tell which. "
            "Grant s3:GetObject on the prefix and s3:ListBucket on the bucket.",
        ),
    ],
)
def test_a_denial_names_the_permission_that_the_request_needs(
    pem: Path, denial: Reply, verb: str, message: str
) -> None:
    with connected(pem, denial) as (store, _):
        assert error_of(store, verb) == message


def named(permission: str) -> Reply:
    """How AWS denies."""
    who = f"User: arn:aws:iam::1:user/x is not authorized to perform: {permission} on resource: &quot;arn&quot;"
    return Reply(403, f"<Error><Code>AccessDenied</Code><Message>{who}</Message></Error>".encode())


@pytest.mark.parametrize(
    ("verb", "permission", "message"),
    [
        ("read", "s3:GetObject", "access is denied. Grant s3:GetObject."),
        ("read", "s3:ListBucket", "the server does not tell which. Grant s3:ListBucket."),
        ("write", "kms:GenerateDataKey", "access is denied. Grant kms:GenerateDataKey."),
    ],
)
def test_a_denial_that_names_the_permission_is_believed(pem: Path, verb: str, permission: str, message: str) -> None:
    with connected(pem, named(permission)) as (store, _):
        assert error_of(store, verb).endswith(message)


CLOCK = "this machine's clock is wrong. Set the clock, for example with NTP."
FULL = "the store is full, or its quota is used up. Free space, for example with `retrain gc`, or raise the quota."
TOO_LARGE = "the object is larger than the server, or a proxy before it, accepts. Raise that limit."
NO_BUCKET = "the bucket does not exist. Create it, or correct --store."
NO_BUCKET_OR_NO_S3 = "there is no such bucket, or this is no S3 server. Check --store and AWS_ENDPOINT_URL_S3."


@pytest.mark.parametrize(
    ("verb", "answer", "message"),
    [
        (
            "write",
            failure(400, "RequestExpired"),
            CLOCK,
        ),
        (
            "read",
            failure(403, "RequestTimeTooSkewed"),
            CLOCK,
        ),
        ("list", failure(400, "ExpiredToken"), "the session token has expired. Log in again for fresh credentials."),
        ("read", failure(404, "NoSuchBucket"), NO_BUCKET),
        ("list", failure(404, "NoSuchBucket"), NO_BUCKET),
        ("delete", failure(404, "NoSuchBucket"), NO_BUCKET),
        ("write", Reply(404), NO_BUCKET_OR_NO_S3),
        ("list", Reply(404), NO_BUCKET_OR_NO_S3),
        ("write", failure(507, "XMinioStorageFull"), FULL),
        ("write", failure(400, "XMinioAdminBucketQuotaExceeded"), FULL),
        ("write", failure(403, "QuotaExceeded"), FULL),
        ("write", Reply(507), FULL),
        ("write", Reply(403, b"<Error><Code>AccessDenied</Code><Message>Quota reached</Message></Error>"), FULL),
        ("write", failure(400, "EntityTooLarge"), TOO_LARGE),
        ("write", Reply(413, b"<html><center>413 Request Entity Too Large</center></html>"), TOO_LARGE),
        (
            "write",
            failure(400, "Odd"),
            "the server answered 400 Odd said the server. See the server's log, or try again.",
        ),
        ("write", Reply(502), "the server answered 502 Bad Gateway. See the server's log, or try again."),
    ],
)
def test_what_a_server_answers_is_one_line_with_the_next_step(
    pem: Path, verb: str, answer: Reply, message: str
) -> None:
    with connected(pem, answer) as (store, _):
        assert error_of(store, verb) == message


@pytest.mark.parametrize("answer", [Reply(404), failure(404, "NoSuchKey")])
def test_a_missing_object_is_no_failure_to_a_read_and_nothing_to_a_delete(pem: Path, answer: Reply) -> None:
    with connected(pem, answer) as (store, _):
        with pytest.raises(KeyMissing):
            store.get("key", LARGEST_DOCUMENT)
        store.delete("key")


CONDITIONAL: list[Callable[[ObjectStore], None]] = [
    lambda store: store.put_once("key", b"mine"),
    lambda store: store.compare_and_swap("key", b"mine", '"tag"'),
]
UNKNOWN = [
    Reply(501),
    Reply(405),
    failure(501, "NotImplemented"),
    failure(501, "Odd"),
    failure(400, "NotImplemented"),
    failure(400, "InvalidArgument"),
    failure(400, "InvalidRequest"),
    failure(405, "MethodNotAllowed"),
]


@pytest.mark.parametrize("write", CONDITIONAL)
@pytest.mark.parametrize("answer", UNKNOWN)
def test_a_condition_that_a_server_does_not_know_is_told_from_one_that_does_not_hold(
    pem: Path, answer: Reply, write: Callable[[ObjectStore], None]
) -> None:
    message = rf"does not know this condition: it answered {answer.status} .*`retrain doctor`"
    with connected(pem, answer, Reply(200, b"another's")) as (store, _), pytest.raises(NotOffered, match=message):
        write(store)
    with connected(pem, answer, Reply(200, b"mine")) as (store, _):
        write(store)


@pytest.mark.parametrize("answer", UNKNOWN)
def test_without_a_condition_it_is_an_answer_like_any_other(pem: Path, answer: Reply) -> None:
    with connected(pem, answer) as (store, _):
        assert error_of(store).startswith(f"the server answered {answer.status} ")
        with pytest.raises(StoreError) as caught:
            store.put("key", b"data")
    assert type(caught.value) is StoreError


@pytest.mark.parametrize("write", CONDITIONAL)
@pytest.mark.parametrize("answer", [failure(400, "MalformedXML"), failure(403, "AccessDenied"), Reply(500)])
def test_a_conditional_write_that_fails_otherwise_says_nothing_of_conditions(
    pem: Path, answer: Reply, write: Callable[[ObjectStore], None]
) -> None:
    with connected(pem, answer) as (store, _), pytest.raises(StoreError) as caught:
        write(store)
    assert type(caught.value) is StoreError


@pytest.mark.parametrize("conditions", ["as they are", "refused", "ignored", "unquoted only"])
def test_a_server_that_refuses_checksums_gets_none(bucket: str, s3_server: str, conditions: Conditions) -> None:
    with proxying(s3_server, conditions) as proxy:
        expected = check(open_store(bucket))
        proxy.unknown_header = "x-amz-checksum-sha256"
        proxy.requests.clear()
        store = open_store(bucket)
        assert check(store) == expected
        store.put("key", b"data")
        assert store.get("key", LARGEST_DOCUMENT).data == b"data"
        assert [request.status for request in proxy.requests].count(400) == 1


@pytest.mark.parametrize("write", CONDITIONAL)
def test_a_conflict_shows_that_the_checksum_was_refused_and_not_the_condition(
    pem: Path, write: Callable[[ObjectStore], None]
) -> None:
    acts = [failure(400, "InvalidArgument"), failure(412, "PreconditionFailed"), Reply(200, b"another's"), Reply(200)]
    with connected(pem, *acts) as (store, sent):
        with pytest.raises(KeyConflict):
            write(store)
        store.put("key", b"data")
    assert ["x-amz-checksum-sha256" in request.headers for request in sent] == [True, False, False, False]


def test_a_server_that_took_a_checksum_is_asked_once_only(pem: Path) -> None:
    with connected(pem, Reply(200), failure(400, "InvalidArgument")) as (store, sent):
        store.put("key", b"data")
        assert error_of(store).startswith("the server answered 400 InvalidArgument")
    assert len(sent) == 2


def test_only_what_should_have_been_replaced_can_be_missing(pem: Path) -> None:
    create, swap = CONDITIONAL
    with connected(pem, Reply(404)) as (store, _):
        with pytest.raises(KeyConflict, match="was deleted"):
            swap(store)
        with pytest.raises(StoreError, match="no such bucket") as caught:
            create(store)
    assert type(caught.value) is StoreError


@pytest.mark.parametrize("write", CONDITIONAL)
def test_a_conditional_write_whose_answer_was_lost_counts(pem: Path, write: Callable[[ObjectStore], None]) -> None:
    lost: tuple[tls.Act, ...] = ("drop", failure(412, "PreconditionFailed"), Reply(200, b"mine"))
    with connected(pem, *lost, config=Config()) as (store, sent):
        write(store)
    assert [request.line.split()[0] for request in sent] == ["PUT", "PUT", "GET"]


@pytest.mark.parametrize("code", ["IncompleteBody", "BadDigest", "XAmzContentChecksumMismatch", "OperationAborted"])
def test_data_that_was_altered_on_the_way_is_sent_again(pem: Path, code: str) -> None:
    with connected(pem, failure(400, code), Reply(200)) as (store, sent):
        store.put("key", b"data")
    assert [request.body for request in sent] == [b"data", b"data"]


NO_LISTING = [
    Reply(200, b"", 100),
    Reply(200, b"<html>Log in</html>"),
    page("1", more="<IsTruncated>true</IsTruncated>"),
]


@pytest.mark.parametrize("broken", [*NO_LISTING, Reply(200, b"<ListBucketRes", 100), Reply(503), "drop"])
def test_a_listing_that_breaks_off_midway_is_asked_for_again(pem: Path, broken: tls.Act) -> None:
    acts = [page("1", more=followed_by("two")), broken, page("2", more=followed_by("three")), page("3")]
    with connected(pem, *acts, config=Config()) as (store, sent), patch("time.sleep"):
        assert [entry.key for entry in store.list("")] == ["1", "2", "3"]
    tokens = [request.line.partition("continuation-token=")[2].partition("&")[0] for request in sent]
    assert tokens == ["", "two", "two", "three"]


@pytest.mark.parametrize("broken", NO_LISTING)
def test_what_is_not_a_whole_listing_is_never_taken_for_one(pem: Path, broken: Reply) -> None:
    with connected(pem, broken) as (store, sent), patch("time.sleep"):
        assert error_of(store, "list").startswith("the answer is not that of an S3 server: it is not a whole listing")
    assert len(sent) == ATTEMPTS


def test_a_listing_that_turns_in_a_circle_ends(pem: Path) -> None:
    with connected(pem, page("1", more=followed_by("one"))) as (store, _), patch("time.sleep"):
        assert "not a whole listing" in error_of(store, "list")


def test_keys_of_a_listing_are_decoded(pem: Path) -> None:
    encoded = page("a%2Bb%20c%25", more="<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>")
    with connected(pem, encoded, page("a%2Bb")) as (store, _):
        assert [entry.key for entry in store.list("")] == ["a+b c%"]
        assert [entry.key for entry in store.list("")] == ["a%2Bb"]


def test_an_object_without_a_tag_comes_from_no_s3_server(pem: Path) -> None:
    with connected(pem, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nLog in") as (store, _):
        assert error_of(store, "read").startswith("the answer is not that of an S3 server: it has no ETag. Check AWS_")
