"""The report step: every form of the report from the same facts. Called by the flow, record and publish.

Cached by the facts and the versions of the packages that draw it.
"""

from __future__ import annotations

from tasks.caching.steps import Run, step
from tasks.data.arrays import from_npy, from_npz
from tasks.report import render
from tasks.report.facts import Facts
from tasks.report.schema import FILE, schema
from tasks.values import Reports


@step(packages=["matplotlib", "jinja2", "numpy", "scipy"])
def report(facts: Facts, run: Run) -> Reports:
    """Render the report and put each form into the store."""
    probabilities, labels = from_npz(run.artifacts.get(facts.candidate.evaluation.predictions))
    images = from_npy(run.artifacts.get(facts.candidate.prepared.test.images))
    rendered = render(facts, images, probabilities, labels)
    return Reports(
        html=run.artifacts.put(rendered.html, "text/html"),
        markdown=run.artifacts.put(rendered.markdown, "text/markdown"),
        data=run.artifacts.put(rendered.data, "application/json"),
        run_page=run.artifacts.put(rendered.run_page, "text/markdown"),
    )


def report_files(reports: Reports, run: Run) -> dict[str, bytes]:
    """The report's files, by name, with the schema of report.json."""
    artifacts = {"report.html": reports.html, "report.md": reports.markdown, "report.json": reports.data}
    return {name: run.artifacts.get(artifact) for name, artifact in artifacts.items()} | {FILE: schema()}
