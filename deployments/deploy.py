"""Puts the deployments of `prefect.yaml` on a server, with the settings as their parameters and schedule.

What people have changed there is kept: see `deployments.merge`. Called by `deployments.setup`; imports Prefect, and the
flows when it deploys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    VariableCreate,
    VariableUpdate,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from deployments.merge import Merge, flat, merge, nested
from tasks.errors import UsageError
from tasks.settings import Data, DeviceChoice, GateSettings, RecipeSettings, Settings
from tasks.values import Value

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")

# Deployments of earlier versions.
OBSOLETE = ("train/gpu", "notify/on-rejected")

SCHEDULE = "weekly"  # the slug of the schedule, by which an update finds it: do not change it


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
            record = self._record(entry) if existing else {}
            before = _always_set(existing) if record is None else record
            unset = self._unset if existing else ()
            merged = merge(before, _on_server(existing), self._desired(entry), overwrite, unset)
            for line in _lines(name, existing is not None, merged):
                show(line)
            if not dry_run:
                self._put(entry, content["pull"], existing, merged, first=record is None)
                self._write_record(entry, merged.deployed)
        for name in OBSOLETE:
            if old := read_deployment(self._client, name):
                show(f"{name}: removed, as this version does not use it")
                if not dry_run:
                    self._client.delete_resource_owned_automations(f"prefect.deployment.{old.id}")
                    self._client.delete_deployment(old.id)

    def _desired(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        if entry["entrypoint"] != "flows.retrain.retrain":
            return {}
        values: dict[str, Any] = self.parameters | entry.get("parameters", {})
        return values | ({"schedule": text_of(self._schedule)} if entry["name"] == "scheduled" else {})

    def _put(
        self, entry: Mapping[str, Any], pull: Any, existing: DeploymentResponse | None, merged: Merge, *, first: bool
    ) -> None:
        """Create the deployment, or update it in place: its runs, other schedules, tags and job variables stay.

        The `first` update of one that an earlier version made brings its tags, and ends its concurrency limit.
        """
        values = dict(merged.values)
        schedule, flow, tags = values.pop("schedule", None), _flow(entry), entry.get("tags", [])
        fields: dict[str, Any] = {
            "description": entry["description"],
            "parameters": nested(values),
            "entrypoint": entry["entrypoint"],
            "pull_steps": pull,
            "work_pool_name": entry["work_pool"]["name"],
            "parameter_openapi_schema": parameter_schema(flow).model_dump(),
        }
        if existing is None:
            schedules = [DeploymentScheduleCreate(schedule=self._schedule, slug=SCHEDULE)] if schedule else []
            flow_id = self._client.create_flow_from_name(flow.name)
            self._client.create_deployment(
                flow_id, entry["name"], schedules=schedules, tags=tags, enforce_parameter_schema=True, **fields
            )
            return
        if first:
            fields |= {"tags": sorted({*existing.tags, *tags}), "concurrency_limit": None}
        self._client.update_deployment(existing.id, DeploymentUpdate(**{"tags": existing.tags} | fields))
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

    def _record(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the last deploy has set; None if an earlier version deployed, or somebody has removed the record."""
        variable = self._client.read_variable_by_name(_variable(entry))
        return dict(variable.value) if variable and isinstance(variable.value, dict) else None

    def _write_record(self, entry: Mapping[str, Any], values: Mapping[str, Any]) -> None:
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
    return _without_defaults(flat(existing.parameters)) | {
        "schedule": "; ".join(text_of(each.schedule) for each in ours) or None,
    }


def text_of(schedule: Any) -> str:
    """A schedule in one line: "0 4 * * 1, UTC"."""
    return ", ".join(str(value) for value in schedule.model_dump(mode="json", exclude_defaults=True).values())


def _always_set(existing: DeploymentResponse | None) -> dict[str, Any]:
    """What each deploy of an earlier version, which kept no record, set anew."""
    always = ("store", "device", "train_on", "schedule")
    return {name: value for name, value in _on_server(existing).items() if name in always}


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


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)


def _variable(entry: Mapping[str, Any]) -> str:
    return f"retrain_deployed_{entry['name'].replace('-', '_')}"


def _flow(entry: Mapping[str, Any]) -> Any:
    module, _, name = entry["entrypoint"].rpartition(".")
    return getattr(import_module(module), name)
