"""What a run leaves to its CI job, and what it does where that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flows.cli.ci_job import COMMENT, JUNIT, REPORTS, clear_reports, job_address, report_error, write_reports
from flows.cli.main import main
from tasks.errors import UsageError
from tasks.storage import ObjectStore, open_store
from tasks.values import Outcome
from tests.tasks.report.examples import example

EXAMPLE = example()
ERROR = UsageError("cannot <b>", "why", "Do.")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A store with the report of the run `one`."""
    store = open_store(str(tmp_path / "store"))
    for name in REPORTS:
        store.put(f"runs/one/{name}", EXAMPLE.document.model_dump_json(by_alias=True).encode())
    return store


def outcome(store: ObjectStore) -> Outcome:
    return Outcome(
        verdict="passed",
        run="one",
        store=store.url,
        decision=EXAMPLE.document.decision,
        receipt=None,
        report=store.address("runs/one/report.html"),
        steps=(),
    )


def stale(folder: Path) -> Path:
    """A folder as a good run has left it, with files of somebody else."""
    folder.mkdir()
    for name in (*REPORTS, JUNIT, COMMENT, "mine.txt"):
        (folder / name).write_text("of an earlier run")
    return folder


def test_the_job_is_named_on_github_and_gitlab_and_nowhere_else() -> None:
    github = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"}
    assert job_address(github) == "https://github.com/a/b/actions/runs/7"
    assert job_address({"CI_JOB_URL": "https://gitlab.com/a/b/-/jobs/7"}) == "https://gitlab.com/a/b/-/jobs/7"
    assert job_address({"GITHUB_SERVER_URL": "https://github.com"}) == job_address({}) == ""


def test_an_error_is_told_in_the_summary_after_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "summary"
    page.write_text("before\n")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    report_error(ERROR, None)
    assert page.read_text() == "before\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    report_error(ERROR, None)
    assert page.read_text() == "before\n## 💥 retrain failed\n\ncannot \\<b>: why. Do.\n"


def test_an_error_replaces_the_reports_of_an_earlier_run_and_no_other_file(tmp_path: Path) -> None:
    folder = stale(tmp_path / "report")
    report_error(ERROR, folder)
    assert sorted(path.name for path in folder.iterdir()) == [COMMENT, JUNIT, "mine.txt"]
    assert ElementTree.parse(folder / JUNIT).getroot().get("errors") == "1"
    assert (folder / COMMENT).read_text() == "## 💥 retrain failed\n\ncannot \\<b>: why. Do.\n"
    assert (folder / "mine.txt").read_text() == "of an earlier run"


def test_an_error_that_names_what_is_no_text_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    report_error(UsageError(f"cannot use {os.fsdecode(bytes([0xFF]))}", "why", "Do."), tmp_path)
    for name in ("summary", COMMENT):
        assert r"cannot use \\udcff: why" in (tmp_path / name).read_text()


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--dry-run", "--force-publish", "why"]])
def test_a_setting_that_cannot_be_used_leaves_no_green_report_either(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stale(tmp_path / "report")
    assert main(["run", *arguments, "--report-dir", str(folder)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert ElementTree.parse(folder / JUNIT).getroot().get("errors") == "1"
    assert not (folder / "report.json").exists()


def test_a_file_in_place_of_the_folder_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report"
    file.write_text("mine")
    assert main(["run", "--store", str(tmp_path / "store"), "--report-dir", str(file)]) == 2
    assert capsys.readouterr().err == f"retrain: cannot use --report-dir {file}: it is not a folder. Name a folder.\n"
    assert file.read_text() == "mine"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("folder", ["file/report", "/proc/retrain/report"])
def test_a_folder_that_cannot_be_written_is_a_warning(
    folder: str, store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    write_reports(outcome(store), tmp_path / folder)
    report_error(ERROR, tmp_path / folder)
    warnings = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"retrain: warning: cannot write {tmp_path / folder}/junit.xml: ") for line in warnings)
    assert all(line.startswith("retrain: warning: cannot ") for line in warnings)


@pytest.mark.parametrize("page", ["/dev/full", "/proc/retrain", "."])
def test_a_step_summary_that_cannot_be_written_is_a_warning(
    page: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", page)
    write_reports(outcome(store), tmp_path / "report")
    assert (tmp_path / "report" / JUNIT).exists()
    report_error(ERROR, None)
    warnings = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"retrain: warning: cannot write the step summary {page}: ") for line in warnings] == [
        True
    ] * 2


@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_a_report_that_cannot_be_read_is_a_warning(
    content: bytes | None, store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        store.delete("runs/one/report.json")
    else:
        store.put("runs/one/report.json", content)
    write_reports(outcome(store), tmp_path / "report")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"retrain: warning: cannot read the report {store.address('runs/one/report.html')}: ")


def test_the_step_summary_stays_below_its_limit_with_what_is_there(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "summary"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    for size in (1024 * 1024 - 4_000, 1024 * 1024 - 10, 1024 * 1024):
        page.write_bytes(b"x" * size)
        write_reports(outcome(store), None)
        report_error(ERROR, None)
        assert page.read_bytes().startswith(b"x" * size)
        assert page.stat().st_size <= 1024 * 1024
        assert ("… cut here" in page.read_text()) is (size == 1024 * 1024 - 4_000)


def test_only_the_names_of_a_run_are_deleted(tmp_path: Path) -> None:
    folder = stale(tmp_path / "report")
    clear_reports(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    clear_reports(tmp_path / "nowhere")
    clear_reports(None)
