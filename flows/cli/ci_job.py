"""What a run leaves to its CI job: a folder of reports, and GitHub's step summary.

Called by `main` and `run`; must not import Prefect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import RetrainError
from tasks.report.ci import comment, error_summary, junit, summary
from tasks.report.facts import Document
from tasks.storage import open_store
from tasks.values import Outcome

# Names the file that GitHub shows as the summary of the job.
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"

REPORTS = ("report.html", "report.json", "report.md", "report.schema.json")


def write_reports(outcome: Outcome, folder: Path | None) -> None:
    """Write the report into the folder, if there is one, and append it to the step summary, if there is one."""
    if folder is None and STEP_SUMMARY not in os.environ:
        return
    store = open_store(outcome.store)
    files = {name: store.get(f"runs/{outcome.run}/{name}").data for name in REPORTS}
    document = Document.model_validate_json(files["report.json"])
    if folder:
        files |= {"junit.xml": junit(document), "comment.md": comment(document, job_address(os.environ)).encode()}
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    _append_to_summary(summary(document))


def report_error(error: RetrainError) -> None:
    """Append the error of a run that has no verdict to the step summary."""
    _append_to_summary(error_summary(str(error)))


def job_address(environment: Mapping[str, str]) -> str:
    """The address of this CI job on GitHub or GitLab; "" elsewhere."""
    if url := environment.get("CI_JOB_URL"):
        return url
    parts = [environment.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    server, repository, run = parts
    return f"{server}/{repository}/actions/runs/{run}" if all(parts) else ""


def _append_to_summary(text: str) -> None:
    if path := os.environ.get(STEP_SUMMARY):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
