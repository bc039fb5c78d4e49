"""The report of a run that ends before its training, as a check refuses a new batch: HTML, Markdown and JSON.

Pure; called by `tasks.check_batches`. Batches that pass are in it too, without pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tasks.data.arrays import Bytes
from tasks.report.formatting import count, gate_row, plain, table
from tasks.report.html import gauge, picture, render_template
from tasks.values import BatchVerdict, Check, Value

# So many batches at most have their rows in HTML and Markdown, the refused ones first; report.json has those of all.
SHOWN = 10


class Pictures(NamedTuple):
    """All images of a batch, uint8 (n, height, width) or (n, height, width, 3), and the name of each one's class."""

    images: Bytes
    labels: tuple[str, ...]


class BatchesDocument(Value):
    """The content of report.json: each new batch with its rows, and why others were left out, by their names."""

    schema_version: Literal[1] = 1
    verdict: Literal["reject"] = "reject"
    model: str
    batches: tuple[BatchVerdict, ...]
    left_out: dict[str, str]

    @property
    def refused(self) -> tuple[BatchVerdict, ...]:
        """The batches of which a row fails."""
        return tuple(each for each in self.batches if each.failed)

    @property
    def shown(self) -> tuple[BatchVerdict, ...]:
        """The batches whose rows are shown: the refused ones, then others, and `SHOWN` at most."""
        return (*self.refused, *(each for each in self.batches if not each.failed))[:SHOWN]

    @property
    def title(self) -> str:
        """What happened, in a few words."""
        names = [each.batch for each in self.refused]
        return f"{self.model}: {f'batch {names[0]}' if len(names) == 1 else f'{len(names):,} batches'} refused"

    @property
    def lead(self) -> str:
        """What happened, and what to do about it."""
        more = f" Of {len(self.batches):,} new batches {SHOWN} are shown." if len(self.batches) > SHOWN else ""
        return LEAD + more


LEAD = (
    "A new batch is unlike the earlier ones, so nothing was trained. Correct or remove it, or leave it out with "
    "--without; if it is right, move the limit of the row in [batches]."
)


def render_batches(document: BatchesDocument, pictures: Mapping[str, Pictures]) -> dict[str, bytes]:
    """The files of the report, by name: report.html, report.md and report.json; the same input gives the same bytes.

    Args:
        document: The content.
        pictures: By the names of batches that are shown, their images; one that is not there is shown without any.
    """
    content = document.model_dump(mode="json")
    return {
        "report.html": render_template("batches.html.jinja", _context(document, pictures)),
        "report.md": markdown(document).encode(),
        "report.json": (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode(),
    }


def markdown(document: BatchesDocument) -> str:
    """The text of report.md, and of the run's page."""
    parts = [f"# {plain(document.title)}", document.lead, rows_markdown(document.shown)]
    if document.left_out:
        reasons = [f"- {plain(name)}: {plain(why)}" for name, why in document.left_out.items()]
        parts += ["## Left out of this run", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def rows_markdown(verdicts: Sequence[BatchVerdict]) -> str:
    """The rows of these batches, each with a heading."""
    parts = []
    for verdict in verdicts:
        parts.append(f"## Batch {plain(verdict.batch)}, {count(verdict.images, 'image')}")
        parts.append(table([_row(check) for check in verdict.checks]))
        parts += [
            f"{name.capitalize()}: image {', '.join(map(str, images))}"
            for name, images in verdict.offending.items()
            if images
        ]
    return "\n\n".join(parts)


def _context(document: BatchesDocument, pictures: Mapping[str, Pictures]) -> dict[str, Any]:
    return {
        "title": document.title,
        "lead": document.lead,
        "left_out": list(document.left_out.items()),
        "tiles": {
            "new batches": f"{len(document.batches):,}",
            "refused": f"{len(document.refused):,}",
            "their images": f"{sum(each.images for each in document.refused):,}",
        },
        "batches": [
            {
                "name": verdict.batch,
                "images": count(verdict.images, "image"),
                "outcome": "refused" if verdict.failed else "every row passes",
                "digest": verdict.digest,
                "gate": [(_row(check), gauge(check)) for check in verdict.checks],
                "galleries": _galleries(verdict, pictures.get(verdict.batch)),
            }
            for verdict in document.shown
        ],
    }


def _row(check: Check) -> dict[str, str]:
    """A row as text. One of which less is better may count something: two whole numbers."""
    row = gate_row(check)
    if check.loss and check.value.is_integer() and check.limit.is_integer():
        value, limit, margin = (f"{abs(number):,.0f}" for number in (check.value, check.limit, check.margin))
        row |= {"value": value, "needs": f"≤ {limit}", "margin": f"{'+' if check.passed else '−'}{margin}"}
    elif not check.loss and check.value < 0:  # no share and no probability
        row["value"] = "unknown"
    return row


def _galleries(verdict: BatchVerdict, pictures: Pictures | None) -> list[dict[str, Any]]:
    sentences = {check.name: check.sentence for check in verdict.checks}
    return [
        {
            "row": row,
            "sentence": sentences.get(row, ""),
            "guessed": row in verdict.guesses,
            "tiles": [
                _tile(image, pictures, guess)
                for image, guess in zip(images, verdict.guesses.get(row) or [""] * len(images), strict=True)
            ],
        }
        for row, images in verdict.offending.items()
        if images and pictures is not None
    ]


def _tile(image: int, pictures: Pictures, guess: str) -> dict[str, Any]:
    label = pictures.labels[image]
    text = f"image {image:,}, {label}" + (f", taken for {guess}" if guess else "")
    return {"image": f"{image:,}", "label": label, "guess": guess, "text": text, **picture(pictures.images[image])}
