from __future__ import annotations

import inspect
from typing import get_args

from prefect.utilities.callables import parameter_schema

from flows.retrain import retrain
from tasks.settings import Settings, StepName


def test_the_run_form_shows_every_setting_with_description_bounds_and_default() -> None:
    schema = parameter_schema(retrain.fn).model_dump()
    shown = dict(schema["properties"])
    for card in ("data", "recipe", "gate"):
        assert shown.pop(card)
        (definition,) = [each for each in schema["definitions"].values() if each["title"] == card.capitalize()]
        assert definition["description"]
        shown |= definition["properties"]
    forced = shown.pop("force_publish")
    assert (bool(forced["description"]), forced["default"]) == (True, "")  # no setting: it has to be said each time
    assert shown.keys() == Settings.model_fields.keys() - {"cron", "timezone", "notify"}  # of deployments
    for name, field in shown.items():
        assert field["title"] == name
        assert field["description"], name
        assert field["default"] == Settings.model_fields[name].default or name in {"mirror", "refresh", "train_on"}
    assert shown["min_accuracy"]["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]
    assert shown["epochs"]["anyOf"] == [{"type": "integer", "minimum": 1, "maximum": 1000}, {"type": "null"}]
    assert shown["seeds"] | {"minimum": 1, "maximum": 100} == shown["seeds"]
    assert shown["device"]["enum"] == ["auto", "cpu", "gpu"]
    assert shown["refresh"]["items"]["enum"] == list(get_args(StepName))  # chips


def test_the_job_can_be_read_in_a_minute() -> None:
    """One level of abstraction, one gate, one path to publish."""
    source = inspect.getsource(retrain.fn)
    body = source.split('"""')[2]
    assert len(body.strip().splitlines()) <= 25
    assert body.count("publish(") == 1
    assert body.count("if ") == 1
    for detail in ("try", "s3", "keras", "tensorflow"):
        assert detail not in body
