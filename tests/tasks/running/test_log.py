"""What the log of a run holds when it fails, with Prefect's own engine."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.logging.loggers import get_logger
from prefect.states import Failed

from tasks.errors import GateRejected, RetrainError
from tasks.running.log import LOGGERS, OneErrorOnce

pytestmark = pytest.mark.usefixtures("prefect_server")


@task
def fails_on_purpose() -> None:
    raise RetrainError("cannot do it", "there is no way", "Give up.")


@task
def is_defective() -> None:
    raise ZeroDivisionError("a defect")


@flow
def with_a_failing_step() -> None:
    fails_on_purpose()


@flow
def fails_by_itself() -> None:
    raise RetrainError("cannot do it", "there is no way", "Give up.")


@flow
def with_a_defect() -> None:
    is_defective()


@flow
def is_rejected() -> State[None]:
    return Failed(name="Rejected", message="the gate", data=GateRejected("the gate", None))


@flow
def returns_failure() -> State[None]:
    return Failed(message="it says why")


@pytest.fixture(autouse=True)
def filtered() -> None:
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, OneErrorOnce) for each in logger.filters):
            logger.addFilter(OneErrorOnce())


@pytest.mark.parametrize("failing", [with_a_failing_step, fails_by_itself])
def test_an_error_on_purpose_is_one_line(failing: Any, caplog: pytest.LogCaptureFixture) -> None:
    text = log_of(failing, caplog)
    assert text.count("cannot do it: there is no way. Give up.") == 1
    assert text.count("there is no way") == 1
    assert "Traceback" not in text


def test_a_defect_keeps_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    text = log_of(with_a_defect, caplog)
    assert text.count("Traceback") == 1
    assert "is_defective" in text


@pytest.mark.parametrize("failing", [is_rejected, returns_failure])
def test_a_state_that_the_flow_returned_is_no_error(failing: Any, caplog: pytest.LogCaptureFixture) -> None:
    text = log_of(failing, caplog)
    assert "Traceback" not in text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Finished in state" in text


def log_of(failing: Any, caplog: pytest.LogCaptureFixture) -> str:
    """What a worker's process would log."""
    with pytest.raises(Exception):  # noqa: B017, PT011
        run_flow(failing, error_logger=get_logger("prefect.flow_runs"))
    return caplog.text
