"""The report: data, training, accuracy, and the gate's decision, in several forms that README.md lists.

`render` makes the forms of report.*, each a function of the facts and the predictions alone: the same model gives the
same bytes. Called by the steps and the command line. jinja2 and matplotlib are imported only when something is
rendered.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from tasks.data.arrays import Bytes, Labels, Probabilities
from tasks.report.changes import Changes
from tasks.report.facts import Document, Facts, build_document


class Rendered(NamedTuple):
    """report.html, report.md, report.json, and Markdown with pictures for the run's page in Prefect; all UTF-8."""

    html: bytes
    markdown: bytes
    data: bytes
    run_page: bytes


def render(facts: Facts, images: Bytes, probabilities: Probabilities, labels: Labels) -> Rendered:
    """Every form of the report; the same input gives the same bytes.

    Args:
        facts: What the run knows.
        images: The test images, uint8 (n, pixels).
        probabilities: The model's predictions, float32 (n, classes).
        labels: The class of each image, uint8 (n,).
    """
    from tasks.report import figures, html, markdown

    document = build_document(facts, probabilities, labels)
    return Rendered(
        html=html.render(document, images),
        markdown=markdown.markdown(document).encode(),
        data=report_json(document),
        run_page=markdown.run_page(document, figures.pictures(document)).encode(),
    )


def with_changes(rendered: Rendered, changes: Changes) -> Rendered:
    """The forms with what changed since the champion, the same as if they were rendered with it."""
    from tasks.report import html, markdown

    document = Document.model_validate_json(rendered.data).model_copy(update={"changes": changes})
    return Rendered(
        html=html.with_changes(rendered.html, changes),
        markdown=markdown.markdown(document).encode(),
        data=report_json(document),
        run_page=markdown.with_changes(rendered.run_page.decode(), document).encode(),
    )


def report_json(document: Document) -> bytes:
    """report.json, keys sorted."""
    plain = document.model_dump(mode="json", by_alias=True)
    return (json.dumps(plain, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
