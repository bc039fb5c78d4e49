from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.report import ci, formatting, markdown
from tasks.report.figures import pictures
from tasks.report.html import gauge
from tasks.report.model_card import model_card
from tasks.values import Check, Decision
from tests.tasks.report.examples import example

NUMBERS = st.floats(-1, 1, allow_nan=False) | st.integers(0, 10**6).map(float)


def check(value: float, limit: float, name: str = "accuracy") -> Check:
    margin = value - limit
    return Check(name=name, value=value, limit=limit, margin=margin, passed=margin >= 0, sentence="so it is")


def decision(*checks: Check) -> Decision:
    verdict = "publish" if all(row.passed for row in checks) else "reject"
    return Decision(verdict=verdict, accuracy=0.9797, interval=(0.9767, 0.9823), checks=checks)


def columns(table: str) -> set[int]:
    """How many cells the rows of a Markdown table have."""
    return {line.replace("\\|", "").count("|") - 1 for line in table.splitlines() if line.startswith("|")}


def test_numbers_read_as_people_read_them() -> None:
    assert formatting.gate_rows(decision(check(0.9797, 0.97), check(9, 10))) == [
        {
            "check": "accuracy",
            "value": "0.9797",
            "needs": "≥ 0.9700",
            "margin": "+0.0097",
            "result": "pass",
            "because": "so it is",
        },
        {"check": "accuracy", "value": "9", "needs": "≥ 10", "margin": "−1", "result": "FAIL", "because": "so it is"},
    ]
    assert formatting.percent(0.97974) == "97.97 %"
    assert formatting.interval(decision()) == "97.67 – 98.23 %"
    assert formatting.accuracy_line(decision()) == "accuracy 0.9797, 95 % interval 0.9767 to 0.9823"
    assert [formatting.duration(seconds) for seconds in (0.04, 99.9, 130)] == ["0.0 s", "99.9 s", "2.2 min"]


def test_a_probability_is_never_rounded_up_to_certainty() -> None:
    assert [formatting.confidence(value) for value in (0.5, 0.9994, 0.9996, 1.0)] == [
        "50.0 %",
        "99.9 %",
        "> 99.9 %",
        "> 99.9 %",
    ]


def test_the_headline_names_the_closest_call_among_the_shares() -> None:
    result = formatting.headline(
        decision(check(10, 10, "classes"), check(0.98, 0.97, "accuracy"), check(0.95, 0.92, "recall"))
    )
    assert result == "Every check holds. The closest call: accuracy is 0.9800 and needs 0.9700."
    assert formatting.headline(decision(check(10, 10, "classes"))).endswith("classes is 10 and needs 10.")


def test_the_headline_names_every_failure() -> None:
    result = formatting.headline(decision(check(0.9, 0.97, "accuracy"), check(1, 0.5, "fine"), check(9, 10, "classes")))
    assert result == "Accuracy is 0.9000 and needs 0.9700; classes is 9 and needs 10."


@given(NUMBERS, NUMBERS)
def test_agauge_shows_value_and_limit_in_their_order(value: float, limit: float) -> None:
    result = gauge(check(value, limit))
    assert 0 <= result["value"] <= 100
    assert 0 <= result["limit"] <= 100
    if abs(value - limit) > 0.01 * max(abs(value), abs(limit), 0.01):
        assert (result["value"] < result["limit"]) == (value < limit)


@given(st.text())
def test_hostile_text_breaks_no_table(text: str) -> None:
    row = check(0.9, 0.97).model_copy(update={"sentence": text})
    result = formatting.table(formatting.gate_rows(decision(row)))
    assert columns(result) == {6}
    assert len(result.splitlines()) == 3


# What a name may have that Markdown or a forge knows.
HOSTILE = (
    "@team @org/team #12 owner/repo#1 GH-7 !3 ` `` | \\ <b> <!-- * _ ~~ $x$ [a](b) ![ &#64; &amp; a é "
    "https://github.com/a/b/issues/1 www.github.com/a/b/pull/2"
)
PIECES = st.sampled_from([*HOSTILE.split(" "), " ", "\n"])
MENTIONS = re.compile(r"@\w|#\d|!\d|\bGH-\d|github\.com/a/b/", re.IGNORECASE)


@given(st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join))
def test_hostile_text_is_no_markup_and_mentions_nobody(text: str) -> None:
    paragraphs = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = paragraphs.parse(f"Class {formatting.plain(text)} is.")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    seen = "".join(child.content for child in children)
    assert not MENTIONS.search(seen)
    expected = f"Class {' '.join(text.split())} is.".replace("\0", "\ufffd")
    assert seen.replace("\u200b", "") == expected.replace("\u200b", "")


@given(st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join).filter(str.strip))
def test_a_hostile_class_name_mentions_nobody_in_any_markdown(name: str) -> None:
    made = example().document
    classes = (name, *made.prepared.classes[1:]) if made.prepared.classes else (name, *"123456789")
    sentence = f"class {name} is the weakest"
    checks = tuple(row.model_copy(update={"sentence": sentence}) for row in made.decision.checks)
    document = made.model_copy(
        update={
            "prepared": made.prepared.model_copy(update={"classes": classes, "dataset": ""}),
            "decision": made.decision.model_copy(update={"checks": checks, "remark": sentence}),
        }
    )
    pages = [markdown.markdown(document), ci.comment(document, "", ""), ci.summary(document, "")]
    pages.append(model_card(document).decode().partition("\n---\n")[2])
    for page in [*pages, markdown.run_page(document, {})]:
        rendered = [
            child.content
            for token in MarkdownIt("commonmark").enable("table").parse(page)
            if token.type == "inline"
            for child in token.children or []
            if child.type != "code_inline"
        ]
        assert not [text for text in rendered if MENTIONS.search(text)]


@pytest.mark.parametrize("validation", [False, True])
def test_the_run_page_has_the_pictures_inside(validation: bool) -> None:
    document = example(validation=validation).document
    drawn = pictures(document)
    result = markdown.run_page(document, drawn)
    assert list(drawn) == ["Learning curves", "Confusion matrix"]
    for title, png in drawn.items():
        assert png.startswith(b"\x89PNG")
        assert f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})" in result
    assert result.index("## Gate") < result.index("![Learning curves]") < result.index("## Classes")
