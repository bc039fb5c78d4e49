"""The report step: every form of the report from the same facts. Called by the flow."""

from __future__ import annotations

import json

from tasks.arrays import from_npy, from_npz
from tasks.caching.steps import Run, step
from tasks.report.facts import Facts, worst_mistakes
from tasks.values import Reports

MISTAKES = 30


@step(packages=["matplotlib", "jinja2"])
def report(facts: Facts, run: Run) -> Reports:
    """Render the report and keep it."""
    from tasks.report import figures, page, words

    probabilities, labels = from_npz(run.artifacts.get(facts.evaluation.predictions))
    mistakes = worst_mistakes(probabilities, labels, MISTAKES)
    pictures = from_npy(run.artifacts.get(facts.prepared.test.images))[[mistake.image for mistake in mistakes]]
    data = {"schema": 1, **facts.model_dump(mode="json"), "mistakes": [mistake._asdict() for mistake in mistakes]}
    return Reports(
        html=run.artifacts.put(page.render(facts, mistakes, pictures), "text/html"),
        markdown=run.artifacts.put(words.markdown(facts).encode(), "text/markdown"),
        data=run.artifacts.put(
            json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode(), "application/json"
        ),
        run_page=run.artifacts.put(words.run_page(facts, figures.pictures(facts)).encode(), "text/markdown"),
    )
