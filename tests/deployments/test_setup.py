"""`retrain deploy` on a real server: pools, deployments, automations, and what a second call changes."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL
from prefect.utilities.callables import parameter_schema

from deployments import deploy as deploy_module
from deployments import setup
from deployments.deploy import Target
from deployments.notice_log import NoticeLog
from flows import turn
from flows.approve import approve
from flows.retrain import retrain
from flows.watch import watch
from tasks.errors import UsageError
from tasks.settings import (
    DIGITS_GATE,
    DIGITS_RECIPE,
    Data,
    GateSettings,
    RecipeSettings,
    Settings,
    gate_for,
    recipe_for,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

STORE = "s3://models/prod"


@pytest.fixture(scope="module", autouse=True)
def schemas_made_once() -> Iterator[None]:
    """The schema of a flow's parameters is the same for each deployment, and takes a fifth of a second."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deploy_module, "parameter_schema", cache(parameter_schema))
        yield


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    """A client of a server on which nothing is deployed."""
    with get_client(sync_client=True) as connected:
        for deployment in connected.read_deployments():
            connected.delete_deployment(deployment.id)
        for variable in connected.read_variables():
            connected.delete_variable_by_name(variable.name)
        yield connected


def deploy(store: str | None = STORE, device: str = "gpu", *, overwrite: bool = False, **chosen: object) -> list[str]:
    """Deploy with these settings; the lines that it shows."""
    lines: list[str] = []
    target = Target(Settings.model_validate(chosen), device, store)  # type: ignore[arg-type]
    setup.apply([target], overwrite=overwrite, show=lines.append)
    return lines


def change(client: SyncPrefectClient, name: str = "retrain/scheduled", **parameters: Any) -> None:
    """What a person does in the interface."""
    deployment = client.read_deployment_by_name(name)
    update = DeploymentUpdate(parameters=deployment.parameters | parameters, tags=deployment.tags)
    client.update_deployment(deployment.id, update)


def parameters(client: SyncPrefectClient, name: str = "retrain/scheduled") -> dict[str, Any]:
    return client.read_deployment_by_name(name).parameters


def schedules(client: SyncPrefectClient) -> list[str]:
    deployment = client.read_deployment_by_name("retrain/scheduled")
    return [deploy_module.text_of(each.schedule) for each in deployment.schedules]


def test_deploying_twice_leaves_one_of_each(client: SyncPrefectClient) -> None:
    deploy("s3://first/store", "cpu")
    first = everything()
    moved = f"store s3://first/store → {STORE}"
    assert deploy(STORE, "auto") == [
        *("retrain/scheduled: device cpu → gpu", f"retrain/scheduled: {moved}"),
        *("retrain/on-demand: device cpu → gpu", f"retrain/on-demand: {moved}", f"retrain/ci: {moved}"),
    ]
    second = everything()
    assert first.keys() == second.keys()
    assert first.keys() >= {
        *("pool retrain-jobs", "pool retrain-training", "retrain/scheduled", "retrain/on-demand", "retrain/ci"),
        *("train/worker", f"automation {setup.AUTOMATION}"),
    }
    assert second["retrain/scheduled"].parameters == {"store": STORE, "device": "gpu", "train_on": "pool"}
    assert second["retrain/on-demand"].parameters == {"store": STORE, "device": "gpu", "train_on": "pool"}
    assert second["retrain/ci"].parameters == {"store": STORE, "device": "cpu", "train_on": "here"}
    pools = {name: deployment.work_pool_name for name, deployment in second.items() if "/" in name}
    assert {name for name, pool in pools.items() if pool == "retrain-training"} == {"train/worker"}
    for name in pools:
        assert second[name].description
    assert {name: second[name].id for name in pools} == {name: first[name].id for name in pools}
    assert {name for name in pools if turn.TAG in second[name].tags} == {"retrain/scheduled"}
    # Prefect's own limit would end the run that holds it, or never be free again, after a restart of the server.
    assert not any(second[name].global_concurrency_limit for name in pools)
    assert not second["retrain/on-demand"].schedules
    assert deploy(STORE, "auto") == []


