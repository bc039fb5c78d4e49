from __future__ import annotations

import base64
import json
import logging
import lzma
import os
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from tasks.caching.inventory import CHECKPOINTS, cache_items, removable
from tasks.caching.steps import Run, _first_changes, step
from tasks.errors import ArtifactError
from tasks.settings import home
from tasks.storage.local import LocalStore
from tasks.storage.verified import sealed, unsealed
from tasks.values import Artifact, Value
from tests.faults.proxy import Fault, proxying

pytestmark = pytest.mark.usefixtures("prefect_server")


class Text(Value):
    content: Artifact


@step()
def write(text: str, run: Run) -> Text:
    return Text(content=run.artifacts.put(text.encode(), "text/plain"))


@step()
def upper(artifact: Artifact, run: Run) -> Text:
    return Text(content=run.artifacts.put(run.artifacts.get(artifact).upper(), "text/plain"))


@step(cached=False)
def read(artifact: Artifact, run: Run) -> Text:
    run.artifacts.get(artifact)
    return Text(content=artifact)


@step()
def write_all(texts: list[str], run: Run) -> Text:
    each = [write.directly(text, run).content for text in texts]
    return Text(content=run.artifacts.put(b"".join(map(run.artifacts.get, each)), "text/plain"))


@step(checkpoints=True)
def long(steps: int, run: Run) -> Text:
    run.store.put(f"{CHECKPOINTS}{long.key(steps, run)}/0001", b"half of it")
    return Text(content=run.artifacts.put(b"done", "text/plain"))


def run_with(folder: Path, work: Callable[[Run], Any], url: str = "") -> Any:
    """Run some steps as a flow."""
    run = Run(id="test", url=url or str(folder / "store"))
    return flow(name="test", validate_parameters=False)(lambda: work(run))()


def names(run: Run) -> list[tuple[str, bool]]:
    return [(one.name, one.cached) for one in run.steps]


