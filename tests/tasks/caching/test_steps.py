from __future__ import annotations

import logging
import os
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
