"""The report step: every form of the report from the same facts. Called by the flow."""

from __future__ import annotations

from tasks.arrays import from_npy, from_npz
from tasks.caching.steps import Run, step
from tasks.report import render
from tasks.report.facts import Facts
from tasks.values import Reports


@step(packages=["matplotlib", "jinja2", "numpy", "scipy"])
def report(facts: Facts, run: Run) -> Reports:
    """Render the report and keep it."""
    probabilities, labels = from_npz(run.artifacts.get(facts.evaluation.predictions))
    images = from_npy(run.artifacts.get(facts.prepared.test.images))
    made = render(facts, images, probabilities, labels)
    return Reports(
        html=run.artifacts.put(made.page, "text/html"),
        markdown=run.artifacts.put(made.text, "text/markdown"),
        data=run.artifacts.put(made.data, "application/json"),
        run_page=run.artifacts.put(made.run_page, "text/markdown"),
    )
