"""A store of version 0.1.0 reads as it did then, and is carried on. See `make_store` for what it holds."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from flows.cli.models import VERIFIED
from tasks.learning.model_file import load, weights_digest
from tasks.registry import Registry
from tasks.report.facts import Document
from tasks.storage import open_store
from tasks.values import Decision
from tests.model_files import small_model
from tests.stores.make_store import build

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
MODEL = "digits"
VERSIONS = sorted(EXPECTED["versions"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The old store, unpacked."""
    with tarfile.open(HERE / "0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return tmp_path / "store"


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(open_store(str(store)), MODEL)


def retrain(store: Path, *arguments: str) -> int:
    return main([*arguments, "--store", str(store), "--dataset", MODEL])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(store: Path) -> dict[str, bytes]:
    return contents(store / "models" / MODEL)


def digests(files: dict[str, bytes]) -> list[list[str]]:
    return [[path, hashlib.sha256(data).hexdigest()] for path, data in sorted(files.items())]


def facts() -> dict[str, Any]:
    return {"metrics": {"accuracy": 0.98}}


def test_the_store_holds_what_it_is_kept_for(store: Path, registry: Registry) -> None:
    names = sorted(published(store))
    assert VERSIONS == ["1", "2", "3"]
    assert all(f"versions/{version}/model.onnx" in names for version in VERSIONS)
    assert len([name for name in names if name.startswith("history/")]) == EXPECTED["champion"]["generation"] == 6
    assert "reference.json" in names
    decisions = [registry.manifest(int(version)).facts["decision"] for version in VERSIONS]
    assert [decision["override"] is not None for decision in decisions] == [False, False, True]
    verdicts = [json.loads(path.read_bytes())["verdict"] for path in store.glob("runs/*/decision.json")]
    assert sorted(verdicts) == ["publish", "publish", "publish", "reject"]


@pytest.mark.parametrize("command", sorted(EXPECTED["commands"]))
def test_a_command_prints_what_it_printed_then(command: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = command.split(), EXPECTED["commands"][command]
    source = words[0] in {"show", "compare"}
    code = retrain(store, *words, *(["--markdown"] if source else []))
    printed = capsys.readouterr().out.replace(str(store), "STORE").removesuffix(f"{VERIFIED}\n")
    if source:  # today a report is laid out for a terminal, and its files are listed below
        assert len(printed) > 300 or code
        expected = expected | {"stdout": expected["stdout"][: len(printed)]}
    assert {"code": code, "stdout": printed} == expected


def test_the_champion_is_the_one_it_was(registry: Registry) -> None:
    champion = registry.champion()
    assert champion
    assert {name: getattr(champion, name) for name in EXPECTED["champion"]} == EXPECTED["champion"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_fetched_byte_for_byte(version: str, store: Path, registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    assert retrain(store, "fetch", str(folder), "--version", version) == 0
    fetched = contents(folder)
    kept = (store / "models" / MODEL / "versions" / version / "manifest.json").read_bytes()
    assert fetched.pop("manifest.json") == kept, "a manifest that is read and written again is the same bytes"
    assert digests(fetched) == EXPECTED["versions"][version]["files"]
    assert registry.manifest(int(version)).identity == EXPECTED["versions"][version]["identity"]


def test_the_champion_is_what_is_fetched_without_a_version(store: Path, tmp_path: Path) -> None:
    assert retrain(store, "fetch", str(tmp_path / "fetched")) == 0
    fetched = contents(tmp_path / "fetched")
    del fetched["manifest.json"]
    assert digests(fetched) == EXPECTED["versions"][str(EXPECTED["champion"]["version"])]["files"]


def test_the_models_load_with_the_weights_that_they_were_published_with(registry: Registry) -> None:
    """The test images are not in the store, so what the models predict is not compared.

    The digest covers the weights' paths, and those of a loaded model are not those of the one that was trained.
    """
    found = set()
    for version in VERSIONS:
        loaded = load(registry.read(int(version), "model.keras"))
        assert (type(loaded).__name__, loaded.input_shape, loaded.output_shape) == (
            "Sequential",
            (None, 784),
            (None, 10),
        )
        trained = build(784)
        trained.set_weights(loaded.get_weights())
        digest = weights_digest(trained)
        assert digest == registry.manifest(int(version)).facts["weights_digest"]
        assert digest == EXPECTED["versions"][version]["weights_digest"]
        found.add(digest)
    assert len(found) == len(VERSIONS)


def test_decisions_and_reports_are_read_whole(store: Path, registry: Registry) -> None:
    """Newer code may know more fields, if they have defaults; what is there is kept."""
    told = [registry.manifest(int(version)).facts["decision"] for version in VERSIONS]
    told += [json.loads(path.read_bytes()) for path in store.glob("runs/*/decision.json")]
    assert len(told) == 7
    assert [Decision.model_validate(each).model_dump(mode="json", exclude_unset=True) for each in told] == told
    reports = [path.read_bytes() for path in store.rglob("report.json")]
    assert len(reports) == 7
    for report in reports:
        read = Document.model_validate_json(report)
        assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == json.loads(report)


def test_a_publish_carries_the_history_on(store: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    before, champion = published(store), registry.champion()
    assert champion
    receipt = registry.publish({"model.keras": small_model()}, facts(), "better", after=champion.publish_id)
    assert (receipt.new, receipt.version, receipt.champion) == (True, 4, 4)

    latest = registry.champion()
    assert latest
    assert (latest.version, latest.generation, latest.previous) == (4, champion.generation + 1, champion.version)
    after = published(store)
    moved = before.pop("champion.json")
    assert {name: after[name] for name in before} == before, "what was there is as it was"
    assert after["champion.json"] != moved
    assert sorted(name.split("/")[0] for name in after.keys() - before.keys()) == [
        "champion.json",
        "history",
        *["versions"] * 3,
    ]

    assert retrain(store, "history") == 0
    printed = capsys.readouterr().out
    old, new = EXPECTED["commands"]["history"]["stdout"], "version 4  better\n"
    assert printed.startswith(old)
    assert printed.removeprefix(old).startswith(f"{champion.generation + 1:>4}  ")
    assert printed.removeprefix(old).endswith(new)
    assert retrain(store, "verify") == 0
    assert registry.rollback(None, "back").version == champion.version


@pytest.mark.parametrize("version", VERSIONS)
def test_files_that_were_published_then_are_no_new_version_now(version: str, store: Path, registry: Registry) -> None:
    before, manifest = published(store), registry.manifest(int(version))
    files = {file.path: registry.read(int(version), file.path) for file in manifest.files}
    receipt = registry.publish(files, facts(), "again")
    assert (receipt.new, receipt.version, receipt.champion) == (False, int(version), EXPECTED["champion"]["version"])
    assert published(store) == before
