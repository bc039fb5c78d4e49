"""What a Prefect server needs to run the job: work pools, deployments, and the automation that finds dead runs.

`apply` is idempotent, and keeps what people have changed on the server. Called by `retrain deploy` and `retrain up`;
imports Prefect, and the flows only when it deploys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import ConcurrencyOptions, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from deployments.merge import Merge, flat, merge, nested
from tasks.errors import UsageError
from tasks.settings import Data, DeviceChoice, GateSettings, RecipeSettings, Settings
from tasks.values import Value

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")

POOLS = ("retrain-jobs", "retrain-training")

# Deployments of earlier versions.
OBSOLETE = ("train/gpu", "notify/on-rejected")

# The names on the server, by which an update finds them: do not change them.
AUTOMATION = "retrain: a run whose machine is gone"
SCHEDULE = "weekly"  # the slug of the schedule

# Six missed heartbeats; prefect.yaml has their interval. With fewer than three, healthy runs were declared Crashed.
HEARTBEAT_TIMEOUT = timedelta(seconds=180)


def apply(
    settings: Settings,
    device: DeviceChoice,
    store: str | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    show: Callable[[str], None] = print,
) -> str:
    """Create or update pools, deployments and automations on the server that `PREFECT_API_URL` names.

    Args:
        settings: What the deployed runs shall do.
        device: What the machines of the work pool retrain-training train on; auto means a GPU.
        store: The address of the store; None keeps the one that was deployed.
        overwrite: Replace what was changed on the server since the last deploy too.
        dry_run: Only show what would change.
        show: Called with each line that tells of a change, before it is made.

    Returns:
        The address of the store.

    Raises:
        UsageError: No store is named, and none was deployed; or no such schedule is possible.
    """
    with get_client(sync_client=True) as client:
        deploy = Deploy(client, settings, device, store)
        if not dry_run:
            create_pools()
        deploy.run(overwrite, dry_run, show)
    if not dry_run:
        watch_heartbeats()
    return str(deploy.parameters["store"])


def create_pools() -> None:
    """Create the work pools, for process workers; leave an existing pool of any type as it is."""
    with get_client(sync_client=True) as client:
        for name in POOLS:
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))


class Deploy:
    """The deployments of `prefect.yaml`, with the settings as their parameters and schedule."""

    def __init__(self, client: SyncPrefectClient, settings: Settings, device: DeviceChoice, store: str | None) -> None:
        self._client = client
        self._schedule = _cron_schedule(settings)
        timed = settings.model_fields_set & {"cron", "timezone"}
        self._unset = ({"store"} if store is None else set()) | (set() if timed else {"schedule"})
        self.parameters = parameters_of(settings, device, store or _deployed_store(client))

    def run(self, overwrite: bool, dry_run: bool, show: Callable[[str], None]) -> None:
        """Show what differs, then make the deployments."""
        import yaml

        content = yaml.safe_load(PREFECT_FILE.read_text())
        for entry in content["deployments"]:
            name = f"{_flow(entry).name}/{entry['name']}"
            existing = read_deployment(self._client, name)
            before = self._last_deploy(entry, existing)
            unset = self._unset if existing else ()
            merged = merge(before, _on_server(existing), self._desired(entry), overwrite, unset)
            for line in _lines(name, existing is not None, merged):
                show(line)
            if not dry_run:
                self._put(entry, content["pull"], existing, merged)
                self._record(entry, merged.deployed)
        for name in OBSOLETE:
            if old := read_deployment(self._client, name):
                show(f"{name}: removed, as this version does not use it")
                if not dry_run:
                    self._client.delete_deployment(old.id)

    def _desired(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        if entry["entrypoint"] != "flows.retrain.retrain":
            return {}
        values: dict[str, Any] = self.parameters | entry.get("parameters", {})
        if "concurrency_limit" not in entry:  # only the scheduled one has both
            return values
        values |= {"concurrency_limit": entry["concurrency_limit"]["limit"]}
        return values | {"schedule": _text(self._schedule)}

    def _put(self, entry: Mapping[str, Any], pull: Any, existing: DeploymentResponse | None, merged: Merge) -> None:
        """Create the deployment, or update it in place: its runs and its other schedules stay."""
        values = dict(merged.values)
        schedule, limit, flow = values.pop("schedule", None), values.pop("concurrency_limit", None), _flow(entry)
        variables = entry["work_pool"].get("job_variables", {})
        fields: dict[str, Any] = {
            "description": entry["description"],
            "parameters": nested(values),
            "entrypoint": entry["entrypoint"],
            "pull_steps": pull,
            "work_pool_name": entry["work_pool"]["name"],
            "job_variables": _joined(existing.job_variables if existing else {}, variables),
            "parameter_openapi_schema": parameter_schema(flow).model_dump(),
        }
        if "concurrency_limit" in entry:
            strategy = ConcurrencyOptions(collision_strategy=entry["concurrency_limit"]["collision_strategy"])
            fields |= {"concurrency_limit": limit, "concurrency_options": strategy}
        if existing is None:
            schedules = [DeploymentScheduleCreate(schedule=self._schedule, slug=SCHEDULE)] if schedule else []
            flow_id = self._client.create_flow_from_name(flow.name)
            self._client.create_deployment(
                flow_id, entry["name"], schedules=schedules, enforce_parameter_schema=True, **fields
            )
            return
        self._client.update_deployment(existing.id, DeploymentUpdate(tags=existing.tags, **fields))
        if any(each.name == "schedule" for each in merged.changed):
            self._replace_schedule(existing)

    def _replace_schedule(self, existing: DeploymentResponse) -> None:
        for each in existing.schedules:
            if each.slug == SCHEDULE:
                self._client.update_deployment_schedule(existing.id, each.id, schedule=self._schedule)
                return
        self._client.create_deployment_schedules(
            existing.id, [DeploymentScheduleCreate(schedule=self._schedule, slug=SCHEDULE)]
        )

    def _last_deploy(self, entry: Mapping[str, Any], existing: DeploymentResponse | None) -> dict[str, Any]:
        """What the last deploy has set; of one by an earlier version, which kept no record, what it always set."""
        variable = self._client.read_variable_by_name(_variable(entry))
        if existing is None:
            return {}
        if variable and isinstance(variable.value, dict):  # people may edit it
            return dict(variable.value)
        always = ("store", "device", "train_on", "schedule", "concurrency_limit")
        return {name: value for name, value in _on_server(existing).items() if name in always}

    def _record(self, entry: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        name = _variable(entry)
        if self._client.read_variable_by_name(name):
            self._client.update_variable(VariableUpdate(name=name, value=dict(values)))
        else:
            self._client.create_variable(VariableCreate(name=name, value=dict(values)))


def parameters_of(settings: Settings, device: DeviceChoice, store: str) -> dict[str, Any]:
    """The parameters of a deployed run, flat: what was chosen, and what a run elsewhere cannot know."""
    cards: dict[str, type[Value]] = {"data": Data, "recipe": RecipeSettings, "gate": GateSettings}
    chosen = {name: settings.card(kind).model_dump(mode="json", exclude_unset=True) for name, kind in cards.items()}
    own = {"store": store, "device": "cpu" if device == "cpu" else "gpu", "train_on": settings.train_on or "pool"}
    seeds = {"seeds": settings.seeds} if "seeds" in settings.model_fields_set else {}
    return _without_defaults(flat(chosen) | own | seeds)


def _without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a run takes anyway: the interface sends every field of a form that somebody has opened."""
    defaults = Settings().model_dump(mode="json") | {"force_publish": ""}
    return {name: value for name, value in values.items() if value != defaults.get(name.rpartition(".")[2])}


