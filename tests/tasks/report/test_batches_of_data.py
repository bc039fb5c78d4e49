"""The batches of a source that grows: in every form of the report, in the manifest, and between two versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.report import version_comparison
from tasks.report.facts import Document, manifest_facts
from tasks.report.model_card import model_card
from tasks.report.version_comparison import Pair
from tasks.values import Batch
from tests.tasks.report.examples import Example, empty, example
from tests.tasks.report.test_report import Page, words_of

HOSTILE = "day</p><script>alert(1)</script> | **1**"


def grown(*names: str, digest: str = "a") -> Example:
    """A model that learned from batches of these names."""
    sample = example()
    batches = tuple(
        Batch(name=name, digest=digest * 64, images=1000 + number, test_images=10, test=empty("application/x-npy"))
        for number, name in enumerate(names)
    )
    return sample.with_candidate(prepared=sample.facts.candidate.prepared.model_copy(update={"batches": batches}))


def days(number: int) -> list[str]:
    return [f"day-{day:03}" for day in range(number)]


@pytest.mark.parametrize(
    ("number", "sentence", "listed", "title"),
    [
        (1, "1 batch, day-000.", 1, "Every batch in numbers"),
        (30, "30 batches, day-000 … day-029.", 30, "Every batch in numbers"),
        (400, "400 batches, day-000 … day-399.", 30, "The last 30 of 400 batches in numbers"),
    ],
)
def test_every_form_says_how_many_batches_and_the_page_lists_the_last(
    number: int, sentence: str, listed: int, title: str
) -> None:
    sample = grown(*days(number))
    report = sample.render()
    page = words_of(Page(report.html).text)
    for form in (page, report.markdown.decode(), report.run_page.decode(), model_card(sample.document).decode()):
        assert sentence in form
    assert title in page
    assert report.html.count(b'<th scope="row">day-') == listed
    assert f"day-{number - 1:03}1,{number - 1:03}10" in Page(report.html).text
    assert len(json.loads(report.data)["prepared"]["batches"]) == number
    assert Document.model_validate_json(report.data) == sample.document


def test_a_source_that_does_not_grow_has_no_batches() -> None:
    report = example().render()
    assert b"batch in numbers" not in report.html
    assert "batches" not in manifest_facts(example().facts)["data"]


def test_a_name_is_a_text_in_every_form() -> None:
    sample = grown(HOSTILE, "day-2")
    report = sample.render()
    assert b"<script>" not in report.html
    assert HOSTILE in words_of(Page(report.html).text)
    for form in (report.markdown.decode(), report.run_page.decode(), model_card(sample.document).decode()):
        assert "2 batches, day\\</p>\\<script>" in form
        assert "**1**" not in form


def test_the_manifest_says_which_batches_a_version_learned_from() -> None:
    assert manifest_facts(grown("day-1").facts)["data"]["batches"] == [
        {"name": "day-1", "digest": "a" * 64, "images": 1000, "test_images": 10}
    ]


def compared(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, str]] | None:
    pair = Pair("letters", "version 3", "version 4", old, new)
    assert "day-" in version_comparison.html(pair, None).decode() or "Batches" not in version_comparison.sections(pair)
    return version_comparison.sections(pair).get("Batches")


def test_two_versions_differ_in_the_batches_that_came_went_and_changed() -> None:
    old, new = manifest_facts(grown("day-1", "day-2").facts), manifest_facts(grown("day-2", "day-3").facts)
    aaa, bbb = f"{'a' * 12}…", f"{'b' * 12}…"
    assert compared(old, new) == [
        {"": "day-1", "version 3": aaa, "version 4": "–"},
        {"": "day-3", "version 3": "–", "version 4": aaa},
    ]
    assert compared(old, manifest_facts(grown("day-1", "day-2", digest="b").facts)) == [
        {"": name, "version 3": aaa, "version 4": bbb} for name in ("day-1", "day-2")
    ]
    assert compared(old, old) is None
    assert compared(manifest_facts(example().facts), new) is None, "it recorded none"
    more = compared(old, manifest_facts(grown("day-1", "day-2", *days(100)).facts))
    assert more is not None
    assert more[-1][""] == "and 70 more"
