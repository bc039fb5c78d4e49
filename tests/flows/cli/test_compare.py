"""`retrain compare` on versions like those that a run publishes, and on the reports that it leaves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tasks.data.arrays import to_npy, to_npz
from tasks.registry import Registry
from tasks.report import report_json
from tasks.report.batches import render_batches
from tasks.report.facts import manifest_facts
from tasks.storage import Artifacts
from tasks.storage.local import LocalStore
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Artifact
from tests.model_files import small_model
from tests.tasks.report.examples import Example, example
from tests.tasks.report.test_batches import DOCUMENT


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions with the same test images, and a third with other ones: to be copied, not to be written to."""
    folder = tmp_path_factory.mktemp("published")
    store = LocalStore(folder / "store")
    images = Artifacts(store, folder / "copies").put(to_npy(example().images), "application/x-npy")
    for version in (example(30), example(40), example(30, images=300)):
        _publish(store, version, images)
    return store.root


@pytest.fixture
def store(published: Path, tmp_path: Path) -> LocalStore:
    return LocalStore(Path(shutil.copytree(published, tmp_path / "store")))


def _publish(store: LocalStore, version: Example, images: Artifact) -> None:
    prepared = version.facts.candidate.prepared
    test = prepared.test.model_copy(update={"images": images})
    version = version.with_candidate(prepared=prepared.model_copy(update={"test": test}))
    predictions = to_npz(version.probabilities, version.labels)
    files = {"model.keras": small_model(), "predictions.npz": predictions, "report.json": report_json(version.document)}
    Registry(store, "mnist").publish(files, manifest_facts(version.facts), "a reason")


