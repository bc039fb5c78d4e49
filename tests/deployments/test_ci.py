"""The shell lines of the CI workflows, run as CI runs them: a bad model and an error have different exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
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


class Job(NamedTuple):
    """A step of a CI job: the shell in which CI runs it, and its lines."""

    shell: list[str]
    lines: str

    @property
    def on_github(self) -> bool:
        """Whether it annotates the job, as GitHub does."""
        return self.shell == GITHUB_SHELL


GITHUB_SHELL, GITLAB_SHELL = ["bash", "-e"], ["bash", "-eo", "pipefail"]


def github(job: str) -> Job:
    steps = loaded(ROOT / ".github/workflows/retrain.yml")["jobs"][job]["steps"]
    (step,) = [step for step in steps if step.get("name") == "Retrain"]
    assert "shell" not in step
    return Job(GITHUB_SHELL, step["run"])


def gitlab(job: str) -> Job:
    return Job(GITLAB_SHELL, "\n".join(loaded(ROOT / "deployments/gitlab-ci.yml")[job]["script"]))


MAIN = [github("publish"), gitlab("retrain")]
PULL_REQUEST = [github("judge"), gitlab("retrain-merge-request")]
IDS = ["github", "gitlab"]


def by_day(jobs: list[Job], system: str) -> list[Any]:
    """Parameters of a slow test: by day the job of one system only, as both have the same lines but for annotations."""
    named = zip(jobs, IDS, strict=True)
    return [pytest.param(job, id=name, marks=[pytest.mark.nightly] * (name != system)) for job, name in named]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose `.venv/bin/retrain` is this code, as `make install` leaves it."""
    command = tmp_path / ".venv/bin/retrain"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m flows.cli.main "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def server(prefect_server: None) -> dict[str, str]:
    """The environment with which a job uses the server of the tests instead of starting one."""
    from prefect.settings import PREFECT_API_URL

    return {"PREFECT_API_URL": PREFECT_API_URL.value() or "", "CI_JOB_URL": "https://ci/job/7"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Main's store, as the CI cache keeps it, with a first version; the other recipes of these tests are cached too."""
    from flows.cli.main import main

    store = tmp_path_factory.mktemp("kept") / "store"
    run = ["run", "--dataset", "digits", "--store", str(store)]
    assert main(run) == 0
    assert main([*run, "--dry-run", "--seed", "1", "--max-regression", "0.1"]) == 0
    assert main([*run, "--dry-run", "--epochs", "1", "--learning-rate", BAD["RETRAIN_LEARNING_RATE"]]) == 3
    return store


@pytest.fixture
def restored(kept: Path, checkout: Path) -> Path:
    """A copy of main's store in the checkout."""
    return Path(shutil.copytree(kept, checkout / "store"))


def run_job(job: Job, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.sh"
    script.write_text(job.lines)
    settings = {**os.environ, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), **environment}
    return subprocess.run(
        [*job.shell, str(script)], cwd=folder, env=settings, capture_output=True, text=True, check=False, timeout=150
    )


def models(store: Path) -> dict[str, bytes]:
    """What is published there; not the page, on which a rejected run stands too."""
    page = {"runs", "runs.jsonl", "index.html"}
    files = [path for path in (store / "models").rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if not page & {*path.relative_to(store / "models").parts}}


@pytest.mark.parametrize("job", [*by_day(MAIN, "gitlab"), *by_day(PULL_REQUEST, "github")])
def test_a_bad_recipe_is_rejected_with_3_and_everything_is_left_for_the_reviewer(
    job: Job, checkout: Path, restored: Path, server: dict[str, str]
) -> None:
    before = models(restored)
    done = run_job(job, checkout, **BAD, **server)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    report = checkout / "report"
    assert sorted(path.name for path in report.iterdir()) == REPORT_FILES
    failures = ElementTree.parse(report / "junit.xml").getroot().findall(".//failure")
    assert any("test images are right" in (failure.get("message") or "") for failure in failures)
    assert any(check.get("name") == "loss to champion v1" for check in ElementTree.parse(report / "junit.xml").iter())
    for text in (checkout / "summary.md", report / "comment.md"):
        assert text.read_text().startswith("## ❌ digits: Rejected by the gate\n")
        assert "Nothing was compared" not in text.read_text()
    assert "[The whole report](https://ci/job/7)" in (report / "comment.md").read_text()
    assert models(restored) == before, "nothing is published"
    if job.on_github:
        assert "::error title=Rejected by the gate::" in done.stdout


@pytest.mark.parametrize("job", by_day(PULL_REQUEST, "github"))
def test_a_pull_request_is_judged_against_main_each_time_and_publishes_nothing(
    job: Job, checkout: Path, restored: Path, server: dict[str, str]
) -> None:
    before = models(restored)
    lenient = {"RETRAIN_SEED": "1", "RETRAIN_MAX_REGRESSION": "0.1", "RETRAIN_DATASET": "digits"}
    for _ in range(2):
        done = run_job(job, checkout, **lenient, **server)
        assert done.returncode == 0, done.stderr
        assert "PASSED: accuracy 0." in done.stdout
        assert "loss to champion v1" in done.stdout
        assert "Nothing was published (--dry-run)." in done.stdout
    assert "Nothing was published: this run only judges.\n" in (checkout / "report/comment.md").read_text()
    assert models(restored) == before
    done = run_job(job, checkout, RETRAIN_DATASET="digits", **server)
    assert "UNCHANGED: digits version 1 is this model already" in done.stdout
    assert "Unchanged: version 1 is this model already.\n" in (checkout / "report/comment.md").read_text()


@pytest.mark.parametrize("job", by_day(PULL_REQUEST, "gitlab"))
def test_a_pull_request_reads_mains_own_store_and_writes_to_the_runners_folder(
    job: Job, checkout: Path, kept: Path, restored: Path, server: dict[str, str]
) -> None:
    shutil.rmtree(restored / "models")
    before = {path: path.stat().st_mtime_ns for path in [kept, *kept.rglob("*")]}
    done = run_job(job, checkout, **BAD, RETRAIN_BASELINE=str(kept), **server)
    assert done.returncode == 3, done.stderr
    assert "loss to champion v1" in (checkout / "report/comment.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in [kept, *kept.rglob("*")]} == before
    assert (checkout / "store/runs").exists()
    assert not (checkout / "store/models").exists()


@pytest.mark.parametrize("job", PULL_REQUEST, ids=IDS)
def test_a_pull_request_with_nothing_to_compare_with_is_red_before_the_training(
    job: Job, checkout: Path, server: dict[str, str]
) -> None:
    done = run_job(job, checkout, RETRAIN_DATASET="digits", **server)
    assert done.returncode == 1
    why = "cannot compare with the champion of digits: there is none in file://"
    assert done.stderr.splitlines()[-1].startswith(f"retrain: {why}")
    for text in (checkout / "summary.md", checkout / "report/comment.md"):
        assert text.read_text().startswith(f"## 💥 retrain failed\n\n{why}")
    assert ElementTree.parse(checkout / "report/junit.xml").getroot().get("errors") == "1"
    assert not [path for path in (checkout / "store/cache").rglob("*") if path.is_file()], "nothing is trained"
    if job.on_github:
        assert "::error title=The retraining failed::It ended with exit code 1 and was not judged" in done.stdout


@pytest.mark.parametrize("job", MAIN, ids=IDS)
def test_main_publishes_and_says_where_nothing_was_compared(
    job: Job, checkout: Path, restored: Path, server: dict[str, str]
) -> None:
    shutil.rmtree(restored / "models")  # as in a new cache; only the steps are kept, for the sake of speed
    done = run_job(job, checkout, RETRAIN_DATASET="digits", **server)
    assert done.returncode == 0, done.stderr
    assert "PUBLISHED digits version 1" in done.stdout
    assert "No champion can be read" in done.stdout
    for text in (checkout / "summary.md", checkout / "report/comment.md"):
        assert "Published as version 1. **Nothing was compared: there is no champion yet.**" in text.read_text()
    if job.on_github:
        assert "::warning title=Nothing to compare with::" in done.stdout
    done = run_job(job, checkout, RETRAIN_DATASET="digits", **server)
    assert "UNCHANGED: digits version 1" in done.stdout
    assert "No champion can be read" not in done.stdout


@pytest.mark.parametrize(
    "job", [*MAIN, *PULL_REQUEST], ids=[f"{job}-{where}" for job in ("main", "pull-request") for where in IDS]
)
@pytest.mark.parametrize(
    ("environment", "code"),
    [({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, 1), ({"RETRAIN_EPOCHS": "0"}, 2)],
)
def test_an_error_has_another_code_and_says_so(
    job: Job, environment: dict[str, str], code: int, checkout: Path
) -> None:
    (checkout / "report").mkdir()
    (checkout / "report/junit.xml").write_text("<testsuites/>")
    done = run_job(job, checkout, **environment)
    assert done.returncode == code
    for text in (checkout / "summary.md", checkout / "report/comment.md"):
        assert text.read_text().startswith("## 💥 retrain failed\n\ncannot ")
    assert ElementTree.parse(checkout / "report/junit.xml").getroot().get("errors") == "1"
    if job.on_github:
        assert f"::error title=The retraining failed::It ended with exit code {code}" in done.stdout


def test_code_that_is_not_merged_can_write_to_nothing_that_lasts_on_github() -> None:
    jobs = loaded(ROOT / ".github/workflows/retrain.yml")["jobs"]
    assert (jobs["publish"]["if"], jobs["publish"]["environment"]) == ("github.ref == 'refs/heads/main'", "production")
    assert jobs["judge"]["if"] == "github.event_name == 'pull_request'"
    assert "environment" not in jobs["judge"]
    secrets = {name: set(re.findall(r"secrets\.(\w+)", str(job))) for name, job in jobs.items()}
    assert secrets["judge"] == {"READ_ONLY_AWS_ACCESS_KEY_ID", "READ_ONLY_AWS_SECRET_ACCESS_KEY"}
    assert secrets["comment"] == set()
    caches = {
        name: [step for step in job["steps"] if "actions/cache" in step.get("uses", "")] for name, job in jobs.items()
    }
    assert [step["uses"].split("@")[0] for step in caches["judge"]] == ["actions/cache/restore"]
    assert caches["judge"][0]["with"] == caches["publish"][0]["with"], "a pull request restores what main has saved"
    assert caches["publish"][1]["with"]["key"].startswith(caches["judge"][0]["with"]["restore-keys"])
    lines = {name: github(name).lines for name in ("publish", "judge")}
    assert "--dry-run --require-champion" in lines["judge"]
    assert "--dry-run" not in lines["publish"]


def test_code_that_is_not_merged_can_write_to_nothing_that_lasts_on_gitlab() -> None:
    jobs = loaded(ROOT / "deployments/gitlab-ci.yml")
    main, request = jobs["retrain"], jobs["retrain-merge-request"]
    assert main["rules"] == [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
    assert request["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'}]
    assert main["environment"]["name"] == "production"
    assert "environment" not in request
    (saved,), (read,) = ([each for each in job["cache"] if each["paths"] == ["store"]] for job in (main, request))
    assert read == {**saved, "policy": "pull"}
    # GitLab keeps the caches of protected branches apart: without this a merge request never sees main's.
    assert saved["unprotect"] is True
    assert saved.get("policy", "pull-push") == "pull-push"


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


def test_the_workflow_of_the_tests_runs_what_has_to_pass_before_a_change_lands() -> None:
    required = re.findall(r"^make (test[a-z0-9-]*)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    (job,) = loaded(ROOT / ".github/workflows/test.yml")["jobs"].values()
    assert job["strategy"]["matrix"] == {"target": required}
    assert job["env"] == {"TARGET": "${{ matrix.target }}"}
    assert job["steps"][-1] == {"run": 'make "$TARGET"'}
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {*required, "install"} <= targets
    for path in (ROOT / ".github/workflows/retrain.yml", ROOT / "deployments/gitlab-ci.yml"):
        assert "make install" in path.read_text()
