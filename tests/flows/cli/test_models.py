"""The commands for published versions, called in this process; `test_main` runs the whole command line."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from flows.cli.models import VERIFIED
from flows.cli.overview import RUNS
from tasks.registry import Registry
from tasks.registry.documents import Manifest, now, sha256
from tasks.registry.looks import Look, Looks
from tasks.report.batches import BatchesDocument, render_batches
from tasks.storage import open_store
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT, Stored
from tests.model_files import small_model

Retrain = Callable[..., tuple[int, str, str]]

FACTS = {"metrics": {"accuracy": 0.98}}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Two versions, the second one the champion."""
    store = LocalStore(tmp_path / "store")
    for number in (1, 2):
        files = {"model.keras": small_model(number), "report.md": b"# Report"}
        Registry(store, "mnist").publish(files, FACTS, f"reason {number}")
    return store


@pytest.fixture
def retrain(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> Retrain:
    """A function that runs a command on the store: its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--store", str(store.root)])
        return code, *capsys.readouterr()

    return run


def test_versions_history_and_champion(retrain: Retrain) -> None:
    code, printed, _ = retrain("versions")
    assert code == 0
    first, second = printed.splitlines()
    assert first.startswith("   1")
    assert "champion" in second
    first, second = retrain("history")[1].splitlines()
    assert first.endswith("version 1  reason 1")
    assert second.endswith("version 2  reason 2")
    assert "generation 2, reason 2" in retrain("champion")[1]


def test_the_history_counts_the_verdicts_on_the_test_images(retrain: Retrain, store: LocalStore) -> None:
    images, labels = sha256(b"images"), sha256(b"labels")
    facts = {"data": {"test": images, "test_labels": labels}, "decision": {"look": 3}}
    Registry(store, "mnist").publish({"model.keras": b"third"}, facts, "reason 3")
    assert retrain("history")[1].splitlines()[0] == "3 verdicts on the test images of version 3, whoever asked"
    look = Look(run="a run", model="mnist", candidate=sha256(b"weights"), champion="", reference="", created=now())
    assert Looks(store, images, labels).enter(look, 3) == 4
    lines = retrain("history")[1].splitlines()
    assert lines[0] == "4 verdicts on the test images of version 3, whoever asked"
    assert lines[-1].endswith("version 3  reason 3")


def test_a_reason_forges_no_row(retrain: Retrain, store: LocalStore) -> None:
    Registry(store, "mnist").rollback(1, "a\n   9  2026-01-01 00:00  version 9  fake\x1b[2J")
    Registry(store, "mnist").pin(1, "b\nc")
    lines = retrain("history")[1].splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("version 1  a\\n   9  2026-01-01 00:00  version 9  fake\\x1b[2J")
    assert len(retrain("champion")[1].splitlines()) == 4


def test_a_store_without_versions_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, code in (("versions", 1), ("history", 1), ("verify", 1), ("gc", 0)):
        assert main([command, "--store", str(tmp_path / "none")]) == code
        printed, errors = capsys.readouterr()
        assert "there is nothing of mnist in file://" in errors
        assert "(--store) and the model's name (--model)" in errors
        assert len(errors.splitlines()) == 1
        assert "intact" not in printed
    assert main(["cache", "--store", str(tmp_path / "none")]) == 0
    assert "nothing is cached in file://" in capsys.readouterr().err
    assert main(["champion", "--store", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    "command",
    [
        *("versions", "history", "verify", "verify 1", "show 1", "rollback", "rollback --to 1", "pin 1", "unpin"),
        *("fetch OUT --version 1", "compare 1 2", "compare 1"),
    ],
)
def test_a_model_that_is_not_there_is_an_error_which_names_those_that_are(
    command: str, retrain: Retrain, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Registry(store, "letters").publish({"model.keras": small_model(3), "report.md": b"# Report"}, FACTS, "first")
    before = [entry.key for entry in store.list("")]
    for option in ("--model", "--source", "--dataset"):
        code, printed, errors = retrain(*command.split(), option, "digits")
        assert (code, printed) == (1, "")
        assert errors == (
            f"retrain: there is nothing of digits in {store.url}: no version, no champion and no history is stored "
            "there. It has letters, mnist: name one with --model.\n"
        )
    assert [entry.key for entry in store.list("")] == before


def test_a_mistyped_model_has_no_champion(retrain: Retrain, tmp_path: Path) -> None:
    for command in (["champion"], ["fetch", str(tmp_path / "out")]):
        code, _, errors = retrain(*command, "--model", "minst")
        assert code == 2
        assert errors.startswith(
            "retrain: there is no champion of minst: nothing was published yet. It has mnist: name"
        )


def run_of(store: LocalStore, run: str, age: int, **report: object) -> None:
    """A run that was judged so many hours ago."""
    key = f"runs/{run}/report.json"
    store.put(key, json.dumps(report).encode())
    store.put(f"runs/{run}/decision.json", b"{}")
    moment = time.time() - 3600 * age
    os.utime(store.root / key, (moment, moment))


def test_models_lists_each_with_its_champion_and_its_last_run(retrain: Retrain, store: LocalStore) -> None:
    Registry(store, "letters").publish({"model.keras": small_model(3), "report.md": b"# Report"}, {}, "first")
    run_of(store, "a", 1, model="mnist", decision={"verdict": "no change"})
    run_of(store, "b", 2, prepared={"dataset": "mnist"}, decision={"verdict": "reject"})
    run_of(store, "c", 3, model="letters", decision={"verdict": "publish", "override": {"reason": "because"}})
    run_of(store, "d", 4, model="shapes", prepared={"dataset": "s3://x"}, decision={"verdict": "reject"})
    run_of(store, "e", 0, model="../mnist", decision={"verdict": "publish"})
    run_of(store, "f", 0, model="mnist", decision={"verdict": ["publish"]})
    store.put("runs/g/report.json", b"[" * 100_000)
    store.put("runs/h/report.json", b"\xff")
    store.put("runs/i/report.json", b"[1]")
    code, printed, errors = retrain("models")
    assert (code, errors) == (0, "")
    moments = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
    assert [" ".join(moments.sub("TIME", line).split()) for line in printed.splitlines()] == [
        "letters version 1 accuracy unknown since TIME last run TIME published by override",
        "mnist version 2 accuracy 0.9800 since TIME last run TIME unchanged",
        "shapes no champion last run TIME rejected",
    ]
    assert len({line.index("last run") for line in printed.splitlines()}) == 1


def test_models_shows_that_a_new_batch_was_refused(retrain: Retrain, store: LocalStore) -> None:
    document = BatchesDocument(model="mnist", batches=(), left_out={})
    store.put("runs/a/report.json", render_batches(document, {})["report.json"])
    (line,) = retrain("models")[1].splitlines()
    assert line.endswith("rejected")


def test_models_reads_no_more_than_the_newest_runs(
    retrain: Retrain, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, read = LocalStore.get, list[str]()

    def counted(store: LocalStore, key: str, limit: int) -> Stored:
        read.append(key)
        return get(store, key, limit)

    run_of(store, "a", 50, model="mnist", decision={"verdict": "reject"})
    for number in range(RUNS):
        run_of(store, f"z{number}", 1, model="other", decision={"verdict": "reject"})
    monkeypatch.setattr(LocalStore, "get", counted)
    assert "since" in (mnist := retrain("models")[1].splitlines()[0])
    assert mnist.endswith("last run –")
    assert sum(key.startswith("runs/") for key in read) == RUNS
    store.delete("runs/z0/report.json")
    assert retrain("models")[1].splitlines()[0].endswith("rejected")


def test_models_works_on_a_bucket(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(bucket)
    for number in range(30):
        report = {"model": f"m{number % 10}", "decision": {"verdict": "reject" if number >= 10 else "publish"}}
        store.put(f"runs/{number:02d}/report.json", json.dumps(report).encode())
    assert main(["models", "--store", bucket]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [f"m{number}" for number in range(10)]


def test_models_lists_what_is_damaged_and_fails_where_nothing_is(
    retrain: Retrain, store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry(store, "letters").publish({"model.keras": small_model(3), "report.md": b"# Report"}, FACTS, "first")
    store.put("models/mnist/champion.json", b"{}")
    code, printed, _ = retrain("models")
    assert code == 1
    assert printed.splitlines()[0].startswith("letters  version   1  accuracy 0.9800")
    assert "champion.json: the file is no pointer" in printed.splitlines()[1]
    store.put("models/x/versions/1/model.keras", b"interrupted")
    assert retrain("models")[1].splitlines()[2].split() == ["x", "no", "champion", "last", "run", "–"]
    assert main(["models", "--store", str(tmp_path / "none")]) == 1
    assert "there is no model in file://" in capsys.readouterr().err


def test_a_damaged_version_is_listed_as_such(retrain: Retrain, store: LocalStore) -> None:
    store.put("models/mnist/versions/1/manifest.json", b"{}")
    code, printed, _ = retrain("versions")
    assert code == 1
    assert "manifest.json: the file is no manifest" in printed
    assert "0.9800  champion" in printed


def test_verify_names_what_is_bad_and_exits_with_1(retrain: Retrain, store: LocalStore) -> None:
    assert retrain("verify") == (
        0,
        "version 1: intact\nversion 2: intact\nchampion, history and reference: intact\n"
        f"verified mnist in {store.root}: 2 versions, 4 files, 2 generations, champion 2, reference none\n{VERIFIED}\n",
        "",
    )
    store.put("models/mnist/versions/2/model.keras", b"altered")
    (entry, _) = store.list("models/mnist/history/")
    store.put(entry.key, b"{}")
    code, printed, errors = retrain("verify")
    assert code == 1
    assert printed.startswith("version 1: intact\nversion 2: 1 bad\nchampion, history and reference: 1 bad\n")
    assert "versions/2/model.keras: the file was altered" in errors
    assert entry.key in errors
    assert retrain("verify", "1")[0] == 0
    assert retrain("verify", "3")[0] == 1


def test_fetch_brings_the_champion_or_the_version_asked_for(retrain: Retrain, tmp_path: Path) -> None:
    assert retrain("fetch", str(tmp_path / "one"), "--version", "1")[0] == 0
    assert retrain("fetch", str(tmp_path / "two"))[0] == 0
    assert [(tmp_path / name / "model.keras").read_bytes() for name in ("one", "two")] == [
        small_model(1),
        small_model(2),
    ]
    assert retrain("fetch", str(tmp_path / "two"), "--version", "1")[0] == 0
    assert (tmp_path / "two" / "model.keras").read_bytes() == small_model(1)
    with pytest.raises(SystemExit, match="2"):
        retrain("fetch", str(tmp_path / "three"), "--version", "0")


def test_the_page_of_a_model(retrain: Retrain, store: LocalStore, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert retrain("page", str(file))[:2] == (0, f"the page of mnist, 2 runs: {file}\n"), "of a store without an index"
    assert retrain("rollback", "--reason", "it was slow")[0] == 0
    assert retrain("rollback")[0] == 0  # nothing to do
    assert retrain("page", str(file))[:2] == (0, f"the page of mnist, 3 runs: {file}\n")
    assert f'"base": "{store.root.as_uri()}/"' in file.read_text()
    assert b'"base": "../../"' in (store.root / "models/mnist/index.html").read_bytes()
    (store.root / "models/mnist/index.html").unlink()
    assert retrain("gc", "--dry-run")[0] == 0
    assert not (store.root / "models/mnist/index.html").exists()
    assert retrain("gc", "--yes")[0] == 0
    assert (store.root / "models/mnist/index.html").exists()
    assert retrain("page", str(tmp_path / "none" / "page.html"))[0] == 2
    assert "there is nothing of letters" in retrain("page", str(file), "--model", "letters")[2]


def test_the_accuracy_of_each_version_as_a_curve(retrain: Retrain, store: LocalStore) -> None:
    Registry(store, "mnist").publish({"model.keras": small_model(3)}, {"metrics": {"accuracy": 0.91}}, "worse")
    code, printed, _ = retrain("history", "--plot")
    assert code == 0
    assert re.findall(r"(\d\d\.\d\d) %", printed)[0] > "98.00"
    assert re.findall(r"(\d\d\.\d\d) %", printed)[-1] < "91.00"
    assert "> (version)" in printed


def test_rollback_and_its_reason(retrain: Retrain) -> None:
    code, printed, _ = retrain("rollback", "--reason", "customers complained")
    assert (code, printed) == (0, "the champion of mnist was version 2 and is version 1, generation 3\n")
    code, printed, _ = retrain("rollback", "--reason", "customers complained")
    assert code == 0
    assert printed.startswith("nothing to do: the champion of mnist was moved from version 2 to version 1 already")
    assert retrain("rollback", "--from", "2")[1].startswith("nothing to do: the champion of mnist is version 1 already")
    assert retrain("rollback", "--from", "1")[0] == 1
    assert retrain("history")[1].splitlines()[-1].endswith("version 1  customers complained")
    assert retrain("rollback", "--to", "2")[0] == 0
    code, _, errors = retrain("rollback", "--to", "9")
    assert code == 1
    assert "there is no such version" in errors


def test_pin_unpin_and_where_the_pin_is_shown(retrain: Retrain, store: LocalStore) -> None:
    assert retrain("pin", "1", "--reason", "good enough for ever")[0] == 0
    first, second = retrain("versions")[1].splitlines()
    assert first.endswith("reference")
    assert second.endswith("champion")
    assert "reference: version 1, pinned " in retrain("champion")[1]
    assert "good enough for ever" in retrain("champion")[1]
    assert retrain("pin", "2")[0] == 0
    assert retrain("versions")[1].splitlines()[1].endswith("champion, reference")
    assert retrain("pin", "9")[0] == 1
    store.put("models/mnist/reference.json", b"{}")
    code, _, errors = retrain("verify")
    assert code == 1
    assert "reference.json" in errors
    assert retrain("unpin")[0] == 0
    assert "reference" not in retrain("champion")[1]
    assert retrain("verify")[0] == 0


def test_gc_asks_and_removes_only_what_nothing_names(
    retrain: Retrain, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "models/mnist/versions/3/model.keras"
    store.put(key, b"left")
    assert retrain("gc")[1].startswith("nothing to remove")
    assert "1 object, 4 bytes could be removed" in retrain("gc", "--older-than", "0", "--dry-run")[1]
    code, _, errors = retrain("gc", "--older-than", "0")
    assert code == 2
    assert "Give --yes" in errors
    terminal = io.StringIO("no\nyes\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert "nothing was removed" in retrain("gc", "--older-than", "0")[1]
    assert store.get(key, LARGEST_DOCUMENT)
    assert "removed 1 object, 4 bytes" in retrain("gc", "--older-than", "0")[1]
    assert not list(store.list("models/mnist/versions/3/"))
    assert retrain("verify")[0] == 0


def test_gc_shows_and_applies_the_retention_policy(
    retrain: Retrain, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4):
        files = {"model.keras": small_model(number), "report.md": b"# Report"}
        Registry(store, "mnist").publish(files, FACTS, f"reason {number}")
    run = "0b0f3f0e-1111-4222-8333-444455556666"
    store.put(f"runs/{run}/report.json", b'{"model": "mnist"}')
    os.utime(store.root / f"runs/{run}/report.json", (0, 0))
    assert retrain("gc", "--older-than", "0")[1].startswith("nothing to remove"), "without a policy all is kept"
    before = [entry.key for entry in store.list("")]
    config = tmp_path / "retrain.toml"
    config.write_text("[retention]\nkeep_champions = 1\nkeep_months = 0\nkeep_runs_days = 90\n")
    policy = ("gc", "--config", str(config))
    assert retrain(*policy, "--dry-run")[1].splitlines()[0].endswith(f"run {run}: its report is older than 90 days")
    assert "version" not in retrain(*policy, "--dry-run")[1], "1 and 2 were champion a moment ago"
    time.sleep(1)  # a pointer tells whole seconds
    first, second, third, last = retrain(*policy, "--older-than", "0", "--dry-run")[1].splitlines()
    assert re.search(r"version 1 of mnist was champion until \d{4}-\d\d-\d\d: not among the last 1 champions$", first)
    assert "version 2 of mnist was champion until" in second
    assert third.endswith("older than 90 days")
    assert last.startswith("7 objects, ")
    assert [entry.key for entry in store.list("")] == before
    assert retrain(*policy, "--older-than", "0")[0] == 2, "there is no terminal to ask"
    answer = io.StringIO("yes\n")
    monkeypatch.setattr(answer, "isatty", lambda: retrain("pin", "2", "--seeds", "1")[0] == 0)  # meanwhile
    monkeypatch.setattr("sys.stdin", answer)
    assert "removed 4 objects, " in retrain(*policy, "--older-than", "0")[1]
    assert [line.split()[0] for line in retrain("versions")[1].splitlines()] == ["2", "3", "4"]
    assert "3 versions and 1 retired, " in retrain("verify")[1]
    for command in ("show 1", "fetch OUT --version 1", "rollback --to 1", "pin 1", "compare 1"):
        code, _, errors = retrain(*command.replace("OUT", str(tmp_path / "out")).split())
        assert (code, len(errors.splitlines())) == (1, 1)
        assert "cannot read version 1 of mnist: it was retired on " in errors
    assert retrain("unpin")[0] == 0
    store.put("models/mnist/reference.json", b"{")
    code, _, errors = retrain(*policy, "--older-than", "0", "--yes")
    assert (code, "is no pin" in errors) == (1, True), "who cannot be read may be needed"
    assert "2" in retrain("history")[1]


def test_doctor_tells_what_the_store_can_do(retrain: Retrain, store: LocalStore) -> None:
    before = [entry.key for entry in store.list("")]
    code, printed, _ = retrain("doctor", "--race", "4")
    assert code == 0
    assert "compare and swap (a lock)              enforced" in printed
    assert "4 writers race to swap                 1 won" in printed
    assert "Therefore the pointer decides" in printed
    assert [entry.key for entry in store.list("")] == before


def test_doctor_works_on_a_bucket(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", bucket]) == 0
    assert "Therefore the pointer decides" in capsys.readouterr().out
    assert not list(open_store(bucket).list(""))


def test_facts_of_another_writer_are_no_defect(retrain: Retrain, store: LocalStore) -> None:
    others: list[dict[str, Any]] = [{}, {"metrics": None}, {"metrics": {"accuracy": "high"}, "data": 7}]
    for number, facts in enumerate(others):
        files = {"model.keras": small_model(7 + number), "report.md": b"# Report"}
        Registry(store, "mnist").publish(files, facts, "another writer")
    code, printed, _ = retrain("versions")
    assert code == 0
    assert printed.count("accuracy unknown") == 3
    assert "accuracy unknown" in retrain("champion")[1]


def test_versions_omits_what_is_withdrawn_while_it_is_read(
    retrain: Retrain, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Registry.manifest
    store.put("models/mnist/versions/3/manifest.json", b"{}")

    def withdrawn(registry: Registry, which: int) -> Manifest:
        store.delete("models/mnist/versions/3/manifest.json")
        return manifest(registry, which)

    monkeypatch.setattr(Registry, "manifest", withdrawn)
    assert retrain("versions")[0] == 0
    store.put("models/mnist/versions/3/manifest.json", b"{}")
    assert retrain("verify")[0] == 0
