from __future__ import annotations

import re
from typing import Any

import yaml

from tasks.report.model_card import model_card
from tests.tasks.report.examples import Example, example, with_champion


def parts(sample: Example) -> tuple[dict[str, Any], str]:
    """The header and the text."""
    _, header, text = model_card(sample.document).decode().split("---\n", 2)
    return yaml.safe_load(header), text


def test_the_header_is_what_the_hub_reads() -> None:
    header, _ = parts(example())
    assert {name: header[name] for name in ("license", "library_name", "pipeline_tag", "datasets", "metrics")} == {
        "license": "mit",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "datasets": ["ylecun/mnist"],
        "metrics": ["accuracy", "recall"],
    }
    (index,) = header["model-index"]
    (result,) = index["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "ylecun/mnist", "name": "MNIST", "split": "test"}
    metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert metrics["accuracy"] == 0.9
    assert metrics["recall"] == min(score.recall for score in example().facts.candidate.evaluation.classes)


def test_a_data_set_that_the_hub_does_not_have_is_not_named_as_one_of_its() -> None:
    sample = example()
    digits = sample.facts.candidate.prepared.model_copy(update={"dataset": "digits"})
    header, text = parts(sample.with_candidate(prepared=digits))
    assert "datasets" not in header
    assert header["model-index"][0]["results"][0]["dataset"]["type"] == "digits"
    assert "1,797 handwritten digits" in text


def test_it_tells_use_limits_loading_gate_and_origin() -> None:
    sample = with_champion()
    _, text = parts(sample)
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles == [
        "Intended use",
        "Limits",
        "How to use it",
        "Gate",
        "Compared with the champion, version 7",
        "Classes",
        "Data",
        "Where it comes from",
    ]
    for check in sample.facts.decision.checks:
        assert check.sentence in text
    assert "40 of 400 test images are wrong" in text
    assert "from tasks.learning.model_file import load" in text


def test_the_same_facts_give_the_same_bytes() -> None:
    assert model_card(example().document) == model_card(example().document)