def test_what_is_lost_between_two_steps_is_made_again(
    store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole cache is cleared while a run is at work, also the copies of this machine."""

    def work(run: Run) -> None:
        first = write("text", run)
        second = upper(first.content, run)
        copies = LocalStore(home() / "cache")
        for store in (run.store, copies):
            for entry in list(store.list("")) if store is copies else removable(store, soon()):
                store.delete(entry.key)
        assert read(second.content, run) == second
        assert names(run) == [("write", False), ("upper", False), ("write", False), ("upper", False), ("read", False)]

    run_with(tmp_path, work, store_url)
    assert "read: an input was lost and is computed again" in caplog.text
    assert "upper: an input was lost and is computed again" in caplog.text


def test_what_no_step_of_the_run_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not in the store"):
        run_with(tmp_path, lambda run: read(Artifact(sha256="0" * 64, size=1, media_type="text/plain"), run))


def test_a_store_that_loses_everything_at_once_is_not_fed_for_ever(tmp_path: Path) -> None:
    def work(run: Run) -> None:
        first = write("text", run)
        run.artifacts.get = lambda artifact: (_ for _ in ()).throw(  # type: ignore[method-assign]
            ArtifactError("cannot use it", "it is lost", "Run again.", artifact.sha256)
        )
        read(first.content, run)

    with pytest.raises(ArtifactError, match="it is lost"):
        run_with(tmp_path, work)


def test_a_failure_leaves_nothing_in_the_cache(store_url: str, tmp_path: Path) -> None:
    def work(run: Run) -> Run:
        with pytest.raises(ArtifactError):
            upper(Artifact(sha256="0" * 64, size=1, media_type="text/plain"), run)
        return run

    assert not list(run_with(tmp_path, work, store_url).store.list(""))


def test_progress_is_removed_once_the_result_is_kept(store_url: str, tmp_path: Path) -> None:
    store = run_with(tmp_path, lambda run: (long(3, run), run)[1], store_url).store
    assert not list(store.list(CHECKPOINTS))


def test_progress_is_kept_where_the_result_could_not_be(tmp_path: Path) -> None:
    (tmp_path / "store" / "cache").mkdir(parents=True)
    (tmp_path / "store" / "cache" / "results").write_text("a file where a folder has to be")
    store = run_with(tmp_path, lambda run: (long(3, run), run)[1]).store
    assert [entry.key.split("/")[:2] for entry in store.list(CHECKPOINTS)] == [["checkpoints", "long"]]


def test_each_step_says_why_it_ran(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run_with(tmp_path, lambda run: write("one", run))
    run_with(tmp_path, lambda run: write("one", run))
    run_with(tmp_path, lambda run: write("two", run))
    lines = [message for message in caplog.messages if message.startswith("write: ")]
    assert lines[0] == "write: runs, for the first time in this store"
    assert lines[1].startswith("write: reused, computed ")
    assert lines[2] == "write: runs, text one → two"


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b'{"inputs": 1, "code": []}', b"\xff"])
def test_a_reason_that_cannot_be_told_does_not_end_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes | None
) -> None:
    caplog.set_level(logging.INFO)
    last = tmp_path / "store" / "cache" / "last"
    if data is None:
        (tmp_path / "store" / "cache").mkdir(parents=True)
        last.write_text("a file where a folder has to be")
        last.chmod(0)
    else:
        last.mkdir(parents=True)
        (last / "write.json").write_bytes(data)
    run_with(tmp_path, lambda run: write("one", run))
    if data is None:
        assert "write: the next run of this step will not know why it runs: cannot write" in caplog.text
    else:
        assert "write: runs, the reason is not known: the record of its last run is damaged" in caplog.messages


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_reason_that_may_not_be_read_or_kept_does_not_end_a_run(
    bucket: str, s3_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    caplog.set_level(logging.INFO)
    with proxying(s3_server) as proxy:
        proxy.faults.append(Fault("status", method, "/cache/last/", times=None, status=403, code="AccessDenied"))
        run_with(tmp_path, lambda run: write("one", run), bucket)
    if method == "GET":
        assert "write: runs, the reason is not known: access is denied" in caplog.text
    else:
        assert "will not know why it runs: cannot write" in caplog.text


def runs(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why the step `write` ran, each time."""
    return [line.removeprefix("write: runs, ") for line in caplog.messages if line.startswith("write: runs, ")]


def test_a_step_without_a_task_run_is_computed_once_and_reused_by_both_ways(
    store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(id="test", url=store_url)
    first = write.directly("one", run)  # outside of any flow
    assert run.artifacts.get(first.content) == b"one"
    assert write.directly("one", run) == write.kept("one", run) == first
    assert runs(caplog) == ["for the first time in this store"]
    assert run.steps == []
    assert (run.computed, set(run.producers)) == ({}, {first.content.sha256})
    caplog.clear()

    def work(run: Run) -> Run:
        assert write("one", run) == write.directly("one", run) == first
        assert write.directly("two", run) != first
        assert write("two", run) == write.directly("two", run)
        assert write("three", run) == write.directly("three", run)
        return run

    other = run_with(tmp_path, work, store_url)
    assert names(other) == [("write", True), ("write", True), ("write", False)]
    assert runs(caplog) == ["text one → two", "text two → three"]
    assert {each.what for each in cache_items(other.store)} == {"result"}
    assert other.computed.keys() == {write.key(text, other) for text in ("one", "two", "three")}


def test_both_ways_write_the_same_record(tmp_path: Path) -> None:
    def result(key: str, run: Run) -> dict[str, Any]:
        key = f"cache/results/{key}.json"
        document = json.loads(unsealed(run.store.get(key, 10_000).data, "it"))
        return {**document, "result": json.loads(document["result"]).keys() - {"at", "seconds"}}

    def work(run: Run) -> Run:
        write("one", run)
        write.directly("two", run)
        return run

    run = run_with(tmp_path, work)
    by_prefect, directly = (result(write.key(text, run), run) for text in ("one", "two"))
    assert by_prefect["result"] == directly["result"] == {"value", "worker", "why"}
    assert by_prefect.keys() == directly.keys()
    metadata = {name: by_prefect["metadata"][name] for name in directly["metadata"]}
    assert metadata.keys() == {"serializer", "storage_key"}
    assert metadata["serializer"]["type"] == directly["metadata"]["serializer"]["type"]
    assert metadata["storage_key"].lstrip("/") == write.key("one", run)
    assert directly["metadata"]["storage_key"] == write.key("two", run)


@pytest.mark.parametrize("damage", ["altered", "no result", "artifact lost"])
def test_a_damaged_result_is_computed_again_without_a_task_run(
    damage: str, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = Run(id="test", url=store_url)
    first = write.directly("one", run)
    (entry,) = run.store.list("cache/results/")
    if damage == "artifact lost":
        for store in (run.store, LocalStore(home() / "cache")):
            for each in [each for each in store.list("") if each.key.endswith(first.content.sha256)]:
                store.delete(each.key)
    else:
        run.store.put(entry.key, b"damaged" if damage == "altered" else sealed(b"{}"))
    caplog.clear()
    assert write.directly("one", run) == first
    assert "write: its cached result cannot be used and is computed anew" in caplog.text
    assert runs(caplog) == ["its cached result is gone or damaged"]
    assert run.artifacts.get(first.content) == b"one"
    assert write.kept("one", run) == first


def test_a_refreshed_step_is_computed_without_a_task_run(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run(id="test", url=store_url)
    write.directly("one", run)
    again = Run(id="again", url=store_url, refresh=["write"])
    assert write.directly("one", again) == write.kept("one", run)
    assert runs(caplog)[1:] == ["a refresh was asked for"]


def test_a_result_that_cannot_be_cached_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "results").write_text("a file where a folder has to be")
    run = Run(id="test", url=str(tmp_path))
    assert run.artifacts.get(write.directly("one", run).content) == b"one"
    assert "write: its result is not cached: cannot write" in caplog.text


def test_what_the_function_raises_is_raised_and_not_cached(store_url: str) -> None:
    run = Run(id="test", url=store_url)
    with pytest.raises(ArtifactError, match="not in the store"):
        upper.directly(Artifact(sha256="0" * 64, size=1, media_type="text/plain"), run)
    assert not list(run.store.list(""))


def test_a_lost_artifact_is_computed_again_by_the_step_that_needs_many(
    store_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost while the step is at work, after it was verified."""
    caplog.set_level(logging.INFO)

    def work(run: Run) -> None:
        first, lost = write.directly("a", run).content, write.directly("b", run).content
        read = run.artifacts.get

        def lose_once(artifact: Artifact) -> bytes:
            if artifact == first and run.producers.keys() > {first.sha256, lost.sha256}:
                monkeypatch.setattr(run.artifacts, "get", read)
                for store in (run.store, LocalStore(home() / "cache")):
                    for each in [each for each in store.list("") if each.key.endswith(lost.sha256)]:
                        store.delete(each.key)
            return read(artifact)

        monkeypatch.setattr(run.artifacts, "get", lose_once)
        whole = write_all(["a", "b", "c"], run)
        assert read(whole.content) == b"abc"
        assert names(run) == [("write_all", False)]

    run_with(tmp_path, work, store_url)
    assert "write_all: an input was lost and is computed again" in caplog.text
    assert len(runs(caplog)) == 4


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "serializer",
    [
        {"type": "pickle"},
        {"type": "pickle", "picklelib": "pickle"},
        {"type": "compressed/pickle"},
        {"type": "json", "object_decoder": "tests.tasks.caching.test_steps.decoded"},
        {"type": "json", "jsonlib": "tests.tasks.caching.test_steps"},
    ],
)
def test_no_cached_result_names_what_reads_it(
    serializer: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect would unpickle it, or call any function, for whoever may write to the store."""
    run = run_with(tmp_path, lambda run: (write("one", run), run)[1])
    (entry,) = run.store.list("cache/results/")
    blob = pickle.dumps(Touch(tmp_path / "executed"))
    if serializer["type"] == "compressed/pickle":
        blob = lzma.compress(base64.b64encode(blob))
    # JSON and base64 at once: a decoder of base64 skips the quotation marks.
    value = {"path": str(tmp_path / "executed")} if serializer["type"] == "json" else base64.b64encode(blob).decode()
    text = json.dumps(value)
    hostile = {"metadata": {"serializer": serializer, "storage_key": "a"}, "result": text}
    run.store.put(entry.key, sealed(json.dumps(hostile).encode()))
    again = run_with(tmp_path, lambda run: (write("one", run), run)[1])
    assert not (tmp_path / "executed").exists()
    assert names(again) == [("write", False)]
    assert "write: its cached result cannot be used and is computed anew" in caplog.text
    assert names(run_with(tmp_path, lambda run: (write("one", run), run)[1])) == [("write", True)]


def decoded(found: dict[str, str]) -> None:
    """Called by Prefect for each object in a result, if that may name it."""
    Path(found["path"]).touch()


def loads(text: str, **_: object) -> None:
    """As `decoded`, in place of a JSON library."""
    decoded(json.loads(text))


def test_a_result_of_another_step_is_computed_again(tmp_path: Path) -> None:
    run = run_with(tmp_path, lambda run: (write("one", run), run)[1])
    (entry,) = run.store.list("cache/results/")
    hostile = json.loads(unsealed(run.store.get(entry.key, entry.size).data, "it"))
    hostile["result"] = hostile["result"].replace('"content"', '"contents"')
    run.store.put(entry.key, sealed(json.dumps(hostile).encode()))
    assert names(run_with(tmp_path, lambda run: (write("one", run), run)[1])) == [("write", False)]


def test_of_many_changes_the_first_are_said() -> None:
    assert _first_changes(["seed 0 → 1", "code changed"]) == "seed 0 → 1, code changed"
    assert _first_changes([*"abcdefg"]) == "a, b, c, d, e, and 2 more"


def test_the_inventory_and_what_of_it_is_old(store_url: str, tmp_path: Path) -> None:
    def work(run: Run) -> Run:
        upper(write("text", run).content, run)
        return run

    store = run_with(tmp_path, work, store_url).store
    store.put(f"{CHECKPOINTS}train/key/cpu/0003-abc", b"state")
    items = cache_items(store)
    assert sorted((item.step, item.what) for item in items) == [
        ("train", "checkpoint"),
        ("upper", "result"),
        ("write", "result"),
    ]
    assert all(item.size > 4 for item in items)
    assert removable(store, datetime.now(UTC) - timedelta(days=1)) == []
    everything = [entry.key for entry in removable(store, soon())]
    assert [key.rpartition("/")[0].split("/")[:2] for key in everything[-2:]] == [["cache", "objects"]] * 2
    assert len(everything) == 5
    lost = next(key for key in everything if key.startswith("cache/objects/"))
    store.delete(lost)
    assert "1 artifacts lost" in {item.what for item in cache_items(store)}
    record = next(key for key in everything if key.startswith("cache/results/"))
    store.put(record, b"damaged")
    assert "damaged" in {item.what for item in cache_items(store)}


def test_an_old_artifact_that_a_young_result_names_stays(tmp_path: Path) -> None:
    store: Any = run_with(tmp_path, lambda run: (write("text", run), run)[1]).store
    (artifact,) = store.list("cache/objects/")
    yesterday = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(store.path(artifact.key), (yesterday, yesterday))
    assert removable(store, datetime.now(UTC) - timedelta(hours=1)) == []


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)
