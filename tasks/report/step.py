"""The report step: every form of the report from the same facts. Called by the flow, record and publish.

Cached by the facts and the versions of the packages that draw it.
"""

from __future__ import annotations

from collections.abc import Callable

from tasks.caching.steps import Run, step
from tasks.data.arrays import from_npy, from_npz
from tasks.report import Rendered, render
from tasks.report.facts import Document, Facts
from tasks.report.schema import FILE, schema
from tasks.values import Artifact, Reports


def _fits(result: Reports, read: Callable[[Artifact], bytes], facts: Facts, *_: object) -> None:
    for page in (result.html, result.markdown, result.run_page):
        read(page).decode()
    document, candidate = Document.model_validate_json(read(result.data)), facts.candidate
    told = (document.decision, document.trained, document.evaluation)
    if told != (facts.decision, candidate.trained, candidate.evaluation):
        raise ValueError("it is the report of another model")


@step(packages=["matplotlib", "jinja2", "numpy", "pillow", "scipy"], fits=_fits)
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


def report_files(rendered: Rendered) -> dict[str, bytes]:
    """The report's files, by name, with the schema of report.json."""
    return {
        "report.html": rendered.html,
        "report.md": rendered.markdown,
        "report.json": rendered.data,
        FILE: schema(),
    }