def test_what_judges_here_judges_there(client: SyncPrefectClient) -> None:
    chosen: dict[str, Any] = {
        "min_accuracy": 0.999,
        "mirror": ["file:///data/mnist"],
        "epochs": 7,
        "seeds": "3",
        "train_on": "here",
    }
    deploy(**chosen, dataset="digits", cron="0 5 * * 5", timezone="America/New_York")
    expected = {
        **{"store": STORE, "device": "gpu", "train_on": "here", "seeds": "3"},
        **{"data": {"source": "digits", "mirror": ["file:///data/mnist"]}, "recipe": {"epochs": 7}},
        "gate": {"min_accuracy": 0.999},
    }
    assert parameters(client) == parameters(client, "retrain/on-demand") == expected
    assert parameters(client, "retrain/ci") == expected | {"device": "cpu"}
    assert schedules(client) == ["0 5 * * 5, America/New_York"]
    retrain.validate_parameters(expected)
    # What is not chosen any more is the data set's own again.
    lines = deploy(dataset="digits", mirror=["file:///data/mnist"], seeds=3, train_on="here")
    assert "retrain/scheduled: gate.min_accuracy 0.999 → unset" in lines
    assert parameters(client) == {name: value for name, value in expected.items() if name not in {"gate", "recipe"}}
    assert schedules(client) == ["0 5 * * 5, America/New_York"], "nobody named another schedule"


def test_a_form_that_is_sent_as_it_is_chooses_nothing(client: SyncPrefectClient) -> None:
    deploy()
    deployment = client.read_deployment_by_name("retrain/on-demand")
    cards = {"recipe": RecipeSettings(), "gate": GateSettings(), "data": Data(dataset="digits")}
    form = deployment.parameters | {name: card.model_dump(mode="json") for name, card in cards.items()}
    run = client.create_flow_run_from_deployment(deployment.id, parameters=form)
    sent = retrain.validate_parameters(run.parameters)
    assert (recipe_for("digits", sent["recipe"]), gate_for("digits", sent["gate"])) == (DIGITS_RECIPE, DIGITS_GATE)
    change(client, "retrain/on-demand", **form | {"refresh": [], "force_publish": ""})
    assert deploy(dataset="digits", epochs=20) == [
        f"retrain/{name}: {line}"
        for name in ("scheduled", "on-demand", "ci")
        for line in ("data.source unset → digits", "recipe.epochs unset → 20")
        if (name, line) != ("on-demand", "data.source unset → digits")
    ], "what somebody has only looked at is not changed"


SECRET = "xq7Secret"
WITH_SECRETS: tuple[dict[str, Any], ...] = (
    {"data": {"mirror": [f"https://user:{SECRET}@host/mnist/"]}},
    {"data": {"mirror": ["https://host/mnist/", f"https://host/mnist.npz?X-Amz-Signature={SECRET}"]}},
    {"store": f"s3://user:{SECRET}@bucket/prefix"},
    {"store": f"s3://bucket/prefix?token={SECRET}"},
    {"baseline": f"s3://user:{SECRET}@bucket/prefix"},
)


def test_the_server_refuses_an_address_with_a_secret_and_stores_nothing_of_it(client: SyncPrefectClient) -> None:
    """In the form of a run, and as the deployment's own parameters."""
    deploy()
    deployment = client.read_deployment_by_name("retrain/on-demand")
    address = f"{PREFECT_API_URL.value()}/deployments/{deployment.id}"
    for changed in WITH_SECRETS:
        form = {"parameters": deployment.parameters | changed}
        assert httpx.post(f"{address}/create_flow_run", json=form).status_code == 409, changed
        assert httpx.patch(address, json=form).status_code == 409, changed
    for stored in ("flow_runs", "deployments", "task_runs"):
        assert SECRET not in httpx.post(f"{PREFECT_API_URL.value()}/{stored}/filter", json={}).text


