"""The index of a model's runs: races and kills lose none, and it is built again from what stands in the store."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tasks import model_page
from tasks.errors import StoreError
from tasks.registry import Registry
from tasks.registry.runs import MOST, RunIndex, line, rollback_row
from tasks.storage import open_store
from tasks.storage.objects import ObjectStore
from tests.tasks.report.runs import rows

MODEL = "letters"
INDEX, PAGE = f"models/{MODEL}/runs.jsonl", f"models/{MODEL}/index.html"
WRITES = ("put", "put_once", "compare_and_swap", "delete")


def ids(lines: str) -> list[str]:
    return [json.loads(each)[0] for each in lines.splitlines()]


class Counting:
    """A store that counts its requests, and fails for good from one of them on."""

    def __init__(self, store: ObjectStore, most: int | None = None) -> None:
        self.store, self.most, self.requests = store, most, list[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name not in {*WRITES, "get", "etag", "list"}:
            return found

        def request(*args: Any) -> Any:
            if self.most is not None and len(self.requests) >= self.most:
                raise StoreError("cannot write", "the writer was killed", "Nothing.")
            self.requests.append(name)
            return found(*args)

        return request


def test_runs_are_entered_once_in_their_order(store_url: str) -> None:
    index = RunIndex(open_store(store_url), MODEL)
    some = rows(5)
    for row in [*some, some[2]]:
        lines = index.add(row)
    assert ids(lines) == [row.id for row in some] == ids(index.lines())
    assert index.rows() == some
    assert index.rebuild() == lines


def test_an_update_costs_four_requests_however_many_runs_there_are(store_url: str) -> None:
    store = open_store(store_url)
    for row in rows(40)[:-1]:
        RunIndex(store, MODEL).add(row)
    counting: Any = Counting(store)
    model_page.enter(counting, MODEL, rows(40)[-1])
    assert len(counting.requests) <= 4


def test_runs_that_end_together_are_all_there(store_url: str) -> None:
    some = rows(16)
    RunIndex(open_store(store_url), MODEL).add(some[0])
    threads = [
        threading.Thread(target=lambda row=row: model_page.enter(open_store(store_url), MODEL, row)) for row in some[1:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ids(RunIndex(open_store(store_url), MODEL).lines())) == {row.id for row in some}


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_ends_while_the_index_is_built_again_is_in_it(
    store_url: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, some = open_store(store_url), rows(4)
    for row in some[:2]:
        RunIndex(store, MODEL).add(row)
    if not there:
        store.delete(INDEX)
    waiting, listed = some[2:], RunIndex.rows

    def meanwhile(index: RunIndex) -> Any:
        found = listed(index)
        if waiting:
            RunIndex(store, MODEL).add(waiting.pop(0))
        return found

    monkeypatch.setattr(RunIndex, "rows", meanwhile)
    RunIndex(store, MODEL).rebuild()
    assert ids(RunIndex(store, MODEL).lines()) == [row.id for row in some]


@pytest.mark.parametrize("requests", range(5))
def test_a_run_that_is_killed_after_any_request_stands_there_after_the_next_cleanup(
    store_url: str, requests: int
) -> None:
    store, some = open_store(store_url), rows(3)
    for row in some[:2]:
        model_page.enter(store, MODEL, row)
    killed: Any = Counting(store, requests)
    model_page.enter(killed, MODEL, some[2])
    model_page.rebuild(store, MODEL)
    entered = [row.id for row in some] if requests else [row.id for row in some[:2]]
    assert ids(RunIndex(store, MODEL).lines()) == entered


DAMAGE: dict[str, Callable[[ObjectStore], None]] = {
    "deleted": lambda store: store.delete(INDEX),
    "empty": lambda store: store.put(INDEX, b""),
    "cut": lambda store: store.put(INDEX, store.get(INDEX, 1 << 20).data[:-9]),
    "a byte changed": lambda store: store.put(INDEX, store.get(INDEX, 1 << 20).data.replace(b"0.9", b"0.8", 1)),
    "no text, sealed": lambda store: store.put(
        INDEX, b'{"sha256":"%s"}\n\xff\xfe' % hashlib.sha256(b"\xff\xfe").hexdigest().encode()
    ),
    "no text": lambda store: store.put(INDEX, b"\xff\xfe\n\xff"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_index_that_is_damaged_is_built_again_by_the_next_run(store_url: str, damage: str) -> None:
    store, some = open_store(store_url), rows(4)
    for row in some[:3]:
        RunIndex(store, MODEL).add(row)
    DAMAGE[damage](store)
    assert ids(RunIndex(store, MODEL).lines()) == [row.id for row in some[:3]], "readers do without it"
    assert ids(RunIndex(store, MODEL).add(some[3])) == [row.id for row in some]


def test_a_run_whose_file_is_damaged_is_left_out_and_said(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    store, some = open_store(store_url), rows(3)
    for row in some:
        RunIndex(store, MODEL).add(row)
    store.put(f"models/{MODEL}/runs/{some[1].id}.json", b"{}")
    assert ids(RunIndex(store, MODEL).rebuild()) == [some[0].id, some[2].id]
    assert "left out of the model's page" in caplog.text


def test_a_store_of_an_earlier_version_has_its_versions_and_rollbacks(store_url: str) -> None:
    store = open_store(store_url)
    registry = Registry(store, MODEL)
    for number in range(3):
        registry.publish({"model.keras": bytes([number])}, {"metrics": {"accuracy": 0.9 + number / 100}}, "better")
    moved = registry.rollback(2, "it was slow")
    model_page.rebuild(store, MODEL)
    kinds = [json.loads(each)[2:5] for each in RunIndex(store, MODEL).lines().splitlines()]
    assert kinds == [["published", 1, 0.9], ["published", 2, 0.91], ["published", 3, 0.92], ["rollback", 2, None]]
    RunIndex(store, MODEL).add(rollback_row(moved))
    assert len(RunIndex(store, MODEL).rebuild().splitlines()) == 4, (
        "a rollback with a file of its own stands there once"
    )


def test_the_newest_ones_are_kept(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.registry.runs.MOST", 3)
    some = rows(5)
    for row in some:
        lines = RunIndex(open_store(store_url), MODEL).add(row)
    assert ids(lines) == [row.id for row in some[-3:]]
    assert MOST > 5000


def test_a_page_that_cannot_be_written_ends_nothing(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    for most in count():
        broken: Any = Counting(open_store(str(tmp_path / str(most))), most)
        caplog.clear()
        model_page.enter(broken, MODEL, rows(1)[0])
        if not caplog.text:
            break
        assert "not up to date: cannot write: the writer was killed" in caplog.text
    assert most >= 3


def test_a_line_has_no_other_line_in_it() -> None:
    chance = random.Random(1)
    hostile = "".join(chr(chance.choice([10, 13, 0x2028, 0x85, 34, 92, 60])) for _ in range(99))
    row = rows(1)[0].model_copy(update={"why": hostile})
    text = line(row)
    assert len(text.splitlines()) == 1
    assert json.loads(text)[7] == hostile
