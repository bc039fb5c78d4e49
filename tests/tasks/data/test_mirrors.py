from __future__ import annotations

import errno
import gzip
import io
import os
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from tasks.data import idx
from tasks.data.datasets import DIGITS, MNIST
from tasks.data.mirrors import RetryPolicy, fetch
from tasks.errors import DownloadError, MirrorsUnreachable
from tests import tls
from tests.mirrors import Answer, Contents, gzipped, serving, small_mnist, spec_for
from tests.s3 import Reply

CONTENTS = small_mnist(train=40, test=20)
SPEC = spec_for(CONTENTS)
IMPATIENT = RetryPolicy(connect=0.5, read=0.5, per_file=1.5, attempts=2, backoff=0.01)
LABELS = "train-labels-idx1-ubyte"


def with_labels(labels: bytes) -> Contents:
    return CONTENTS | {"train_labels": labels}


def keras_npz(**changed: object) -> bytes:
    names = {field: idx.KERAS_NAMES[file.name] for field, file in SPEC.files.items()}
    arrays = {names[field]: idx.decode(CONTENTS[field], field, SPEC.files[field].shape) for field in CONTENTS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **(arrays | changed))  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize(
    "answers",
    [
        gzipped(CONTENTS),
        {MNIST.files[field].name: Answer(content) for field, content in CONTENTS.items()},
    ],
    ids=["gzip", "raw"],
)
def test_a_folder_of_files_is_fetched(answers: dict[str, Answer]) -> None:
    with serving(answers) as mirror:
        fetched = fetch(SPEC, [mirror.url.rstrip("/")], policy=IMPATIENT)
    assert fetched.contents == CONTENTS
    assert fetched.source == mirror.url.rstrip("/")


def test_the_keras_archive_is_fetched_and_gives_the_same_bytes() -> None:
    with serving({"mnist.npz": Answer(keras_npz())}) as mirror:
        assert fetch(SPEC, [f"{mirror.url}mnist.npz"], policy=IMPATIENT).contents == CONTENTS


def test_a_folder_and_an_archive_on_disk_are_mirrors_too(tmp_path: Path) -> None:
    for name, answer in gzipped(CONTENTS).items():
        (tmp_path / name).write_bytes(answer.body)
    (tmp_path / "mnist.npz").write_bytes(keras_npz())
    for mirror in (tmp_path.as_uri(), f"{tmp_path.as_uri()}/mnist.npz"):
        assert fetch(SPEC, [mirror]).contents == CONTENTS


def test_a_bucket_is_a_mirror_too(bucket: str) -> None:
    from tasks.storage import open_store

    for name, answer in gzipped(CONTENTS).items():
        open_store(f"{bucket}/mnist").put(name, answer.body)
    open_store(bucket).put("mnist.npz", keras_npz())
    assert fetch(SPEC, [f"{bucket}/mnist"]).contents == CONTENTS
    assert fetch(SPEC, [f"{bucket}/mnist.npz"]).contents == CONTENTS
    with pytest.raises(DownloadError, match="there is no object"):
        fetch(SPEC, [f"{bucket}/elsewhere"])


def test_the_digits_need_no_mirror() -> None:
    assert fetch(DIGITS, ["https://mirror.invalid/"]).source == "scikit-learn"


def test_progress_is_reported_up_to_the_last_byte() -> None:
    reports: list[tuple[str, int, int | None]] = []
    with serving(gzipped(CONTENTS)) as mirror:
        fetch(SPEC, [mirror.url], lambda *report: reports.append(report), IMPATIENT)
        size = len(mirror.answers[f"{LABELS}.gz"].body)
    assert (f"{LABELS}.gz", size, size) in reports


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(gzip.compress(CONTENTS["train_labels"])[:-10]), "cut off after"),
        (Answer(gzip.compress(b"\x00\x00\x0d\x01" + CONTENTS["train_labels"][4:])), "magic number is 00000d01"),
        (Answer(gzip.compress(idx.encode(np.zeros(39, np.uint8)))), r"shape is \(39,\) instead of \(40,\)"),
        (Answer(gzip.compress(idx.encode(np.full(40, 10, np.uint8)))), "label 10 of image 0"),
        (Answer(gzip.compress(idx.encode(np.zeros(40, np.uint8)))), "SHA-256 [0-9a-f]{12}… instead of"),
        (Answer(gzip.compress(bytes(1_000_000))), "more than the 48 bytes"),
        (Answer(bytes(10_000_000)), "more than the 4,144 bytes that belong there"),
        (Answer(bytes(3000), cut=1000), "the connection broke"),
        (Answer(bytes(100), hang=2), "no answer within 0.5 s"),
        (Answer(bytes(100), drip=0.1), "did not deliver a whole file within 1.5 s"),
        (Answer(status=404), "there is no http"),
        (Answer(status=403), "answered 403"),
        (Answer(status=500), r"answered 500 \(2 attempts\)"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:9/other"}), "redirects to http:.*not https"),
    ],
)
def test_each_way_a_mirror_can_fail_has_its_own_words(answer: Answer, why: str) -> None:
    with (
        serving(gzipped(CONTENTS) | {f"{LABELS}.gz": answer}) as mirror,
        pytest.raises(DownloadError, match=why) as error,
    ):
        fetch(SPEC, [mirror.url], policy=IMPATIENT)
    assert mirror.url in str(error.value)
    assert "--mirror" in str(error.value)
    assert not isinstance(error.value, MirrorsUnreachable)


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (lambda: keras_npz(y_train=np.array([{"a": 1}] * 40)), "pickled object"),
        (lambda: keras_npz(x_test=np.zeros((5000, 5000), np.uint8)), "more than the 15,680 bytes"),
        (lambda: keras_npz(y_test=np.full(20, 10, np.uint8)), "label 10 of image 0"),
    ],
)
def test_a_hostile_archive_is_refused(archive: Callable[[], bytes], why: str) -> None:
    with serving({"mnist.npz": Answer(archive())}) as mirror, pytest.raises(DownloadError, match=why):
        fetch(SPEC, [f"{mirror.url}mnist.npz"], policy=IMPATIENT)


