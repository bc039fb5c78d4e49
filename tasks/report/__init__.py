"""The report: what was trained on what, how well it does, and what the gate says of it.

One set of `facts` in several forms: `page` (report.html), `words` (report.md, the run's page, the command line),
`figures` for both; `render` makes them all. Each is a function of the facts and the predictions alone, so that the
same model gives the same bytes. jinja2 and matplotlib are imported when something is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from tasks.arrays import Bytes, Probabilities
from tasks.report.facts import Facts, Mistake, worst_mistakes

# How many mistakes the report shows.
MISTAKES = 30

# Of report.json; goes up when a field changes its meaning or disappears.
SCHEMA_VERSION = 1


class Rendered(NamedTuple):
    """The report's forms, UTF-8: report.html, report.md, report.json, and Markdown with pictures for the run's page."""

    page: bytes
    text: bytes
    data: bytes
    run_page: bytes


def render(facts: Facts, images: Bytes, probabilities: Probabilities, labels: Bytes) -> Rendered:
    """Every form of the report; the same input gives the same bytes.

    Args:
        facts: What to tell.
        images: The test images, uint8 (n, 784) or (n, 28, 28).
        probabilities: What the model said of each, float32 (n, classes).
        labels: What each shows, uint8 (n,).
    """
    from tasks.report import figures, page, words

    mistakes = worst_mistakes(probabilities, labels, MISTAKES)
    pictures = images[[mistake.image for mistake in mistakes]]
    return Rendered(
        page=page.render(facts, mistakes, pictures),
        text=words.markdown(facts).encode(),
        data=_data(facts, mistakes),
        run_page=words.run_page(facts, figures.pictures(facts)).encode(),
    )


def _data(facts: Facts, mistakes: Sequence[Mistake]) -> bytes:
    """report.json: all the facts and the worst mistakes, keys sorted."""
    data = {
        "schema_version": SCHEMA_VERSION,
        **facts.model_dump(mode="json"),
        "mistakes": [mistake._asdict() for mistake in mistakes],
    }
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