def test_it_prints_the_difference_and_writes_the_page(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "difference.html"
    assert main(["compare", "1", "2", "--store", str(store.root), "--html", str(page), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# mnist: version 1 → version 2\n")
    assert "| accuracy | 0.9250    | 0.9000    | −0.0250 |" in printed
    assert "| lost: only version 1 is right | 10 " in printed
    assert "| won: only version 2 is right  | 0 " in printed
    assert page.read_text().count("data:image/png;base64,") == 10


def test_images_that_are_no_longer_there_are_named(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in list(store.list("cache/")):
        store.delete(entry.key)
    page = tmp_path / "difference.html"
    assert main(["compare", "1", "2", "--store", str(store.root), "--html", str(page)]) == 0
    assert "names the images by number" in capsys.readouterr().err
    assert "<small>image 39</small>" in page.read_text()


@pytest.mark.parametrize("report", [b"", b"[1]", b"{}", b"[" * 200_000, b'{"prepared": {"test": {"images": 1}}}'])
def test_a_report_that_is_none_costs_the_pictures_alone(
    report: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path)
    sample = example(30)
    for number in range(2):
        files = {"predictions.npz": to_npz(sample.probabilities, sample.labels), "report.json": report}
        Registry(store, "mnist").publish(
            files | {"model.keras": b"%d" % number}, manifest_facts(sample.facts), "a reason"
        )
    assert main(["compare", "1", "2", "--store", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert "report.json: it is no report of this version of retrain" in capsys.readouterr().err


def test_versions_tested_on_other_images_are_compared_without_them(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "1", "3", "--store", str(store.root)]) == 0
    assert "They were not tested on the same images" in capsys.readouterr().out


def test_what_is_not_there_or_damaged_is_named(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "1", "9", "--store", str(store.root)]) == 1
    assert "cannot read version 9 of mnist: there is no such version" in capsys.readouterr().err
    store.put("models/mnist/versions/1/predictions.npz", b"altered")
    assert main(["compare", "1", "2", "--store", str(store.root)]) == 1
    assert "predictions.npz: the file was altered" in capsys.readouterr().err
    assert main(["compare", "2", "3", "--store", str(store.root), "--html", str(store.root)]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_facts_of_another_writer_are_no_defect(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    others: list[dict[str, Any]] = [{}, {"metrics": "high", "data": 7, "decision": {"checks": 3}, "recipe": []}]
    for number, facts in enumerate(others):
        Registry(store, "mnist").publish({"model.keras": b"%d" % number}, facts, "another writer")
    for old, new in (("1", "3"), ("3", "4"), ("4", "1")):
        assert main(["compare", old, new, "--store", str(store.root), "--markdown"]) == 0
        assert capsys.readouterr().out.startswith(f"# mnist: version {old} → version {new}")


RUN = "ddd650a7-73b0-48f0-9f6e-c96d4cdacca4"


def _judge(store: LocalStore, run: Example, name: str = RUN) -> Path:
    """What a run that published nothing leaves in its store: the report, and predictions in the cache."""
    artifacts = Artifacts(store, store.root / "copies")
    images = artifacts.put(to_npy(run.images), "application/x-npy")
    predictions = artifacts.put(to_npz(run.probabilities, run.labels), "application/x-npz")
    candidate = run.facts.candidate
    test = candidate.prepared.test.model_copy(update={"images": images})
    run = run.with_candidate(
        prepared=candidate.prepared.model_copy(update={"test": test}),
        evaluation=candidate.evaluation.model_copy(update={"predictions": predictions}),
    )
    store.put(f"runs/{name}/report.json", report_json(run.document))
    store.put(f"runs/{name}/report.html", b"")
    return store.root / "runs" / name / "report.html"


def test_a_rejected_run_is_compared_with_a_version_and_with_the_champion(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = _judge(store, example(200, epochs=1))
    page = tmp_path / "difference.html"
    assert main(["compare", "2", RUN, "--store", str(store.root), "--html", str(page), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# mnist: version 2 → run ddd650a7\n")
    assert "| accuracy | 0.9000    | 0.5000       | −0.4000 |" in printed
    assert re.search(r"only version 2 is right +\| 160 ", printed)
    assert "| epochs | 3         | 1            |" in printed
    assert page.read_text().count("data:image/png;base64,") == 20
    assert main(["rollback", "--to", "2", "--store", str(store.root)]) == 0
    capsys.readouterr()
    alone = ["compare", "--markdown", "--store", str(store.root)]
    for named in (
        "ddd650",
        RUN.upper(),
        f"runs/{RUN}/report.json",
        str(address),
        address.as_uri(),
        str(address.parent),
    ):
        assert main([*alone, named]) == 0
        told = capsys.readouterr().out
        assert told.startswith("# mnist: champion v2 → run ddd650a7\n")
        assert re.search(r"only champion v2 is right +\| 160 ", told)
    assert main(["compare", RUN, "2", "--markdown", "--store", str(store.root)]) == 0
    assert capsys.readouterr().out.startswith("# mnist: run ddd650a7 → version 2\n")
    assert main([*alone, "1"]) == 0
    assert capsys.readouterr().out.startswith("# mnist: champion v2 → version 1\n")


def test_a_run_of_another_store_and_a_report_that_was_carried_elsewhere_are_compared(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = LocalStore(tmp_path / "ci")
    address = _judge(elsewhere, example(200))
    carried = tmp_path / "report.json"
    carried.write_bytes(address.with_name("report.json").read_bytes())
    assert main(["compare", "2", str(address), "--markdown", "--store", str(store.root)]) == 0
    assert re.search(r"only version 2 is right +\| 160 ", capsys.readouterr().out)
    assert main(["compare", "2", str(carried), "--markdown", "--store", str(store.root)]) == 0
    printed = capsys.readouterr().out
    assert "The predictions of one are gone (it is not in the store), so no image can be compared." in printed
    assert "| accuracy | 0.9000    | 0.5000" in printed


def test_a_run_whose_model_has_another_name_is_compared_under_that(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = example().facts.candidate.prepared.model_copy(update={"dataset": "digits"})
    _judge(store, example().with_candidate(prepared=digits))
    _judge(store, example(), "other")
    assert main(["compare", RUN, "--store", str(store.root)]) == 1
    assert "cannot compare with the champion of digits: there is none in file://" in capsys.readouterr().err
    assert main(["compare", RUN, "other", "--store", str(store.root)]) == 2
    assert "one is of digits and one of mnist" in capsys.readouterr().err


NOT_A_NAME = "it is no version's number, no run's id and no report's address"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("e12c", "no run in file://"),
        ("ddd", "2 runs start with ddd: ddd650a7-73b0-48f0-9f6e-c96d4cdacca4, ddd7"),
        ("begun", "run begun has no report.json, so it ended before its report was written"),
        ("damaged", "it is no report of this version of retrain"),
        ("refused", "that run trained no model, as a check refused batch day-8: labels, repeated images"),
        ("newer", "surprise"),
        ("hostile", "it is of '../../secret', which is no model's name"),
        ("../../none/passwd", NOT_A_NAME),
        ("s3://", NOT_A_NAME),
        ("a" * 5000, NOT_A_NAME),
        ("9" * 5000, NOT_A_NAME),
        ("\x1b[2J", NOT_A_NAME),
        ("", NOT_A_NAME),
    ],
)
def test_what_names_no_run_is_one_line(
    named: str, why: str, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    _judge(store, example())
    _judge(store, example(), "ddd7")
    store.put("runs/begun/decision.json", b"{}")
    store.put("runs/damaged/report.json", b"[" * 100_000)
    store.put("runs/refused/report.json", render_batches(DOCUMENT, {})["report.json"])
    report = store.get(f"runs/{RUN}/report.json", LARGEST_DOCUMENT).data
    store.put("runs/newer/report.json", report.replace(b'"mistakes"', b'"surprise": 1, "mistakes"'))
    store.put("runs/hostile/report.json", report.replace(b'"dataset": "mnist"', b'"dataset": "../../secret"'))
    for arguments in (["1", named], [named], [named, "1"]):
        assert main(["compare", *arguments, "--store", str(store.root)]) == 1
        line = capsys.readouterr().err
        assert line.startswith("retrain: cannot ")
        assert why in line
        assert line.count("\n") == 1
        assert line.strip().isprintable()