def test_what_was_changed_in_the_interface_stays_unless_it_is_overwritten(client: SyncPrefectClient) -> None:
    deploy(min_accuracy=0.97)
    change(client, gate={"min_accuracy": 0.99}, seeds="3")
    for _ in range(2):
        lines = deploy(min_accuracy=0.97, epochs=6)
        assert "retrain/scheduled: gate.min_accuracy stays 0.99, as it was changed on the server" in "\n".join(lines)
    assert parameters(client)["gate"] == {"min_accuracy": 0.99}
    assert parameters(client)["recipe"] == {"epochs": 6}
    assert parameters(client)["seeds"] == "3"
    assert parameters(client, "retrain/on-demand")["gate"] == {"min_accuracy": 0.97}
    lines = deploy(min_accuracy=0.97, epochs=6, overwrite=True)
    assert "retrain/scheduled: gate.min_accuracy 0.99 → 0.97" in lines
    assert parameters(client)["gate"] == {"min_accuracy": 0.97}
    assert "seeds" not in parameters(client)
    # The settings take over what the interface says, and both are of one mind.
    change(client, gate={"min_accuracy": 0.98})
    assert deploy(min_accuracy=0.98, epochs=6) == [
        "retrain/on-demand: gate.min_accuracy 0.97 → 0.98",
        "retrain/ci: gate.min_accuracy 0.97 → 0.98",
    ]
    assert deploy(min_accuracy=0.985, epochs=6)[0] == "retrain/scheduled: gate.min_accuracy 0.98 → 0.985"


def test_a_schedule_that_was_changed_added_paused_or_removed_stays(client: SyncPrefectClient) -> None:
    deploy()
    assert schedules(client) == ["0 4 * * 1, UTC"]
    deployment = client.read_deployment_by_name("retrain/scheduled")
    (ours,) = deployment.schedules
    fridays = CronSchedule(cron="0 22 * * 5", timezone="America/New_York")
    client.update_deployment_schedule(deployment.id, ours.id, active=False, schedule=fridays)
    hourly = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)))
    client.create_deployment_schedules(deployment.id, [hourly])
    assert deploy() == []
    kept = "retrain/scheduled: schedule stays 0 22 * * 5, America/New_York, as it was changed on the server"
    assert deploy(cron="0 3 * * *")[0].startswith(kept)
    assert sorted(schedules(client))[0] == "0 22 * * 5, America/New_York"
    assert len(schedules(client)) == 2
    deploy(cron="0 3 * * *", overwrite=True)
    assert sorted(schedules(client))[0] == "0 3 * * *, UTC"
    assert len(schedules(client)) == 2
    paused = [each.active for each in client.read_deployment_by_name("retrain/scheduled").schedules]
    assert sorted(paused) == [False, True], "overwriting its time starts no schedule that was paused"
    for each in client.read_deployment_by_name("retrain/scheduled").schedules:
        client.delete_deployment_schedule(deployment.id, each.id)
    assert "schedule stays unset" in "\n".join(deploy(cron="0 3 * * *"))
    assert schedules(client) == []
    deploy(cron="0 3 * * *", overwrite=True)
    assert schedules(client) == ["0 3 * * *, UTC"]


def test_a_deployment_of_an_earlier_version_moves_with_the_settings(client: SyncPrefectClient) -> None:
    flow = client.create_flow_from_name("retrain")
    weekly = CronSchedule(cron="0 4 * * 1", timezone="Europe/Berlin")
    for name in ("scheduled", "on-demand", "ci"):
        client.create_deployment(
            flow,
            name,
            parameters={"store": "s3://old/prod", "device": "gpu", "train_on": "gpu"},
            concurrency_limit=1,
            tags=["ours"],
            schedules=[DeploymentScheduleCreate(schedule=weekly, slug="weekly")] if name == "scheduled" else [],
        )
    client.create_deployment(client.create_flow_from_name("train"), "gpu")
    change(client, gate={"min_accuracy": 0.99})
    lines = deploy(None, min_accuracy=0.98)
    assert "retrain/scheduled: train_on gpu → pool" in lines
    assert "retrain/scheduled: gate.min_accuracy stays 0.99" in "\n".join(lines)
    assert "train/gpu: removed, as this version does not use it" in lines
    assert parameters(client) == {
        **{"store": "s3://old/prod", "device": "gpu", "train_on": "pool"},
        "gate": {"min_accuracy": 0.99},
    }
    assert schedules(client) == ["0 4 * * 1, Europe/Berlin"]
    assert deploy_module.read_deployment(client, "train/gpu") is None


