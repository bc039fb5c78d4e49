"""The report: what was trained on what, how well it does, and what the gate says of it.

One set of `facts` in several forms: `html` (report.html), `markdown` (report.md, the run's page), `formatting` (how
numbers and rows read) and `figures` for both; `render` makes them all. Each is a function of the facts and the
predictions alone, so that the same model gives the same bytes. jinja2 and matplotlib are imported when something is
rendered.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from tasks.data.arrays import Bytes, Probabilities
from tasks.report.facts import Document, Facts, document


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
    from tasks.report import figures, html, markdown

    told = document(facts, probabilities, labels)
    return Rendered(
        page=html.render(told, images),
        text=markdown.markdown(told).encode(),
        data=_data(told),
        run_page=markdown.run_page(told, figures.pictures(told)).encode(),
    )


def _data(told: Document) -> bytes:
    """report.json, keys sorted."""
    plain = told.model_dump(mode="json", by_alias=True)
    return (json.dumps(plain, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
