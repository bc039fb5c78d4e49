from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import StoreError
from tasks.report import ci
from tasks.report.facts import Document
from tasks.values import Check, Outcome, Receipt
from tests.tasks.report.examples import example, with_champion

USUAL, BAD = example().document, example(wrong=200).document


def with_sentence(document: Document, sentence: str) -> Document:
    checks = tuple(check.model_copy(update={"sentence": sentence}) for check in document.decision.checks)
    return document.model_copy(update={"decision": document.decision.model_copy(update={"checks": checks})})


def suite(document: Document) -> ElementTree.Element:
    root = ElementTree.fromstring(ci.junit(document))
    assert root.tag == "testsuites"
    (result,) = root
    for name in ("tests", "failures", "errors"):
        assert root.get(name) == result.get(name)
    return result


def test_each_row_is_a_test_case_and_a_failed_one_carries_the_sentence() -> None:
    result = suite(BAD)
    cases = result.findall("testcase")
    failures = [case for case in cases if case.find("failure") is not None]
    assert [case.get("name") for case in cases] == [check.name for check in BAD.decision.checks]
    assert [case.get("name") for case in failures] == ["accuracy", "accuracy lower bound", "lowest class recall"]
    failure = failures[0].find("failure")
    assert failure is not None
    assert failure.get("message") == "200 of 400 test images are right"
    assert failure.text == "accuracy is 0.5000 and needs ≥ 0.8500: 200 of 400 test images are right"
    assert (result.get("tests"), result.get("failures"), result.get("errors")) == ("5", "3", "0")
    assert result.get("name") == "gate of mnist"


def test_a_model_that_passed_has_no_failure() -> None:
    assert suite(USUAL).get("failures") == "0"
    assert b"<failure" not in ci.junit(USUAL)


@settings(max_examples=50, deadline=None)
@given(st.text())
@case("\0\x0b\ud800]]></failure>&<")
@case("\ufffe")
def test_hostile_text_leaves_it_well_formed(text: str) -> None:
    result = suite(with_sentence(BAD, text))
    assert len(result.findall("testcase")) == 5


def test_the_comment_is_short_and_says_verdict_gate_changes_and_where_to_read_on() -> None:
    document = with_champion().document
    text = ci.comment(document, "", "https://example.org/job/7")
    assert text.startswith("## ✅ mnist: Passed the gate\n")
    assert text.endswith("\n\n[The whole report](https://example.org/job/7)\n")
    for check in document.decision.checks:
        assert check.sentence in text
    assert "### Compared with the champion, version 7" in text
    assert "| 0     | 4    | 3   | −1" in text
    assert len(text.splitlines()) < 50
    assert "The whole report" not in ci.comment(document, "", "")


def test_a_rejected_model_is_marked_row_by_row() -> None:
    text = ci.comment(BAD, "", "")
    assert text.startswith("## ❌ mnist: Rejected by the gate\n")
    assert text.count("| ❌") == 3
    assert text.count("| ✅") == 2
    assert "Compared" not in text


@pytest.mark.parametrize("document", [USUAL, BAD, with_champion().document])
def test_the_step_summary_holds_the_whole_report(document: Document) -> None:
    text = ci.summary(document, "")
    assert text.index("## ") == 0
    assert "| train      | 9.5 s   |" in text
    assert "<details><summary>The whole report</summary>\n\n# mnist" in text
    assert text.endswith("\n</details>\n")
    assert "Weights, SHA-256" in text


ERROR = StoreError("cannot <script>\n# x", "the disk \0 is full", "Do.")


def test_an_error_is_no_markup() -> None:
    assert ci.error_summary(ERROR).splitlines()[-1] == r"cannot \<script>\\n# x: the disk \\x00 is full. Do."


def test_an_error_is_a_failed_test_case_and_a_comment() -> None:
    root = ElementTree.fromstring(ci.error_junit(ERROR))
    (result,) = root
    for element in (root, result):
        assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("1", "0", "1")
    (error,) = result.findall("testcase/error")
    assert error.get("type") == "StoreError"
    assert r"the disk \x00 is full. Do." in (error.get("message") or "")
    text = ci.error_comment(ERROR, "https://ci/job/7")
    assert text.startswith("## 💥 retrain failed\n\ncannot \\<script>\\\\n# x: ")
    assert text.endswith("\n\n[The job](https://ci/job/7)\n")


def outcome(document: Document, verdict: Any, receipt: Receipt | None = None) -> Outcome:
    return Outcome(verdict=verdict, run="", store="", decision=document.decision, receipt=receipt, report="", steps=())


RECEIPT = Receipt(model="mnist", version=7, new=False, champion=7, decides="pointer", url="")


def test_the_outcome_says_what_became_of_the_model_and_that_nothing_was_compared() -> None:
    loss = Check(name="loss to champion v7", value=0, limit=-0.002, margin=0.002, passed=True, sentence="", loss=True)
    decision = USUAL.decision.model_copy(update={"checks": (*USUAL.decision.checks, loss)})
    compared = USUAL.model_copy(update={"decision": decision})
    assert ci.outcome_line(outcome(compared, "passed")) == "Nothing was published: this run only judges."
    assert ci.outcome_line(outcome(compared, "published", RECEIPT)) == "Published as version 7."
    assert ci.outcome_line(outcome(compared, "already published", RECEIPT)).startswith("Unchanged: version 7 is this")
    line = ci.outcome_line(outcome(USUAL, "passed"))
    assert line.endswith(" only judges. **Nothing was compared: there is no champion yet.**")
    for text in (ci.comment(USUAL, line, ""), ci.summary(USUAL, line)):
        assert f"\n\n{line}\n\n| " in text


@pytest.mark.parametrize("limit", [0, 10, 100, 1_000, 2_000, 3_000, 10_000, ci.SUMMARY_LIMIT])
@pytest.mark.parametrize("size", [1, 50_000])
def test_a_summary_is_not_longer_than_its_limit_and_a_cut_one_says_so(size: int, limit: int) -> None:
    text = ci.summary(with_sentence(with_champion().document, "ä" * size), "", limit)
    assert len(text.encode()) <= limit
    assert limit < 100 or text.endswith("\n</details>\n") or "… cut here: see the report of this job." in text


@pytest.mark.parametrize("size", [1, 50_000, 2_000_000])
def test_no_text_is_longer_than_github_takes(size: int) -> None:
    document = with_sentence(with_champion().document, "ä" * size)
    assert len(ci.summary(document, "").encode()) <= ci.SUMMARY_LIMIT
    comment = ci.comment(document, "", "https://ci/job/7")
    assert len(comment.encode()) <= 65_536
    assert comment.endswith("\n\n[The whole report](https://ci/job/7)\n")
    assert size == 1 or "… cut here" in comment


def test_of_a_long_report_the_end_is_cut_and_the_gate_stays() -> None:
    document = USUAL.model_copy(
        update={"trained": USUAL.trained.model_copy(update={"history": USUAL.trained.history * 20_000})}
    )
    text = ci.summary(document, "")
    assert 1_000_000 < len(text.encode()) <= 1024 * 1024
    assert text.startswith("## ✅ mnist: Passed the gate\n")
    assert text.endswith("\n\n… cut here: see the report of this job.\n\n</details>\n")
