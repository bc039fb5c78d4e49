"""Which batches a model has learned from: by names alone, whoever writes at the same time, deletes, or adds others."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tasks.errors import StoreError
from tasks.registry.batches import MOST, BatchLedger, Known, Used
from tasks.registry.documents import sha256
from tasks.settings import BatchName
from tasks.storage import ObjectStore, open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT, Entry, Stored
from tasks.storage.probe import folders_of_run

SOURCE = "s3://data/letters/*"
FOLDER = f"batches/letters/{sha256(SOURCE.encode())}"
A, B, C = (sha256(content) for content in (b"a", b"b", b"c"))
EARLY, LATE = (sha256(seen) for seen in (b"early", b"late"))

digests = st.sampled_from([A, B, C])
sights = st.sampled_from([EARLY, LATE])
first = st.sampled_from(f"{string.ascii_letters}{string.digits}_")
batch_names = st.builds("".join, st.tuples(first, st.text(f"{string.ascii_letters}{string.digits}_.-", max_size=99)))


@pytest.fixture
def ledger(store: ObjectStore) -> BatchLedger:
    return BatchLedger(store, "letters", SOURCE)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged; the S3 server, which is in this process, logs its requests too."""
    return [record.getMessage() for record in caplog.records if record.name == "retrain.store"]


def test_what_was_used_is_known_with_its_content(store: ObjectStore, ledger: BatchLedger) -> None:
    assert ledger.read() == Known({}, frozenset())
    ledger.enter([("monday", A, EARLY), ("tuesday", B, EARLY)], "a run")
    known = BatchLedger(store, "letters", SOURCE).read()
    assert known.names == {"monday", "tuesday"}
    assert (known.digest_of("monday", EARLY), known.digest_of("tuesday", EARLY)) == (A, B)
    assert (known.digest_of("monday", LATE), known.digest_of("wednesday", EARLY)) == (None, None)
    assert (known.digests("monday"), known.digests("wednesday")) == ((A,), ())
    for other in (BatchLedger(store, "digits", SOURCE), BatchLedger(store, "letters", "s3://data/others/*")):
        assert not other.read().names


def test_an_object_says_to_people_which_run_entered_it(store: ObjectStore, ledger: BatchLedger) -> None:
    ledger.enter([("monday", A, EARLY)], "a run")
    (entry,) = store.list("")
    assert entry.key.startswith(folders_of_run("letters", judges_only=False, grows=True)[-1])
    assert entry.key == f"{FOLDER}/monday/used-00000001-{A}-{EARLY}"
    assert json.loads(store.get(entry.key, LARGEST_DOCUMENT).data).keys() == {"run", "created", "sha256"}
    store.put(entry.key, b"damaged")
    assert ledger.read().digests("monday") == (A,), "only names count"


def test_files_that_were_written_again_with_the_same_content_are_known_too(ledger: BatchLedger) -> None:
    for seen in (EARLY, LATE, EARLY):
        ledger.enter([("monday", A, seen)], "a run")
    known = ledger.read()
    assert known.used == {"monday": tuple(sorted([Used(1, A, EARLY), Used(1, A, LATE)]))}
    assert known.digests("monday") == (A,)


def test_the_content_that_was_accepted_last_is_the_newest(ledger: BatchLedger) -> None:
    for digest, seen in ((B, EARLY), (A, LATE)):
        ledger.enter([("monday", digest, seen)], "a run")
    assert ledger.read().digests("monday") == (B, A)
    ledger.enter([("monday", B, EARLY)], "a run")
    known = ledger.read()
    assert known.digests("monday") == (A, B), "it was changed back"
    assert (known.digest_of("monday", EARLY), known.digest_of("monday", LATE)) == (B, A)


def test_files_that_look_as_before_have_the_content_that_was_accepted_last(ledger: BatchLedger) -> None:
    for digest in (C, A, B):
        ledger.enter([("monday", digest, EARLY)], "a run")
    assert ledger.read().digest_of("monday", EARLY) == B


def test_a_batch_is_left_out_for_good(store: ObjectStore, ledger: BatchLedger) -> None:
    ledger.enter([("monday", A, EARLY)], "a run")
    ledger.leave_out(["monday", "tuesday"], "a run")
    ledger.leave_out(["tuesday"], "another run")
    ledger.enter([("monday", A, LATE)], "a run")
    known = ledger.read()
    assert [known.left_out(name) for name in ("monday", "tuesday", "wednesday")] == [True, True, False]
    assert known.names == {"monday", "tuesday"}
    assert (known.digests("monday"), known.digests("tuesday")) == ((A,), ())
    assert len(list(store.list(""))) == 4


def test_runs_that_enter_the_same_at_once_disturb_nothing(store_url: str) -> None:
    batches = [(f"batch-{number}", A, EARLY) for number in range(20)]

    def run(number: int) -> None:
        ledger = BatchLedger(open_store(store_url), "letters", SOURCE)
        ledger.enter(batches, f"run {number}")
        ledger.leave_out(["bad"], f"run {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    known = BatchLedger(open_store(store_url), "letters", SOURCE).read()
    assert known.used == {name: (Used(1, A, EARLY),) for name, *_ in batches}
    assert known.without == {"bad"}


def test_of_two_runs_that_accept_a_change_at_once_one_has_the_newest(store_url: str) -> None:
    ledgers = [BatchLedger(open_store(store_url), "letters", SOURCE) for _ in range(2)]
    ledgers[0].enter([("monday", A, EARLY)], "a run")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda ledger, digest: ledger.enter([("monday", digest, LATE)], "a run"), ledgers, (B, C)))
    known = ledgers[0].read()
    assert known.digests("monday")[0] == A
    assert set(known.digests("monday")) == {A, B, C}
    last = known.digests("monday")[-1]
    ledgers[0].enter([("monday", last, LATE)], "a run")
    assert ledgers[1].read() == known, "both agree which"


