"""The shell lines of the CI workflows, run as CI runs them: a bad model and an error have different exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.flows.cli.test_main import REPORT_FILES

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

# A recipe that learns next to nothing.
BAD = {"RETRAIN_DATASET": "digits", "RETRAIN_EPOCHS": "1", "RETRAIN_LEARNING_RATE": "0.000001"}


def loaded(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def github_step() -> tuple[list[str], str]:
    """The shell in which GitHub runs the step that retrains, and its lines."""
    steps = loaded(ROOT / ".github/workflows/retrain.yml")["jobs"]["retrain"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "Retrain"]
    assert "shell" not in step
    return ["bash", "-e"], step["run"]


def gitlab_step() -> tuple[list[str], str]:
    """The shell in which a GitLab runner runs a script, and its lines."""
    lines = loaded(ROOT / "deployments/gitlab-ci.yml")["retrain"]["script"]
    return ["bash", "-eo", "pipefail"], "\n".join(lines)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose `.venv/bin/retrain` is this code, as `make install` leaves it."""
    command = tmp_path / ".venv/bin/retrain"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m flows.cli.main "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all jobs, as in the CI cache: the second job reuses what the first one trained."""
    return tmp_path_factory.mktemp("kept")


def run_step(step: tuple[list[str], str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    shell, lines = step
    script = folder / "script.sh"
    script.write_text(lines)
    settings = {**os.environ, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), **environment}
    return subprocess.run(
        [*shell, str(script)], cwd=folder, env=settings, capture_output=True, text=True, check=False, timeout=150
    )


@pytest.mark.parametrize("step", [github_step(), gitlab_step()], ids=["github", "gitlab"])
def test_a_bad_recipe_is_rejected_with_3_and_everything_is_left_for_the_reviewer(
    step: tuple[list[str], str], checkout: Path, store: Path, prefect_server: None
) -> None:
    from prefect.settings import PREFECT_API_URL

    (checkout / "store").symlink_to(store)
    done = run_step(step, checkout, **BAD, PREFECT_API_URL=PREFECT_API_URL.value() or "", CI_JOB_URL="https://ci/job/7")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    report = checkout / "report"
    assert sorted(path.name for path in report.iterdir()) == REPORT_FILES
    failures = ElementTree.parse(report / "junit.xml").getroot().findall(".//failure")
    assert any("test images are right" in (failure.get("message") or "") for failure in failures)
    for text in (checkout / "summary.md", report / "comment.md"):
        assert text.read_text().startswith("## ❌ digits: Rejected by the gate\n")
    assert "[The whole report](https://ci/job/7)" in (report / "comment.md").read_text()
    assert not (checkout / "store/models").exists(), "nothing is published"
    if step == github_step():
        assert "::error title=Rejected by the gate::" in done.stdout


@pytest.mark.parametrize("step", [github_step(), gitlab_step()], ids=["github", "gitlab"])
@pytest.mark.parametrize(
    ("environment", "code"),
    [({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, 1), ({"RETRAIN_EPOCHS": "0"}, 2)],
)
def test_an_error_has_another_code_and_says_so(
    step: tuple[list[str], str], environment: dict[str, str], code: int, checkout: Path
) -> None:
    done = run_step(step, checkout, **environment)
    assert done.returncode == code
    assert (checkout / "summary.md").read_text().startswith("## 💥 retrain failed\n\ncannot ")
    if step == github_step():
        assert f"::error title=The retraining failed::It ended with exit code {code}" in done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_workflows_may_read_and_no_more_and_name_their_actions_versions(path: Path) -> None:
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job
        assert job.get("permissions", {}) == ({"pull-requests": "write"} if name == "comment" else {})
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[a-z-/]+@v\d+", step.get("uses", "actions/none@v0"))
            # An expression in a script would let a pull request's title or branch inject commands.
            assert "${{" not in step.get("run", "")
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_workflows_run_commands_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = "\n".join(path.read_text() for path in [*WORKFLOWS, ROOT / "deployments/gitlab-ci.yml"])
    used = set(re.findall(r"make ([a-z-]+)$", lines, re.MULTILINE)) - {"make"}
    assert {"install", "test", "test-faults"} <= used
    assert used <= targets