def test_job_variables_and_a_limit_that_people_have_set_stay(client: SyncPrefectClient) -> None:
    deploy()
    deployment = client.read_deployment_by_name("retrain/scheduled")
    own = {"env": {"AWS_PROFILE": "models"}, "image": "retrain:7"}
    client.update_deployment(deployment.id, DeploymentUpdate(job_variables=own, concurrency_limit=2, tags=["ours"]))
    deploy(epochs=3)
    after = client.read_deployment_by_name("retrain/scheduled")
    assert (after.job_variables, after.tags) == (own, ["ours"])
    assert after.global_concurrency_limit
    assert after.global_concurrency_limit.limit == 2


def test_a_dry_run_changes_nothing(client: SyncPrefectClient) -> None:
    lines: list[str] = []
    setup.apply([Target(Settings(), "gpu", STORE)], dry_run=True, show=lines.append)
    assert lines[0].startswith("retrain/scheduled: new, with ")
    assert f"store {STORE}" in lines[0]
    assert client.read_deployments() == []
    assert client.read_variables() == []


def test_a_store_has_to_be_named_once(client: SyncPrefectClient) -> None:
    with pytest.raises(
        UsageError, match=r"cannot deploy mnist: no store is named, and .* Name one that every worker can"
    ):
        deploy(None)
    assert client.read_deployments() == []
    deploy(STORE)
    assert deploy(None) == []
    assert parameters(client)["store"] == STORE


def test_what_is_no_schedule_is_one_line_and_changes_nothing(client: SyncPrefectClient) -> None:
    with pytest.raises(
        UsageError, match=r"cannot use the schedule 'every monday': .*\. Mondays at 4 are '0 4 \* \* 1'\."
    ):
        deploy(cron="every monday")
    assert client.read_deployments() == []


def test_a_record_that_somebody_has_removed_or_edited_is_no_error(client: SyncPrefectClient) -> None:
    deploy(epochs=3)
    for variable in client.read_variables():
        client.delete_variable_by_name(variable.name)
    assert "recipe.epochs stays 3" in deploy(epochs=4)[0], "who has set it is not known"
    deploy(epochs=4, overwrite=True)
    assert parameters(client)["recipe"] == {"epochs": 4}


