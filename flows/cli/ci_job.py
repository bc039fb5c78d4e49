"""What a run leaves to its CI job: a folder of reports, and GitHub's step summary.

The exit code tells of the model, so a file that cannot be written here is a warning. Called by `main` and `run`; must
not import Prefect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks.address import Address
from tasks.errors import RetrainError, UsageError
from tasks.report.ci import (
    SUMMARY_LIMIT,
    comment,
    cut,
    error_comment,
    error_junit,
    error_summary,
    junit,
    outcome_line,
    summary,
)
from tasks.report.facts import Document
from tasks.storage import open_store
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Outcome

# Names the file that GitHub shows as the summary of the job.
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"

REPORTS = ("report.html", "report.json", "report.md", "report.schema.json")
JUNIT, COMMENT = "junit.xml", "comment.md"


def clear_reports(folder: Path | None) -> None:
    """Delete what an earlier run has left in the folder, so that no CI job takes it for this run's.

    Raises:
        UsageError: There is a file in the folder's place.
    """
    if folder is None:
        return
    if _is_file(folder):
        raise UsageError(f"cannot use --report-dir {folder}", "it is not a folder", "Name a folder.")
    for name in (*REPORTS, JUNIT, COMMENT):
        with _warning(f"delete {folder / name}"):
            (folder / name).unlink(missing_ok=True)


def write_reports(outcome: Outcome, folder: Path | None) -> None:
    """Write the report into the folder, if there is one, and append it to the step summary, if there is one."""
    if folder is None and STEP_SUMMARY not in os.environ:
        return
    with _warning(f"read the report {outcome.report}"):
        store = open_store(outcome.store)
        files = {name: store.get(f"runs/{outcome.run}/{name}", LARGEST_DOCUMENT).data for name in REPORTS}
        document = Document.model_validate_json(files["report.json"])
        became = outcome_line(outcome)
        files |= {JUNIT: junit(document), COMMENT: _utf8(comment(document, became, job_address(os.environ)))}
        _write(files, folder)
        _append_to_summary(lambda room: summary(document, became, room))


def report_error(error: RetrainError, folder: Path | None) -> None:
    """Leave the error of a run that has no verdict: in place of the reports, and in the step summary."""
    if folder and not _is_file(folder):
        clear_reports(folder)
        _write({JUNIT: error_junit(error), COMMENT: _utf8(error_comment(error, job_address(os.environ)))}, folder)
    _append_to_summary(lambda room: cut(error_summary(error), room))


def job_address(environment: Mapping[str, str]) -> str:
    """The address of this CI job on GitHub or GitLab; "" elsewhere."""
    if url := environment.get("CI_JOB_URL"):
        return Address(url)
    parts = [environment.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    server, repository, run = parts
    return f"{Address(server)}/{repository}/actions/runs/{run}" if all(parts) else ""


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a parent that cannot be read: whoever writes here will say so
        return False


def _write(files: Mapping[str, bytes], folder: Path | None) -> None:
    if folder is None:
        return
    for name, data in files.items():
        with _warning(f"write {folder / name}"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def _append_to_summary(text: Callable[[int], str]) -> None:
    """Append a text to the step summary, given the bytes that are left in it."""
    if not (path := os.environ.get(STEP_SUMMARY)):
        return
    with _warning(f"write the step summary {path}"), Path(path).open("ab") as file:
        file.write(_utf8(text(SUMMARY_LIMIT - file.tell())))


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")  # a path in an error may hold bytes that are no text


@contextmanager
def _warning(action: str) -> Iterator[None]:
    """Turn an error within the block into a warning."""
    try:
        yield
    except (OSError, ValueError, RetrainError) as error:  # ValueError: a report of the store that is damaged
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(f"retrain: warning: cannot {action}: {why.splitlines()[0]}", file=sys.stderr)
