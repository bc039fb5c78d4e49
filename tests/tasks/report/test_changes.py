"""What changed since the champion: from the facts in its manifest, in every form of the report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.report import ci, with_changes
from tasks.report.changes import Changes, changes
from tasks.report.facts import Document, manifest_facts
from tasks.report.formatting import changed_parts, changes_sentence
from tests.tasks.report.examples import example, rendered

MODULES = {"tasks.train": "a" * 64, "tasks.evaluate": "b" * 64}


def facts(**provenance: Any) -> dict[str, Any]:
    recorded = manifest_facts(example().facts)
    return recorded | {"provenance": recorded["provenance"] | {"modules": MODULES} | provenance}


def told(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    return dict(changed_parts(changes(3, old, new)))


def test_the_same_facts_are_no_change() -> None:
    result = changes(3, facts(), facts())
    assert result == Changes(champion=3, differences=())
    assert changes_sentence(result).startswith("Nothing changed: ")
    assert changed_parts(result) == []


def test_each_part_that_changed_is_told_in_a_line_and_no_other() -> None:
    old, new = (
        facts(),
        facts(packages={"keras": "3.16.0", "numpy": "2.4.6"}, modules=MODULES | {"tasks.train": "c" * 64}),
    )
    new |= {"recipe": old["recipe"] | {"learning_rate": 0.002, "epochs": 4}, "data": old["data"] | {"train": "d" * 64}}
    assert told(old, new) == {
        "Recipe": "epochs 3 → 4, learning_rate 0.001 → 0.002",
        "Data": "train 000000000000… → dddddddddddd…",
        "Packages": "keras 3.15.1 → 3.16.0",
        "Code": "tasks.train changed",
    }
    assert changes_sentence(changes(3, old, new)) == "5 things changed."
    assert changes_sentence(changes(3, old, old | {"device": old["device"] | {"kind": "gpu"}})) == "1 thing changed."


def test_a_package_that_was_built_otherwise_is_told_and_a_new_release_only_once() -> None:
    rebuilt = facts(digests={"keras": "e" * 64, "numpy": "b" * 64})
    assert told(facts(), rebuilt) == {"Packages' files": "keras aaaaaaaaaaaa… → eeeeeeeeeeee…"}
    released = facts(digests={"keras": "e" * 64, "numpy": "b" * 64}, packages={"keras": "3.16.0", "numpy": "2.4.6"})
    assert told(facts(), released) == {"Packages": "keras 3.15.1 → 3.16.0"}


def test_modules_that_came_and_went_are_told() -> None:
    modules = {"tasks.train": "a" * 64, "tasks.data.csv": "b" * 64}
    assert told(facts(), facts(modules=modules)) == {"Code": "tasks.evaluate is gone, tasks.data.csv is new"}


def test_limits_are_compared_row_by_row_whichever_version_they_name() -> None:
    def with_rows(*rows: tuple[str, float]) -> dict[str, Any]:
        return facts() | {"decision": {"checks": [{"name": name, "limit": limit} for name, limit in rows]}}

    old = with_rows(("accuracy", 0.97), ("loss to champion v2", -0.002))
    assert told(old, with_rows(("accuracy", 0.975), ("loss to champion v3", -0.005))) == {
        "Gate limits": "accuracy 0.97 → 0.975, loss to champion 0.002 → 0.005"
    }
    assert told(with_rows(("accuracy", 0.97)), old) == {}, "the first version has nothing to lose to"


def test_the_number_of_seeds_and_the_validation_split_are_told() -> None:
    several = facts() | {"seeds": {"scores": [1, 2, 3]}}
    validated = facts()["data"] | {"validation": "e" * 64}
    assert told(facts(), several | {"data": validated}) == {
        "Data": "validation none → eeeeeeeeeeee…",
        "Seeds": "trained 1 → 3",
    }


def batches(*names: str, digest: str = "a") -> dict[str, Any]:
    listed = [{"name": name, "digest": digest * 64, "images": 60, "test_images": 10} for name in names]
    return facts() | {"data": facts()["data"] | {"batches": listed}}


def test_batches_that_came_went_and_changed_are_counted_and_a_few_are_named() -> None:
    days = [f"day-{day}" for day in range(1, 8)]
    assert told(batches("day-0"), batches("day-0", *days)) == {
        "Batches": "7 new: day-1, day-2, day-3, day-4, day-5 …",
    }
    assert told(batches("day-0", "day-1"), batches("day-1", "day-2")) == {"Batches": "1 gone: day-0, 1 new: day-2"}
    assert told(batches("day-1"), batches("day-1", digest="b")) == {"Batches": "1 changed: day-1"}
    assert told(batches("day-1"), batches("day-1")) == {}


def test_a_champion_of_before_the_source_grew_has_recorded_no_batches() -> None:
    assert told(facts(), batches("day-1")) == {"Not recorded": "Batches"}


def test_what_an_earlier_version_did_not_record_is_not_called_unchanged() -> None:
    old = facts(modules={})
    old["data"] = {name: digest for name, digest in old["data"].items() if name != "train_labels"}
    result = changes(3, old, facts())
    assert result.unrecorded == ("Data: train_labels", "Code")
    assert changes_sentence(result) == "Nothing changed of what both have recorded."
    assert changed_parts(result) == [("Not recorded", "Data: train_labels; Code")]


@pytest.mark.parametrize("old", [{}, {"metrics": "high", "data": 7, "decision": {"checks": 3}, "recipe": []}])
def test_a_champion_that_says_nothing_is_not_called_the_same(old: dict[str, Any]) -> None:
    result = changes(3, old, facts())
    assert not result.recorded
    assert changes_sentence(result) == "Version 3 does not say what it was made from, so nothing can be compared."
    assert changed_parts(result) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=8,
)
NAMES = ("recipe", "data", "device", "provenance", "seeds", "decision")


@given(
    st.dictionaries(st.sampled_from(NAMES), JSON | st.dictionaries(st.sampled_from(["checks", "batches"]), JSON)),
)
def test_whatever_another_writer_recorded_is_compared(old: dict[str, Any]) -> None:
    assert changes(3, old, facts()).champion == 3
    assert changes(3, old, old).differences == ()


HOSTILE = facts(code="</section>\n<script>alert(1)</script> | `x` **b** [l](javascript:1)")


@pytest.mark.parametrize("old", [facts(), facts(code="other"), facts(modules={}), HOSTILE, {}])
def test_every_form_is_as_if_it_was_rendered_with_the_changes(old: dict[str, Any]) -> None:
    """They are added to a report that may be years old in the cache."""

    found = changes(3, old, facts())
    result = with_changes(rendered(), found)
    document = Document.model_validate_json(result.data)
    assert document.changes == found
    for form in (
        result.html.decode(),
        result.markdown.decode(),
        result.run_page.decode(),
        ci.comment(document, "", ""),
    ):
        assert form.count("Since champion v3") == 1
        assert form.index("Gate" if form != ci.comment(document, "", "") else "|") < form.index("Since champion v3")
        assert "<script" not in form.replace("\\<script", "")
    assert result.html.index(b"Since champion v3") < result.html.index(b"Learning curves")
    assert ci.summary(document, "").count("Since champion v3") == 2, "above, and in the report folded in"


def test_without_a_champion_nothing_is_said() -> None:
    for form in (rendered().html, rendered().markdown, rendered().run_page):
        assert b"Since champion" not in form
    assert b'"changes": null' in rendered().data
