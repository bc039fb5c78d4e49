"""The record step: keep decision and report of every run, published or not. Called by the flow.

Not cached: each run has a folder of its own, `runs/<run>/`.
"""

from __future__ import annotations

from tasks.caching.keys import canonical
from tasks.caching.steps import Run, step
from tasks.report.formatting import accuracy_line
from tasks.report.prefect_artifacts import show_markdown
from tasks.report.step import report_files
from tasks.values import Decision, Record, Reports


@step(cached=False)
def record(model: str, decision: Decision, reports: Reports, run: Run) -> Record:
    """Write decision and report to `runs/<run>/`, and show the report as the artifact `report` on the run's page."""
    files = report_files(reports, run) | {"decision.json": canonical(decision.model_dump(mode="json"))}
    for path, data in files.items():
        run.store.put(f"runs/{run.id}/{path}", data)
    address = run.store.address(f"runs/{run.id}/report.html")
    text = f"The whole report: `{address}`\n\n{run.artifacts.get(reports.run_page).decode()}"
    show_markdown("report", text, f"{model}: {accuracy_line(decision)}")
    return Record(report=address)