def test_each_model_has_deployments_of_its_own(client: SyncPrefectClient) -> None:
    deploy(epochs=3)
    before = everything()
    letters = {"model": "letters", "source": "s3://data/letters", "min_accuracy": 0.9, "cron": "0 5 * * 2"}
    digits = {"model": "digits-small", "source": "digits", "seeds": "3"}
    lines: list[str] = []
    targets = [
        Target(Settings.model_validate(letters), "gpu", STORE),
        Target(Settings.model_validate(digits), "cpu", "s3://models/other"),
    ]
    setup.apply(targets, dry_run=True, show=lines.append)
    assert [line.partition(": new, ")[0] for line in lines] == [
        *(f"retrain/letters-{name}" for name in ("scheduled", "on-demand", "ci")),
        *(f"retrain/digits-small-{name}" for name in ("scheduled", "on-demand", "ci")),
    ]
    assert everything() == before
    assert setup.apply(targets, show=lines.append) == [STORE, "s3://models/other"]
    after = everything()
    assert {name: after[name] for name in before} == before, "the model that is not deployed is not touched"
    new = sorted(after.keys() - before.keys())
    assert new == sorted(line.partition(": new, ")[0] for line in lines[:6])
    assert parameters(client, "retrain/letters-scheduled") == {
        **{"store": STORE, "device": "gpu", "train_on": "pool", "model": "letters"},
        **{"data": {"source": "s3://data/letters"}, "gate": {"min_accuracy": 0.9}},
    }
    assert parameters(client, "retrain/digits-small-on-demand") == {
        **{"store": "s3://models/other", "device": "cpu", "train_on": "pool", "model": "digits-small", "seeds": "3"},
        "data": {"source": "digits"},
    }
    assert set(after["retrain/letters-scheduled"].tags) == {"one-at-a-time", "model:letters"}
    assert after["retrain/digits-small-ci"].tags == ["model:digits-small"]
    assert after["retrain/ci"].tags == []
    (schedule,) = after["retrain/letters-scheduled"].schedules
    assert deploy_module.text_of(schedule.schedule) == "0 5 * * 2, UTC"
    # What somebody has changed of one model stays, and another one is as it was deployed.
    change(client, "retrain/letters-scheduled", seeds="5")
    again: list[str] = []
    setup.apply([targets[1]._replace(settings=Settings.model_validate(digits | {"seeds": "1..5"}))], show=again.append)
    assert again == [f"retrain/digits-small-{name}: seeds 3 → unset" for name in ("scheduled", "on-demand", "ci")]
    setup.apply(targets[:1], show=again.append)
    assert again[3:] == [
        "retrain/letters-scheduled: seeds stays 5, as it was changed on the server; the settings say unset, which "
        "--overwrite sets"
    ]


def test_a_known_set_by_its_own_name_keeps_the_names_of_today(client: SyncPrefectClient) -> None:
    deploy(dataset="digits")
    assert deploy(source="digits", model="digits") == [
        f"retrain/{name}: model unset → digits" for name in ("scheduled", "on-demand", "ci")
    ]
    assert not [name for name in everything() if "digits" in name]


def test_nothing_is_changed_where_one_of_several_models_cannot_be_deployed(client: SyncPrefectClient) -> None:
    deploy()
    before = everything()
    good = Target(Settings(model="good", source="digits"), "cpu", "s3://other/store")
    for bad, said in [
        (Target(Settings(model="bad", source="digits"), "cpu"), "cannot deploy bad: no store is named"),
        (Target(Settings(model="bad", cron="never"), "cpu", STORE), "cannot use the schedule 'never'"),
        (Target(Settings(model="bad", notify="slack-webhook/x"), "cpu", STORE), "cannot notify through"),
    ]:
        with pytest.raises(UsageError, match=said):
            setup.apply([good, bad])
        assert everything() == before


def test_the_command_deploys_several_files(client: SyncPrefectClient, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'model = "a"\nstore = "{STORE}"\n[recipe]\nepochs = 3\n')
    (tmp_path / "b.toml").write_text(f'model = "b"\nstore = "{STORE}"\n[data]\nsource = "digits"\n')
    command = [sys.executable, "-m", "flows.cli.main", "deploy", *("--config", "a.toml", "--config", "b.toml")]
    paths = {"PYTHONPATH": str(Path(__file__).parents[2]), "RETRAIN_HOME": str(tmp_path / "home")}
    environment = {**os.environ, **paths, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}

    def run(*more: str) -> list[str]:
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    shown = run("--dry-run")
    assert client.read_deployments() == []
    assert len(shown) == 9, "three of each model, the worker's once, and where"
    assert shown[-1].startswith("would deploy b to http://")
    assert [line.replace("deployed ", "would deploy ") for line in run()] == shown
    assert parameters(client, "retrain/a-scheduled")["recipe"] == {"epochs": 3}
    assert parameters(client, "retrain/b-scheduled")["data"] == {"source": "digits"}


