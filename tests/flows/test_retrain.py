from __future__ import annotations

import inspect
import uuid
from typing import Any, get_args

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.utilities.callables import parameter_schema

from flows.retrain import retrain
from tasks.errors import UsageError
from tasks.settings import OF_NO_RUN, Data, Settings, StepName

# Lists in the form, tuples in the settings; and what is unset for the command line.
DIFFERENT = {"mirror", "refresh", "without", "accept_changed", "train_on"}


def test_the_run_form_shows_every_setting_with_description_bounds_and_default() -> None:
    schema = parameter_schema(retrain.fn).model_dump()
    shown = dict(schema["properties"])
    for card in ("data", "recipe", "gate", "batches"):
        assert shown.pop(card)
        (definition,) = [each for each in schema["definitions"].values() if each["title"] == card.capitalize()]
        assert definition["description"]
        shown |= definition["properties"]
    forced = shown.pop("force_publish")
    assert (bool(forced["description"]), forced["default"]) == (True, "")  # no setting: it has to be said each time
    assert shown.keys() == Settings.model_fields.keys() - {*OF_NO_RUN}
    for name, field in shown.items():
        assert field["title"] == name
        assert field["description"], name
        assert field["default"] == Settings.model_fields[name].default or name in DIFFERENT
    assert shown["min_accuracy"]["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]
    assert shown["epochs"]["anyOf"] == [{"type": "integer", "minimum": 1, "maximum": 1000}, {"type": "null"}]
    assert (shown["seeds"]["type"], shown["seeds"]["default"]) == ("string", "1..5")
    assert shown["device"]["enum"] == ["auto", "cpu", "gpu"]
    assert shown["refresh"]["items"]["enum"] == list(get_args(StepName))  # chips


def test_the_job_can_be_read_in_a_minute() -> None:
    """One level of abstraction, one check of new batches, one gate, one path to publish."""
    source = inspect.getsource(retrain.fn)
    body = source.split('"""')[2]
    assert len(body.strip().splitlines()) <= 27
    assert body.count("publish(") == 1
    assert body.count("if ") == 2
    for detail in ("try", "s3", "keras", "tensorflow"):
        assert detail not in body


SECRET = "xq7Secret"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "data",
    [
        {"mirror": ["https://host/mnist/", f"https://user:{SECRET}@host/mnist/"]},
        {"mirror": [f"https://host/mnist.npz?X-Amz-Signature={SECRET}"]},
        {"source": f"https://user:{SECRET}@host/letters.npz"},
    ],
)
def test_a_run_with_a_secret_in_the_parameters_of_its_schedule_is_refused(
    data: dict[str, object],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server stores them without a look at the form's patterns: whoever may add a schedule may write any."""
    parameters = {"data": Data.model_validate(data), "model": "letters"}
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(retrain), f"of {uuid.uuid4()}")
        run = client.create_flow_run_from_deployment(deployment)
    state: Any = run_flow(retrain, flow_run=run, parameters=parameters, return_type="state")
    with pytest.raises(UsageError, match="its address holds a password or a signature, which would be stored"):
        state.result()
    assert SECRET not in caplog.text + str(capfd.readouterr()) + str(state)
    assert "cannot use the stored parameter https://host/" in caplog.text
