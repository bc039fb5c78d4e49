"""`retrain compare` on versions like those that a run publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tasks.data.arrays import to_npy, to_npz
from tasks.publish import manifest_facts
from tasks.registry import Registry
from tasks.storage import Artifacts
from tasks.storage.local import LocalStore
from tasks.values import Artifact
from tests.tasks.report.examples import Example, example


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Two versions with the same test images, and a third with other ones."""
    store = LocalStore(tmp_path / "store")
    images = Artifacts(store, tmp_path / "copies").put(to_npy(example().images), "application/x-npy")
    for version in (example(30), example(40), example(30, images=300)):
        _publish(store, version, images)
    return store


def _publish(store: LocalStore, version: Example, images: Artifact) -> None:
    prepared = version.facts.candidate.prepared
    test = prepared.test.model_copy(update={"images": images})
    version = version.with_candidate(prepared=prepared.model_copy(update={"test": test}))
    predictions = to_npz(version.probabilities, version.labels)
    files = {"predictions.npz": predictions, "report.json": version.render().data}
    Registry(store, "mnist").publish(files, manifest_facts(version.facts), "a reason")


def test_it_prints_the_difference_and_writes_the_page(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "difference.html"
    assert main(["compare", "1", "2", "--store", str(store.root), "--html", str(page)]) == 0
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
        assert main(["compare", old, new, "--store", str(store.root)]) == 0
        assert capsys.readouterr().out.startswith(f"# mnist: version {old} → version {new}")
