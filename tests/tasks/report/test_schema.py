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
    found = json.loads(schema.schema())
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found, format_checker=jsonschema.FormatChecker())


def test_the_schema_is_the_one_that_the_values_make() -> None:
    assert schema.schema() == schema.made(), "python -m tasks.report.schema > tasks/report/report.schema.json"


@pytest.mark.parametrize("make", REPORTS)
def test_every_report_fits_it(make: Callable[[], Example]) -> None:
    data = make().render().data
    told = json.loads(data)
    validator().validate(told)
    assert told["$schema"] == schema.FILE
    assert Document.model_validate_json(data) == make().told


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
    told = json.loads(rendered().data) | damage
    assert not validator().is_valid(told)


def test_every_field_is_required_or_has_its_default_in_the_schema() -> None:
    found = json.loads(schema.schema())
    assert set(found["required"]) == set(found["properties"]), "whatever is written can be relied on"
