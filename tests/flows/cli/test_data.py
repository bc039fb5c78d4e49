"""`retrain data check` and `retrain init` of a source that grows."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from flows.cli.data import slug
from flows.cli.main import main
from tasks.data.content import Split
from tests.source_files import some
from tests.tasks.data.sources.test_batches import save
from tests.tasks.data.sources.test_trees import upload


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three batches in the current folder; the second has images of one class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETRAIN_CONFIG", raising=False)
    folder = tmp_path / "Big Letters"
    save(folder / "2026-11-24.npz", some(90))
    save(folder / "2026-11-25.npz", Split(some(40, seed=1).images, np.full(40, 2, np.uint8)))
    save(folder / "2026-11-26.npz", some(90, seed=2))
    return folder


def checked(capsys: pytest.CaptureFixture[str], source: str, *more: str, status: int = 0) -> tuple[list[str], str]:
    assert main(["data", "check", "--source", source, *more]) == status
    out, errors = capsys.readouterr()
    return out.splitlines(), errors


def test_each_batch_has_a_row_and_then_comes_what_a_run_sees_of_all(
    letters: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, _ = checked(capsys, "./Big Letters/*")
    assert lines[0] == "source    ./Big Letters/*"
    assert [line.split(": ")[0] for line in lines[1:4]] == [f"batch     2026-11-{day}" for day in (26, 25, 24)]
    assert lines[2].endswith(" test images, 1 class: 2")
    counts = [[int(line.split(word)[0].split()[-1]) for word in (" images", " test images")] for line in lines[1:4]]
    assert [sum(each) for each in counts] == [90, 40, 90]
    train, test = np.sum(counts, axis=0)
    assert lines[4:7] == ["format    npz", "images    8 × 8 pixels, grey", "classes   3: 0, 1, 2"]
    assert lines[7].startswith(f"train     {train} images, ")
    assert lines[8].startswith(f"test      {test} images, ")
    upload(letters, f"{bucket}/letters")
    assert checked(capsys, f"{bucket}/letters/*")[0][1:] == lines[1:]


def test_only_the_batches_of_the_window_are_read(letters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (letters / "2026-11-20.npz").write_bytes(b"is not read")
    lines, _ = checked(capsys, "./Big Letters/*", "--window", "2")
    assert [line[:20] for line in lines if line.startswith("batch")] == ["batch     2026-11-26", "batch     2026-11-25"]


def test_a_batch_that_cannot_be_read_is_a_row_and_the_end(letters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for day in (24, 25):
        (letters / f"2026-11-{day}.npz").write_bytes(b"<html>")
    lines, errors = checked(capsys, "./Big Letters/*", status=1)
    assert lines[2].startswith("batch     cannot read the batch 2026-11-25: 2026-11-25.npz: it is not a valid .npz")
    assert lines[5] == "images    8 × 8 pixels, grey"
    assert "2026-11-24 and 1 more of 3 cannot be read. Correct them, or leave them out for good: --without." in errors
    (letters / "2026-11-26.npz").write_bytes(b"<html>")
    lines, errors = checked(capsys, "./Big Letters/*", status=1)
    assert len(lines) == 4
    assert "cannot read the batch 2026-11-24: " in errors


def test_of_many_batches_the_last_twenty_have_a_row(letters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(19):
        save(letters / f"2027-{number:02}.npz", some(4, seed=number + 10))
    lines, _ = checked(capsys, "./Big Letters/*")
    rows = [line for line in lines if line.startswith("batch")]
    assert len(rows) == 20
    assert rows[0].startswith("batch     2027-18: ")
    assert lines[21] == "          … and 2 more"


def test_init_names_the_model_after_the_folder_of_the_batches(
    letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--source", "./Big Letters/*"]) == 0
    text = (letters.parent / "retrain.toml").read_text()
    file = tomllib.loads(text)
    assert (file["model"], file["data"]) == ("big-letters", {"source": "./Big Letters/*"})
    assert "#   batch     2026-11-25: " in text
    assert "batch     2026-11-24: " in capsys.readouterr().out


@pytest.mark.parametrize("source", ["s3://data/letters/*", "/data/Letters/*", "file:///letters/*", "./letters"])
def test_the_slug_of_an_address(source: str) -> None:
    assert slug(source) == "letters"
