"""What `prefect deploy` makes of deployments/prefect.yaml, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL

ROOT = Path(__file__).parents[1]


@pytest.mark.usefixtures("prefect_server")
def test_deploying_twice_leaves_one_of_each_and_one_schedule() -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="cpu", type="process"), overwrite=True)
        deploy("s3://first/store")
        deploy("s3://models/prod")
        deployments = {deployment.name: deployment for deployment in client.read_deployments()}
    assert deployments.keys() == {"scheduled", "on-demand"}
    for deployment in deployments.values():
        assert deployment.parameters == {"store": "s3://models/prod"}
        assert deployment.work_pool_name == "cpu"
        assert (deployment.parameter_openapi_schema or {})["properties"].keys() >= {"data", "recipe", "gate", "refresh"}
    (schedule,) = deployments["scheduled"].schedules
    assert schedule.active
    assert deployments["scheduled"].global_concurrency_limit
    assert deployments["scheduled"].global_concurrency_limit.limit == 1
    assert not deployments["on-demand"].schedules


def deploy(store: str) -> None:
    settings = {"PREFECT_API_URL": PREFECT_API_URL.value() or "", "RETRAIN_STORE": store, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run(
        [*command, "--prefect-file", "deployments/prefect.yaml"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        check=True,
        timeout=120,
    )
