from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from tasks.report import schema
from tasks.report.facts import Document
from tests.tasks.report.examples import Example, example, rendered, with_champion

REPORTS: list[Callable[[], Example]] = [
    example,
    with_champion,
    lambda: example(wrong=0, epochs=1, validation=True),
    lambda: example(wrong=300),
]


def validator() -> jsonschema.Draft202012Validator:
    content = json.loads(schema.schema())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content, format_checker=jsonschema.FormatChecker())


def test_the_schema_is_the_one_that_the_values_make() -> None:
    assert schema.schema() == schema.generate(), "python -m tasks.report.schema > tasks/report/report.schema.json"


@pytest.mark.parametrize("make", REPORTS)
def test_every_report_fits_it(make: Callable[[], Example]) -> None:
    data = make().render().data
    report = json.loads(data)
    validator().validate(report)
    assert report["$schema"] == schema.FILE
    assert Document.model_validate_json(data) == make().document


@pytest.mark.parametrize(
    "damage",
    [
        {"schema_version": 2},
        {"surprise": 1},
        {"decision": {"verdict": "maybe"}},
        {"mistakes": [{"image": 1}]},
        {"evaluation": None},
    ],
)
def test_what_is_no_report_does_not(damage: dict[str, Any]) -> None:
    report = json.loads(rendered().data) | damage
    assert not validator().is_valid(report)


def test_every_field_is_required_or_has_its_default_in_the_schema() -> None:
    content = json.loads(schema.schema())
    assert set(content["required"]) == set(content["properties"]), "whatever is written can be relied on"
