"""What a run leaves to the CI job that it runs in: files in a folder, and GitHub's step summary.

Called by the command line; no Prefect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import RetrainError
from tasks.report.ci import comment, failed, junit, summary
from tasks.report.facts import Document
from tasks.storage import open_store
from tasks.values import Outcome

# The file that becomes part of a GitHub job's page.
SUMMARY = "GITHUB_STEP_SUMMARY"

REPORTS = ("report.html", "report.json", "report.md", "report.schema.json")


def write_reports(outcome: Outcome, folder: Path | None) -> None:
    """Write the run's report into a folder, and add it to the step summary; each where it is asked for."""
    if folder is None and SUMMARY not in os.environ:
        return
    store = open_store(outcome.store)
    files = {name: store.get(f"runs/{outcome.run}/{name}").data for name in REPORTS}
    told = Document.model_validate_json(files["report.json"])
    if folder:
        files |= {"junit.xml": junit(told), "comment.md": comment(told, job_address(os.environ)).encode()}
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    _append(summary(told))


def report_error(error: RetrainError) -> None:
    """Add to the step summary that the run ended with an error instead of a verdict."""
    _append(failed(str(error)))


def job_address(environment: Mapping[str, str]) -> str:
    """The page of the CI job that this is, on GitHub or GitLab; "" elsewhere."""
    if url := environment.get("CI_JOB_URL"):
        return url
    parts = [environment.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    server, repository, run = parts
    return f"{server}/{repository}/actions/runs/{run}" if all(parts) else ""


def _append(text: str) -> None:
    if path := os.environ.get(SUMMARY):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