GROWING: dict[str, Any] = {"model": "letters", "source": "s3://data/letters/*", "min_accuracy": 0.9}
WATCHING = "watch/letters-watch"


def test_where_a_source_grows_it_is_watched_and_no_longer_where_it_does_not(client: SyncPrefectClient) -> None:
    assert WATCHING not in " ".join(deploy(**GROWING | {"source": "s3://data/letters"}))
    lines: list[str] = []
    target = Target(Settings.model_validate(GROWING), "gpu", STORE)
    setup.apply([target], dry_run=True, show=lines.append)
    new = f"{WATCHING}: new, with deployment retrain/letters-scheduled, schedule */5 * * * *, UTC"
    assert new in lines
    assert WATCHING not in everything()
    assert new in deploy(**GROWING)
    watched = everything()[WATCHING]
    assert (watched.work_pool_name, watched.work_queue_name, watched.tags) == (
        "retrain-jobs",
        "watch",
        ["model:letters"],
    )
    assert client.read_work_queue_by_name("watch", "retrain-jobs").concurrency_limit == 1
    watch.validate_parameters(watched.parameters)
    assert deploy(**GROWING) == []

    client.create_automation(
        AutomationCore(
            name="theirs",
            trigger=EventTrigger(expect={"x"}, posture=Posture.Reactive, threshold=1, within=timedelta(0)),
            actions=[RunDeployment(source="selected", deployment_id=watched.id)],
            owner_resource=f"prefect.deployment.{watched.id}",
        )
    )
    removed = f"{WATCHING}: removed, as the source of its model does not grow"
    lines.clear()
    setup.apply(
        [target._replace(settings=Settings.model_validate(GROWING | {"source": "s3://data/letters"}))],
        dry_run=True,
        show=lines.append,
    )
    assert removed in lines
    assert everything().keys() >= {WATCHING, "automation theirs"}
    assert removed in deploy(**GROWING | {"source": "s3://data/letters"})
    assert not everything().keys() & {WATCHING, "automation theirs"}
    assert WATCHING not in " ".join(deploy(**GROWING | {"source": "s3://data/letters"}))


def test_a_model_that_waits_for_approval_has_a_form_for_it(client: SyncPrefectClient) -> None:
    waiting: dict[str, Any] = {"model": "letters", "source": "s3://data/letters", "min_accuracy": 0.9, "approve": True}
    assert "approve/letters-approve: new, with model letters, store s3://models/prod" in deploy(**waiting)
    assert parameters(client, "retrain/letters-scheduled")["approve"] is True
    form = client.read_deployment_by_name("approve/letters-approve")
    assert form.parameter_openapi_schema is not None
    assert form.parameter_openapi_schema["required"] == ["version", "model"]
    assert form.parameter_openapi_schema["properties"]["answer"]["enum"] == ["approve", "decline"]
    approve.validate_parameters(form.parameters | {"version": 3})
    assert deploy(**waiting) == []
    change(client, "retrain/letters-scheduled", approve=False)  # in the interface: it stays, and the form has no use
    assert "approve/letters-approve: removed, as its model waits for nobody" in deploy(**waiting)
    change(client, "retrain/letters-scheduled", approve=True)
    deploy(**waiting)
    assert "approve/letters-approve: removed, as its model waits for nobody" in deploy(**waiting | {"approve": False})


def test_where_nobody_is_named_a_server_of_our_own_keeps_a_log(tmp_path: Path) -> None:
    targets, log = [Target(Settings(), "cpu", STORE)], tmp_path / "notices.log"
    setup.apply(targets, log=log)
    told = everything()["automation retrain: tell how a run ended"]
    setup.apply(targets, log=log)
    assert everything()["automation retrain: tell how a run ended"] == told
    with get_client(sync_client=True) as client:
        document = client.read_block_document(told.actions[0].block_document_id)
    block: Any = NoticeLog._from_block_document(document)
    asyncio.run(block.notify("version 3,\naccuracy 0.98", "retrain Published: mnist"))
    asyncio.run(block.notify("\x1b[2Jcleared", None))
    first, second = log.read_text().splitlines()
    assert first.endswith("  retrain Published: mnist: version 3, accuracy 0.98".strip())
    assert "cleared" in second
    CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:9").save("people", overwrite=True)
    deploy(notify="custom-webhook/people")
    named = everything()["automation retrain: tell how a run ended"]
    setup.apply(targets, log=log)
    assert everything()["automation retrain: tell how a run ended"] == named, "people who are named stay named"
    deploy(notify="")