def read_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment of this name, as "flow/deployment"; None if there is none."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _deployed_store(client: SyncPrefectClient) -> str:
    existing = read_deployment(client, "retrain/scheduled")
    if existing and (store := existing.parameters.get("store")):
        return str(store)
    raise UsageError(
        "cannot deploy",
        "no store is named, and the runs of a server do not see this folder",
        "Name one that every worker can reach: --store s3://bucket/prefix, or a path that all of them have.",
    )


def _cron_schedule(settings: Settings) -> CronSchedule:
    try:
        return CronSchedule(cron=settings.cron, timezone=settings.timezone)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"cannot use --cron {settings.cron!r}", why, "Mondays at 4 are '0 4 * * 1'.") from None


def _on_server(existing: DeploymentResponse | None) -> dict[str, Any]:
    """The values of a deployment that settings or people can change, flat."""
    if existing is None:
        return {}
    ours = [each for each in existing.schedules if each.slug == SCHEDULE] or existing.schedules
    limit = existing.global_concurrency_limit
    return _without_defaults(flat(existing.parameters)) | {
        "schedule": "; ".join(_text(each.schedule) for each in ours) or None,
        "concurrency_limit": limit.limit if limit else None,
    }


def _text(schedule: Any) -> str:
    """A schedule in one line: "0 4 * * 1, UTC"."""
    return ", ".join(str(value) for value in schedule.model_dump(mode="json", exclude_defaults=True).values())


def _lines(name: str, exists: bool, merged: Merge) -> Iterator[str]:
    if not exists:
        values = ", ".join(f"{each.name} {_shown(each.desired)}" for each in merged.changed)
        yield f"{name}: new{', with ' if values else ''}{values}"
        return
    for each in merged.changed:
        yield f"{name}: {each.name} {_shown(each.current)} → {_shown(each.desired)}"
    for each in merged.kept:
        yield (
            f"{name}: {each.name} stays {_shown(each.current)}, as it was changed on the server; the settings say "
            f"{_shown(each.desired)}, which --overwrite sets"
        )


def _joined(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Job variables: ours, and what people have added, also within `env`."""
    inner = {name: {**theirs.get(name, {}), **value} for name, value in ours.items() if isinstance(value, dict)}
    return {**theirs, **ours, **inner}


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)


def _variable(entry: Mapping[str, Any]) -> str:
    return f"retrain_deployed_{entry['name'].replace('-', '_')}"


def _flow(entry: Mapping[str, Any]) -> Any:
    module, _, name = entry["entrypoint"].rpartition(".")
    return getattr(import_module(module), name)


def watch_heartbeats(timeout: timedelta = HEARTBEAT_TIMEOUT) -> None:
    """Create the automation that declares a run Crashed if no event of it arrives within the timeout.

    Without it, Prefect leaves a run Running for ever if its process and machine are gone. Each event of a run restarts
    its timeout.
    """
    automation = AutomationCore(
        name=AUTOMATION,
        description="A run that sends no heartbeat any more is Crashed; a training is then tried again.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": ["retrain", "train"]},
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timeout,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=_message(timeout))],
    )
    with get_client(sync_client=True) as client:
        _upsert(client, automation)


def _message(timeout: timedelta) -> str:
    return f"no sign of life for {timeout.total_seconds():.0f} s: its process or its machine is gone"


def _upsert(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create or update the automation of this name, and delete duplicates: the server allows equal names."""
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
        return
    first, *duplicates = existing
    # An update makes the server forget the last event of each run, so skip one that changes nothing.
    if AutomationCore.model_validate(first.model_dump()) != automation:
        client.update_automation(first.id, automation)
    for duplicate in duplicates:
        client.delete_automation(duplicate.id)
