"""A Prefect server of the locked versions creates the runs of a schedule."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule


@pytest.mark.usefixtures("prefect_server")
def test_a_schedule_becomes_runs() -> None:
    # Prefect allows SQLAlchemy 2.1, with which each such insert fails; only the server's log shows it.
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("on-a-schedule")
        every_day = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 4 * * *"), active=True)
        deployment = client.create_deployment(flow, "every-day", schedules=[every_day])
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}).raise_for_status()
        runs = [run for run in client.read_flow_runs() if run.deployment_id == deployment]
        client.delete_deployment(deployment)
    assert {run.state_name for run in runs} == {"Scheduled"}