def test_an_entry_that_was_deleted_makes_its_batch_a_new_one(store: ObjectStore, ledger: BatchLedger) -> None:
    ledger.enter([("monday", A, EARLY), ("tuesday", B, EARLY)], "a run")
    ledger.leave_out(["wednesday"], "a run")
    for entry in [entry for entry in store.list("") if "/tuesday/" not in entry.key]:
        store.delete(entry.key)
    assert ledger.read() == Known({"tuesday": (Used(1, B, EARLY),)}, frozenset())


NO_ENTRIES = [
    "note.txt",
    "sunday",
    "monday/without~",
    "monday/Without",
    "monday/without/deeper",
    "without/nothing",
    ".hidden/without",
    f"{'b' * 101}/without",
    "ä/without",
    "mon\u2028day/without",
    f"monday/used-1-{A}-{EARLY}",
    f"monday/used-00000001-{A}",
    f"monday/used-00000001-{A[1:]}-{EARLY}",
    f"monday/used-00000001-{A.upper()}-{EARLY}",
    f"monday/used-00000001-{A}-{EARLY}.json",
    f"monday/used-000000٠1-{A}-{EARLY}",
    f"monday/used-{MOST + 1:08d}-{A}-{EARLY}",
    f"monday/used-99999999-{A}-{EARLY}",
]


@pytest.mark.parametrize("name", NO_ENTRIES)
def test_what_is_no_entry_is_ignored_and_named(
    name: str, store: ObjectStore, ledger: BatchLedger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.enter([("tuesday", B, EARLY)], "a run")
    expected = ledger.read()
    assert not warnings(caplog)
    store.put(key := f"{FOLDER}/{name}", b"")
    assert ledger.read() == expected
    (line,) = warnings(caplog)
    assert line.isprintable()
    assert store.address(key).replace("\u2028", "\\u2028") in line
    ledger.enter([("monday", C, LATE)], "a run")
    assert ledger.read().used["monday"] == (Used(1, C, LATE),)


def test_of_many_foreign_objects_the_first_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(tmp_path)
    (ledger := BatchLedger(store, "letters", SOURCE)).leave_out(["monday"], "a run")
    for number in range(8):
        store.put(f"{FOLDER}/{number}.txt", b"")
    ledger.read()
    (line,) = warnings(caplog)
    assert ("/4.txt, and 3 more. Delete it." in line, "/5.txt" in line) == (True, False)


@given(st.lists(st.tuples(batch_names, digests, sights), max_size=6), st.sets(batch_names, max_size=3))
@example([("used-", A, EARLY), ("without", A, EARLY), ("_..", A, EARLY)], {"without", "0" * 100})
def test_every_name_is_found_as_it_was_entered(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[str, str, str]], without: set[str]
) -> None:
    ledger = BatchLedger(LocalStore(tmp_path_factory.mktemp("store")), "letters", SOURCE)
    ledger.leave_out(without, "a run")
    for name, digest, seen in batches:
        ledger.enter([(name, digest, seen)], "a run")
        known = ledger.read()
        assert (known.digests(name)[-1], known.digest_of(name, seen)) == (digest, digest)
        ledger.enter([(name, digest, seen)], "the same run again")
        assert ledger.read() == known
    known = ledger.read()
    assert known.without == without
    assert known.names == without | {name for name, *_ in batches}
    for name in known.names:
        assert set(known.digests(name)) == {digest for other, digest, _ in batches if other == name}


def is_no_name(name: str) -> bool:
    """Whether the settings take it for no batch's name, or for no batch at all."""
    try:
        return not TypeAdapter(BatchName).validate_python(name)
    except ValidationError:
        return True


@given(st.text(max_size=8).filter(is_no_name))
@example("..")
@example("a\n")
@example("a/b")
@example("b" * 101)
def test_a_name_that_is_no_folder_is_never_written(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    ledger = BatchLedger(store, "letters", SOURCE)
    with pytest.raises(ValueError, match="no entry of a batch"):
        ledger.leave_out(["ok", name], "a run")
    with pytest.raises(ValueError, match="no entry of a batch"):
        ledger.enter([("ok", A, EARLY), (name, A, EARLY)], "a run")
    assert not list(store.list(""))


class Counting(LocalStore):
    """A store that counts its requests."""

    requests = 0

    def list(self, prefix: str) -> Iterator[Entry]:
        self.requests += 1
        return super().list(prefix)

    def get(self, key: str, limit: int) -> Stored:
        self.requests += 1
        return super().get(key, limit)

    def put(self, key: str, data: bytes) -> None:
        self.requests += 1
        super().put(key, data)


def test_one_listing_reads_all_and_only_what_is_new_is_written(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    ledger = BatchLedger(store, "letters", SOURCE)
    batches = [(f"batch-{number:04d}", A, EARLY) for number in range(50)]
    ledger.enter(batches, "a run")
    store.requests = 0
    assert len(ledger.read().names) == 50
    assert store.requests == 1
    ledger.enter([*batches, ("new", A, EARLY)], "a run")
    assert store.requests == 3


def test_a_ledger_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "batches").write_text("a file where a folder has to be")
    with pytest.raises(StoreError, match="cannot write"):
        BatchLedger(LocalStore(tmp_path), "letters", SOURCE).enter([("monday", A, EARLY)], "a run")
