from __future__ import annotations

from typing import Any

import numpy as np

from tasks.gate.comparison import compare
from tasks.report.facts import manifest_facts
from tasks.report.version_comparison import Pair, html, markdown, sections
from tests.tasks.report.examples import example, with_champion


def facts(wrong: int = 40, **changes: Any) -> dict[str, Any]:
    return manifest_facts(example(wrong).facts) | changes


def pair(old: dict[str, Any], new: dict[str, Any]) -> Pair:
    return Pair("mnist", "version 3", "version 4", old, new, with_champion().facts.comparison)


def test_a_version_differs_from_itself_in_nothing() -> None:
    same = example()
    result = Pair(
        "mnist",
        "version 3",
        "version 3",
        facts(),
        facts(),
        compare(3, same.labels, same.probabilities, same.probabilities),
    )
    assert list(sections(result)) == ["Measured", "Gate"]
    assert {row["change"] for rows in sections(result).values() for row in rows} == {"+0", "+0.0000"}
    assert "images:" not in markdown(result)


def test_what_differs_is_told_and_nothing_else() -> None:
    recipe = facts()["recipe"] | {"seed": 7}
    provenance = facts()["provenance"] | {"packages": {"keras": "3.16.0", "numpy": "2.4.6"}}
    data = facts()["data"] | {"test": "other"}
    result = sections(pair(facts(30), facts(40, recipe=recipe, provenance=provenance, data=data)))
    assert result["Recipe"] == [{"": "seed", "version 3": "0", "version 4": "7"}]
    assert result["Packages"] == [{"": "keras", "version 3": "3.15.1", "version 4": "3.16.0"}]
    assert [row[""] for row in result["Data, SHA-256"]] == ["test"]
    assert result["Measured"][0] == {"": "accuracy", "version 3": "0.9250", "version 4": "0.9000", "change": "−0.0250"}
    assert result["Gate"][1] == {
        "": "accuracy",
        "version 3": "pass 0.9250 ≥\N{NO-BREAK SPACE}0.8500",
        "version 4": "pass 0.9000 ≥\N{NO-BREAK SPACE}0.8500",
        "change": "−0.0250",
    }
    assert "Device" not in result
    assert "Origin" not in result


def test_a_manifest_of_another_time_has_gaps_and_no_more() -> None:
    result = sections(pair({"metrics": {"accuracy": 0.98}}, facts()))
    assert result["Measured"][0]["version 3"] == "0.9800"
    assert {row["version 3"] for row in result["Gate"]} == {"–"}
    assert {row["version 3"] for row in result["Recipe"]} == {"not recorded"}


def test_markdown_and_page_tell_the_images_won_and_lost() -> None:
    result = pair(facts(), facts())
    text, page = markdown(result), html(result, example().images).decode()
    assert text.startswith("# mnist: version 3 → version 4\n\nAccuracy −0.0250")
    assert "| lost: only version 3 is right | 40" in text
    assert "Lost images: 39, 38, 37," in text
    assert "Won images: 399, 398," in text
    assert page.count("data:image/png;base64,") == 40
    assert "what version 4 takes it for" in page
    assert "champion" not in text + page


def test_without_the_images_the_page_names_them() -> None:
    page = html(pair(facts(), facts()), None).decode()
    assert "data:image/png" not in page
    assert "<small>image 39</small>" in page


def test_other_test_images_are_not_compared() -> None:
    result = Pair("mnist", "version 3", "version 4", facts(), facts())
    assert "They were not tested on the same images" in markdown(result)
    assert "Images lost and won" not in html(result, np.zeros((1, 784), np.uint8)).decode()


def test_the_same_pair_gives_the_same_bytes() -> None:
    assert html(pair(facts(), facts(30)), None) == html(pair(facts(), facts(30)), None)
