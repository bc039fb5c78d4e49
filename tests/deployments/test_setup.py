"""`retrain deploy` on a real server: pools, deployments, automations, and what a second call changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL

from deployments import setup
from tasks.errors import ServerError, UsageError

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the process that deploys."""
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value() or "")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_applying_twice_leaves_one_of_each() -> None:
    setup.apply("s3://first/store", "cpu")
    first = everything()
    setup.apply("s3://models/prod", "auto")
    second = everything()
    assert first.keys() == second.keys()
    assert first.keys() == {
        *(
            "pool retrain-jobs",
            "pool retrain-training",
            "retrain/scheduled",
            "retrain/on-demand",
            "retrain/ci",
            "train/on-worker",
        ),
        f"automation {setup.AUTOMATION}",
    }
    store = {"store": "s3://models/prod"}
    assert second["retrain/scheduled"].parameters == {**store, "device": "gpu", "train_on": "pool"}
    assert second["retrain/on-demand"].parameters == {**store, "device": "gpu", "train_on": "pool"}
    assert second["retrain/ci"].parameters == {**store, "device": "cpu", "train_on": "here"}
    pools = {name: deployment.work_pool_name for name, deployment in second.items() if "/" in name}
    assert {name for name, pool in pools.items() if pool == "retrain-training"} == {"train/on-worker"}
    for name in pools:
        environment = second[name].job_variables.get("env", {})
        assert environment == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}

    (schedule,) = second["retrain/scheduled"].schedules
    assert schedule.active
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 4 * * 1", "Europe/Berlin")
    limit = second["retrain/scheduled"].global_concurrency_limit
    assert limit.limit == 1
    assert second["retrain/scheduled"].concurrency_options.collision_strategy == "CANCEL_NEW"
    assert not second["retrain/on-demand"].schedules


NOTICES = {
    f"automation retrain: tell {what}"
    for what in ("how a run ended", "of a run that does not start", "of a run that was skipped")
}


def test_with_a_block_there_are_automations_that_tell_and_without_it_none() -> None:
    setup.apply("s3://models/prod", "cpu")
    without = everything()
    CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:9").save("team", overwrite=True)
    for _ in range(2):
        setup.apply("s3://models/prod", "cpu", "custom-webhook/team")
        assert everything().keys() == without.keys() | NOTICES
    ended = everything()["automation retrain: tell how a run ended"]
    states = {"Published", "Rejected", "Failed", "Crashed"}
    assert ended.trigger.expect == {f"prefect.flow-run.{state}" for state in states}
    with get_client(sync_client=True) as client:  # what somebody paused in the interface stays paused
        client.request("PATCH", "/automations/{id}", path_params={"id": ended.id}, json={"enabled": False})
    setup.apply("s3://models/prod", "cpu", "custom-webhook/team")
    assert not everything()["automation retrain: tell how a run ended"].enabled
    setup.apply("s3://models/prod", "cpu")
    assert everything().keys() == without.keys()


@pytest.mark.parametrize("name", ["nonsense", "slack-webhook/nobody", "secret/a-secret"])
def test_a_block_that_cannot_notify_is_one_line_and_changes_nothing(name: str) -> None:
    Secret(value="x").save("a-secret", overwrite=True)
    before = everything()
    why = "it is not a notification block" if name.startswith("secret/") else "the server has no such block"
    with pytest.raises(UsageError, match=f"cannot notify through {name!r}: {why}"):
        setup.apply("s3://other/store", "cpu", name)
    assert everything() == before


def test_the_notices_of_earlier_versions_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "former.py").write_text(
        "from prefect import flow\n@flow(name='notify')\ndef notify(id: str = ''):\n    pass\n"
    )
    former = {
        "name": "on-rejected",
        "entrypoint": "former.py:notify",
        "work_pool": {"name": "retrain-jobs"},
        "triggers": [{"type": "event", "expect": ["prefect.flow-run.Rejected"]}],
    }
    (tmp_path / "prefect.yaml").write_text(json.dumps({"name": "former", "deployments": [former]}))
    setup.create_pools()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=120)
    theirs = {"notify/on-rejected", "automation on-rejected__automation_1"}
    assert theirs <= everything().keys()
    for _ in range(2):
        setup.apply("s3://models/prod", "cpu")
        assert not theirs & everything().keys()


def test_a_pool_that_is_there_is_left_as_it_is() -> None:
    with get_client(sync_client=True) as client:
        setup.create_pools()
        client.update_work_pool(
            "retrain-training", WorkPoolUpdate(description="the machine in the cellar", concurrency_limit=2)
        )
        setup.create_pools()
        assert client.read_work_pool("retrain-training").concurrency_limit == 2
        assert client.read_work_pool("retrain-training").description == "the machine in the cellar"


def test_an_automation_that_agrees_is_not_touched_and_doubles_are_removed() -> None:
    def last_update() -> str:
        url = f"{os.environ['PREFECT_API_URL']}/automations/{before.id}"
        return str(httpx.get(url).json()["updated"])

    setup.watch_heartbeats()
    before = everything()[f"automation {setup.AUTOMATION}"]
    first_update = last_update()
    setup.watch_heartbeats()
    assert last_update() == first_update
    with get_client(sync_client=True) as client:
        client.create_automation(AutomationCore.model_validate(before.model_dump()))
        setup.watch_heartbeats(2 * setup.HEARTBEAT_TIMEOUT)
        (left,) = client.read_automations_by_name(setup.AUTOMATION)
    assert left.trigger.within == 2 * setup.HEARTBEAT_TIMEOUT  # type: ignore[union-attr]


def test_prefects_own_command_does_the_same_for_deployments() -> None:
    setup.apply("s3://models/prod", "gpu")
    before = everything()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run(
        [*command, "--prefect-file", "deployments/prefect.yaml"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RETRAIN_STORE": "s3://models/prod", "RETRAIN_DEVICE": "gpu"},
        capture_output=True,
        check=True,
        timeout=120,
    )
    after = everything()
    assert before.keys() == after.keys()
    assert all(after[name].parameters == before[name].parameters for name in before if "/" in name)


def test_what_cannot_be_deployed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "PREFECT_FILE", tmp_path / "missing.yaml")
    with pytest.raises(
        ServerError, match=r"cannot make the deployments: .* For its whole output: python -m prefect .*missing\.yaml"
    ):
        setup.deploy("s3://models/prod", "gpu")


def everything() -> dict[str, Any]:
    """Pools, deployments and automations by name; fails if a name occurs twice."""
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        named = [(f"pool {pool.name}", pool) for pool in client.read_work_pools() if pool.name in setup.POOLS]
        named += [(f"{flows[each.flow_id]}/{each.name}", each) for each in client.read_deployments()]  # type: ignore[misc]
        named += [(f"automation {each.name}", each) for each in client.read_automations()]  # type: ignore[misc]
    assert len(named) == len(dict(named)), [name for name, _ in named]
    return dict(named)