def test_what_people_have_changed_of_a_watch_stays(client: SyncPrefectClient) -> None:
    deploy(**GROWING)
    deployment = client.read_deployment_by_name(WATCHING)
    hourly = CronSchedule(cron="0 * * * *", timezone="UTC")
    client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False, schedule=hourly)
    queue = client.read_work_queue_by_name("watch", "retrain-jobs")
    client.update_work_queue(queue.id, concurrency_limit=4)
    kept = f"{WATCHING}: schedule stays 0 * * * *, UTC, as it was changed on the server; "
    for more in ({}, {"cron": "0 5 * * 2"}):
        assert [line for line in deploy(**GROWING | more) if line.startswith(WATCHING)] == [
            f"{kept}the settings say */5 * * * *, UTC, which --overwrite sets"
        ]
    assert not client.read_deployment_by_name(WATCHING).schedules[0].active
    assert client.read_work_queue_by_name("watch", "retrain-jobs").concurrency_limit == 4
    assert f"{WATCHING}: schedule 0 * * * *, UTC → */5 * * * *, UTC" in deploy(**GROWING, overwrite=True)
    (schedule,) = client.read_deployment_by_name(WATCHING).schedules
    assert (deploy_module.text_of(schedule.schedule), schedule.active) == ("*/5 * * * *, UTC", False)
    client.update_work_queue(queue.id, concurrency_limit=1)


def test_a_source_that_somebody_has_changed_on_the_server_decides_whether_it_is_watched(
    client: SyncPrefectClient,
) -> None:
    deploy(**GROWING)
    change(client, "retrain/letters-scheduled", data={"source": "s3://data/others"})
    assert f"{WATCHING}: removed, as the source of its model does not grow" in deploy(**GROWING)
    change(client, "retrain/letters-scheduled", data={"source": "s3://data/others/*"})
    assert WATCHING in " ".join(deploy(**GROWING))


NOTICES = {
    f"automation retrain: tell {what}"
    for what in (
        "how a run ended",
        "of a run that does not start",
        "of a run that was skipped",
        "of a watch that fails",
    )
}


def test_with_a_block_there_are_automations_that_tell_and_without_it_none() -> None:
    deploy()
    without = everything()
    CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:9").save("team", overwrite=True)
    for _ in range(2):
        deploy(notify="custom-webhook/team")
        assert everything().keys() == without.keys() | NOTICES
    ended = everything()["automation retrain: tell how a run ended"]
    states = {"Published", "AwaitingApproval", "Declined", "Rejected", "Failed", "Crashed"}
    assert ended.trigger.expect == {f"prefect.flow-run.{state}" for state in states}
    with get_client(sync_client=True) as client:  # what somebody paused in the interface stays paused
        client.request("PATCH", "/automations/{id}", path_params={"id": ended.id}, json={"enabled": False})
    deploy(notify="custom-webhook/team")
    assert not everything()["automation retrain: tell how a run ended"].enabled
    deploy()
    assert everything().keys() == without.keys() | NOTICES, "who is told stays, where nobody says otherwise"
    deploy(notify="")
    assert everything().keys() == without.keys()


