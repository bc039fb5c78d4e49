"""The report of a run that a check of a new batch ended: the same content in each form, and hostile text in none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.report.batches import SHOWN, BatchesDocument, Pictures, render_batches
from tasks.values import BatchVerdict, Check
from tests.tasks.report.test_report import Page, words_of

HOSTILE = "</td><script>alert(1)</script> | **b** [l](javascript:1)"


def check(name: str, value: float, limit: float, sentence: str = "that is why", **more: Any) -> Check:
    margin = value - limit
    return Check(name=name, value=value, limit=limit, margin=margin, passed=margin >= 0, sentence=sentence, **more)


LABELS = check("labels", 2e-9, 0.001, "champion v3 contradicts 40 of the 60 labels")
REPEATED = check("repeated images", -0.25, -0.01, "15 of 60 in batch day-1", loss=True)
NEW = check("new classes", -2.0, 0.0, "no earlier batch has x and y", loss=True)
FINE = (check("image kind", 1.0, 1.0), check("test images", -0.0, -0.01, loss=True))


def verdict(name: str, *checks: Check, **more: Any) -> BatchVerdict:
    return BatchVerdict(batch=name, digest="a" * 64, images=60, checks=(*FINE, *checks), **more)


REFUSED = verdict(
    "day-8",
    LABELS,
    REPEATED,
    offending={"labels": (7, 3), "repeated images": (5,)},
    guesses={"labels": ("crane", "badger")},
)
DOCUMENT = BatchesDocument(
    model="letters",
    batches=(verdict("day-7"), REFUSED),
    left_out={"day-2": "it cannot be read: it is cut off", "day-1": "it is no longer there"},
)


def pictures(shape: tuple[int, ...] = (20, 60, 3), label: str = "alpaca") -> Pictures:
    random = np.random.default_rng(0)
    return Pictures(random.integers(0, 256, (60, *shape), dtype=np.uint8), tuple(f"{label} {n}" for n in range(60)))


def rendered(document: BatchesDocument = DOCUMENT, **more: Any) -> dict[str, bytes]:
    return render_batches(document, {"day-8": pictures(**more)})


def forms(files: dict[str, bytes]) -> list[str]:
    return [words_of(Page(files["report.html"]).text), files["report.md"].decode()]


SAID = (
    "letters: batch day-8 refused",
    "nothing was trained",
    "--without",
    "champion v3 contradicts 40 of the 60 labels",
    "it cannot be read: it is cut off",
    "it is no longer there",
)


def test_each_form_says_what_was_refused_why_and_what_to_do() -> None:
    files = rendered()
    for form in forms(files):
        for text in SAID:
            assert text in form
        assert form.index("Batch day-8") < form.index("Batch day-7") < form.index("it is cut off")
    assert "Rejected before a training" in Page(files["report.html"]).text


def test_the_json_is_the_document() -> None:
    data = rendered()["report.json"]
    assert BatchesDocument.model_validate_json(data) == DOCUMENT
    assert json.loads(data)["verdict"] == "reject"


def test_the_same_input_gives_the_same_bytes() -> None:
    assert rendered() == rendered()


@pytest.mark.parametrize("shape", [(8, 8), (20, 60, 3), (200, 100, 3)])
def test_images_that_tell_it_are_shown_with_label_and_guess(shape: tuple[int, ...]) -> None:
    page = Page(rendered(shape=shape)["report.html"])
    tiles = page.named("img")
    assert [tile["alt"] for tile in tiles] == [
        "image 7, alpaca 7, taken for crane",
        "image 3, alpaca 3, taken for badger",
        "image 5, alpaca 5",
    ]
    assert all((tile["src"] or "").startswith("data:image/png;base64,") for tile in tiles)
    assert all(max(int(tile["width"] or 0), int(tile["height"] or 0)) <= 64 for tile in tiles)
    assert page.text.count("what the champion takes it for") == 1
    assert "Labels: image 7, 3" in rendered()["report.md"].decode()


def test_without_its_images_a_batch_is_shown_without_pictures() -> None:
    page = Page(render_batches(DOCUMENT, {})["report.html"])
    assert not page.named("img")
    assert "champion v3 contradicts" in page.text


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (NEW, ("FAIL", "2", "≤ 0", "−2")),
        (check("new classes", -0.0, 0.0, loss=True), ("pass", "0", "≤ 0", "+0")),
        (check("new classes", -1.0, -3.0, loss=True), ("pass", "1", "≤ 3", "+2")),
        (REPEATED, ("FAIL", "0.2500", "≤ 0.0100", "−0.2400")),
        (check("labels", -2.0, 0.001), ("FAIL", "unknown", "≥ 0.0010", "−2.0010")),
    ],
)
def test_counts_read_as_counts_and_shares_as_shares(row: Check, cells: tuple[str, ...]) -> None:
    document = BatchesDocument(model="letters", batches=(verdict("day-8", row),), left_out={})
    result, value, needs, margin = cells
    files = render_batches(document, {})
    line = next(line for line in files["report.md"].decode().splitlines() if line.startswith(f"| {row.name} "))
    assert [cell.strip() for cell in line.split("|")[2:6]] == [value, needs, margin, result]
    assert words_of(f"{result} {row.name} {value} {needs} {margin}") in words_of(Page(files["report.html"]).text)


def test_of_many_batches_some_are_shown_the_refused_ones_first() -> None:
    passing = tuple(verdict(f"fine-{number}") for number in range(50))
    document = BatchesDocument(model="letters", batches=(*passing, REFUSED, verdict("day-9", NEW)), left_out={})
    files = render_batches(document, {"day-8": pictures()})
    for form in forms(files):
        assert "letters: 2 batches refused" in form
        assert f"Of 52 new batches {SHOWN} are shown." in form
        assert form.count("Batch ") == SHOWN
        assert "day-9" in form
    assert len(json.loads(files["report.json"])["batches"]) == 52


def test_the_page_asks_for_nothing_outside_itself() -> None:
    page = Page(rendered()["report.html"])
    assert all(address.startswith("data:") for address in page.addresses())
    assert not page.named("script")


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@example(HOSTILE)
@example('"><img src=x onerror=alert(1)>&amp;')
def test_text_of_the_source_stays_text(text: str) -> None:
    document = DOCUMENT.model_copy(
        update={
            "batches": (REFUSED.model_copy(update={"batch": text, "guesses": {"labels": (text, text)}}),),
            "left_out": {text: text},
        }
    )
    files = render_batches(document, {text: pictures(label=text)})
    usual = render_batches(document.model_copy(update={"batches": (REFUSED,)}), {"day-8": pictures()})
    assert [name for name, _ in Page(files["report.html"]).elements] == [
        name for name, _ in Page(usual["report.html"]).elements
    ]
    assert "<script" not in files["report.md"].decode().replace("\\<", "")
    assert "**b**" not in files["report.md"].decode()
