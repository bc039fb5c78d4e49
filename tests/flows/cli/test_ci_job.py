from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.ci_job import job_address, report_error
from tasks.errors import UsageError


def test_the_job_is_named_on_github_and_gitlab_and_nowhere_else() -> None:
    github = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"}
    assert job_address(github) == "https://github.com/a/b/actions/runs/7"
    assert job_address({"CI_JOB_URL": "https://gitlab.com/a/b/-/jobs/7"}) == "https://gitlab.com/a/b/-/jobs/7"
    assert job_address({"GITHUB_SERVER_URL": "https://github.com"}) == job_address({}) == ""


def test_an_error_is_told_in_the_summary_after_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "summary"
    page.write_text("before\n")
    error = UsageError("cannot <b>", "why", "Do.")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    report_error(error)
    assert page.read_text() == "before\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    report_error(error)
    assert page.read_text() == "before\n## 💥 retrain failed\n\ncannot \\<b>: why. Do.\n"