def test_each_model_tells_through_its_own_block() -> None:
    CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:9").save("all", overwrite=True)
    CustomWebhookNotificationBlock(name="x", url="http://127.0.0.1:9").save("letters", overwrite=True)
    deploy(notify="custom-webhook/all")
    one = {"model": "letters", "source": "digits", "notify": "custom-webhook/letters"}
    other = {"model": "shapes", "source": "digits"}
    setup.apply([Target(Settings.model_validate(each), "cpu", STORE) for each in (one, other)])
    automations = {name: each for name, each in everything().items() if name.startswith("automation retrain: tell")}
    assert automations.keys() == NOTICES | {f"{name}, letters" for name in NOTICES}
    deployments: dict[str, set[str]] = {}
    for each in automations.values():
        (action,), (_, of_deployment) = each.actions, each.trigger.match_related
        deployments.setdefault(str(action.block_document_id), set()).update(of_deployment["prefect.resource.name"])
    assert sorted(map(sorted, deployments.values())) == [
        ["approve", "on-demand", "scheduled", "watch"],
        ["letters-approve", "letters-on-demand", "letters-scheduled", "letters-watch"],
    ], "each run is told by one of them"
    deploy(model="letters", source="digits", notify="")
    assert {name for name in everything() if name.startswith("automation retrain: tell")} == NOTICES
    deploy(notify="")


def test_the_address_of_a_block_is_shown_nowhere_and_stored_encrypted() -> None:
    """By us; of a block whose address is no secret field of Prefect's, Prefect's own event of its creation has it."""
    CustomWebhookNotificationBlock(name="x", url=f"https://example.org/{SECRET}").save("secret", overwrite=True)
    lines = deploy(notify="custom-webhook/secret")
    assert SECRET not in "\n".join([*lines, *map(str, everything().values())])
    database = (PREFECT_API_DATABASE_CONNECTION_URL.value() or "").removeprefix("sqlite+aiosqlite:///")
    with closing(sqlite3.connect(database)) as stored:
        tables = [name for (name,) in stored.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        kept = {name: str(stored.execute(f'SELECT * FROM "{name}"').fetchall()) for name in tables}
    assert "secret" in kept["block_document"]
    assert not [name for name, rows in kept.items() if SECRET in rows and name not in {"events", "event_resources"}]
    deploy(notify="")


@pytest.mark.parametrize("name", ["non-sense/ops", "slack-webhook/nobody", "secret/a-secret"])
def test_a_block_that_cannot_notify_is_one_line_and_changes_nothing(name: str) -> None:
    Secret(value="x").save("a-secret", overwrite=True)
    before = everything()
    why = "it is not a notification block" if name.startswith("secret/") else "the server has no such block"
    with pytest.raises(UsageError, match=f"cannot notify through {name!r}: {why}"):
        deploy("s3://other/store", notify=name)
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
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=120)
    theirs = {"notify/on-rejected", "automation on-rejected__automation_1"}
    assert theirs <= everything().keys()
    for _ in range(2):
        deploy()
        assert not theirs & everything().keys()


def test_a_pool_that_is_there_is_left_as_it_is() -> None:
    with get_client(sync_client=True) as client:
        setup.create_pools()
        ours = WorkPoolUpdate(description="the machine in the cellar", concurrency_limit=2)
        client.update_work_pool("retrain-training", ours)
        setup.create_pools()
        assert client.read_work_pool("retrain-training").concurrency_limit == 2
        assert client.read_work_pool("retrain-training").description == "the machine in the cellar"


def test_an_automation_that_agrees_is_not_touched_and_doubles_are_removed() -> None:
    def last_update() -> str:
        return str(httpx.get(f"{PREFECT_API_URL.value()}/automations/{before.id}").json()["updated"])

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


def everything() -> dict[str, Any]:
    """Pools, deployments and automations by name; fails if a name occurs twice."""
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        named = [(f"pool {pool.name}", pool) for pool in client.read_work_pools() if pool.name in setup.POOLS]
        named += [(f"{flows[each.flow_id]}/{each.name}", each) for each in client.read_deployments()]  # type: ignore[misc]
        named += [(f"automation {each.name}", each) for each in client.read_automations()]  # type: ignore[misc]
    assert len(named) == len(dict(named)), [name for name, _ in named]
    return dict(named)