def test_a_transient_failure_is_tried_again() -> None:
    name = f"{LABELS}.gz"
    answers = gzipped(CONTENTS)
    with serving(answers | {name: Answer(answers[name].body, failures=1)}) as mirror:
        assert fetch(SPEC, [mirror.url], policy=IMPATIENT).contents == CONTENTS
    assert mirror.asked.count(name) == 2


@pytest.mark.parametrize("status", [404, 403])
def test_a_lasting_failure_is_not_tried_again(status: int) -> None:
    answers = {f"train-images-idx3-ubyte{end}": Answer(status=status) for end in (".gz", "")}
    with serving(answers) as mirror, pytest.raises(DownloadError):
        fetch(SPEC, [mirror.url], policy=IMPATIENT)
    assert len(mirror.asked) == len(set(mirror.asked))


def test_the_next_mirror_is_tried_and_named_as_the_source(caplog: pytest.LogCaptureFixture) -> None:
    wrong = with_labels(idx.encode(np.zeros(40, np.uint8)))
    with serving(gzipped(wrong)) as first, serving(gzipped(CONTENTS)) as second:
        fetched = fetch(SPEC, [first.url, second.url], policy=IMPATIENT)
    assert fetched.contents == CONTENTS
    assert fetched.source == second.url
    assert caplog.text.count(f"mirror {first.url}: ") == 1


def test_no_mirror_that_answers_is_an_error_of_its_own_which_repeats_no_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving({}) as mirror:
        gone = mirror.url
    with pytest.raises(
        MirrorsUnreachable, match="cannot download mnist: none of its 2 mirrors can be reached"
    ) as error:
        fetch(SPEC, [gone, "https://mirror.invalid/mnist/"], policy=IMPATIENT)
    told = f"{caplog.text}{error.value}"
    assert [told.count(address) for address in (f"mirror {gone}: cannot connect", "mirror.invalid")] == [1, 1]
    caplog.clear()
    with pytest.raises(MirrorsUnreachable, match=f"{gone}: cannot connect"):
        fetch(SPEC, [gone], policy=IMPATIENT)
    assert not caplog.text, "the error tells of a single mirror"


def test_a_certificate_that_is_not_trusted_is_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tls.recording(tls.certificate(tmp_path), [Reply(200)]) as sent:
        address = f"{os.environ['AWS_ENDPOINT_URL_S3']}/mnist/"
        with pytest.raises(DownloadError, match="none of its 2 mirrors has the right data, see the log") as error:
            fetch(SPEC, [address, "https://mirror.invalid/mnist/"], policy=IMPATIENT)
    assert not isinstance(error.value, MirrorsUnreachable), "the quick start must not replace MNIST here"
    (told,) = [line for line in caplog.messages if address in line]
    assert re.search(r"certificate is not trusted .self.signed.*SSL_CERT_FILE", told)
    assert "attempts" not in told
    assert not sent


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_that_speaks_no_tls_is_an_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def refuse() -> None:
            for _ in range(IMPATIENT.attempts):
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

        done = thread.submit(refuse)
        with pytest.raises(DownloadError, match=r"cannot connect .*SSL|disconnected|EOF") as error:
            fetch(SPEC, [f"https://127.0.0.1:{server.getsockname()[1]}/mnist/"], policy=IMPATIENT)
        done.result()
    assert not isinstance(error.value, MirrorsUnreachable)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ECONNRESET])
def test_a_fault_of_this_machine_is_not_a_missing_network(code: int) -> None:
    failure = patch("socket.create_connection", side_effect=OSError(code, os.strerror(code)))
    with failure, pytest.raises(DownloadError, match=os.strerror(code)) as error:
        fetch(SPEC, ["https://mirror.invalid/mnist/"], policy=IMPATIENT)
    assert not isinstance(error.value, MirrorsUnreachable)


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_no_network_is_nothing_there(code: int) -> None:
    failure = patch("socket.create_connection", side_effect=OSError(code, os.strerror(code)))
    with failure, pytest.raises(MirrorsUnreachable, match=r"mirror.invalid/mnist/: .*\(2 attempts\)"):
        fetch(SPEC, ["https://mirror.invalid/mnist/"], policy=IMPATIENT)


@pytest.mark.parametrize(
    ("mirror", "why"),
    [
        ("http://example.org/mnist/", "http:// is not encrypted"),
        ("ftp://example.org/mnist/", "not an https://, file:// or s3:// address"),
        ("file:///nowhere/at/all", "there is no file /nowhere/at/all/train-images"),
    ],
)
def test_an_address_that_cannot_work_says_why(mirror: str, why: str) -> None:
    with pytest.raises(DownloadError, match=why) as error:
        fetch(SPEC, [mirror], policy=IMPATIENT)
    assert not isinstance(error.value, MirrorsUnreachable), "the quick start must not fall back here"
