"""Puts the deployments of `prefect.yaml` on a server, with a model's settings as their parameters and schedule.

What people have changed there is kept: see `deployments.merge`. Each model has deployments of its own, by whose names
an update finds them, and a worker's that all models share. Called by `deployments.setup`; imports Prefect, and the
flows when it deploys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    VariableCreate,
    VariableUpdate,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from deployments.merge import Merge, flat, merge, nested
from tasks.address import hidden
from tasks.errors import UsageError
from tasks.settings import (
    KNOWN,
    BatchLimits,
    Data,
    DeviceChoice,
    GateSettings,
    RecipeSettings,
    Settings,
    has_batches,
    require_plain,
)
from tasks.values import Value

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")

# Deployments of earlier versions.
OBSOLETE = ("train/gpu", "notify/on-rejected")

RETRAIN, WATCH, APPROVE = "flows.retrain.retrain", "flows.watch.watch", "flows.approve.approve"

# Why a model does not have, or no longer has, such a deployment.
WHY_NOT = {WATCH: "the source of its model does not grow", APPROVE: "its model waits for nobody"}

SCHEDULE = "weekly"  # the slug of a schedule, by which an update finds it: do not change it


class Target(NamedTuple):
    """A model that is deployed: its settings, what its trainings run on, and its store; None keeps the deployed one."""

    settings: Settings
    device: DeviceChoice
    store: str | None = None


class Change(NamedTuple):
    """What a deploy does to one deployment, which does not exist yet if `existing` is None.

    It is removed if `merged` is None. The `first` update of one that an earlier version made brings its tags, and ends
    its concurrency limit.
    """

    name: str
    entry: Mapping[str, Any]
    existing: DeploymentResponse | None
    merged: Merge | None
    first: bool = False

    def lines(self) -> Iterator[str]:
        """What is shown of it."""
        if self.merged is None:
            return iter([f"{self.name}: removed, as {WHY_NOT[self.entry['entrypoint']]}"])
        return _lines(self.name, self.existing is not None, self.merged)


class Deploy:
    """The deployments of `prefect.yaml` for one model, with its settings as their parameters and schedule."""

    def __init__(self, client: SyncPrefectClient, settings: Settings, device: DeviceChoice, store: str | None) -> None:
        import yaml

        self._client, self._model = client, settings.model_name
        self._content = yaml.safe_load(PREFECT_FILE.read_text())
        self._schedule = _cron_schedule(settings)
        timed = settings.model_fields_set & {"cron", "timezone"}
        self._unset = ({"store"} if store is None else set()) | (set() if timed else {"schedule"})
        self._prefix = settings.deployment_prefix
        self._scheduled = f"{self._prefix}scheduled"
        self.parameters = parameters_of(settings, device, store or self._deployed_store())

    def changes(self, overwrite: bool) -> Iterator[Change]:
        """What has to be done; changes nothing yet. Raises UsageError for what the server must not keep."""
        runs: Mapping[str, Any] = {}  # as they will have it: somebody may have changed it on the server
        for entry in map(self._named, self._content["deployments"]):
            name = f"{_flow(entry).name}/{entry['name']}"
            existing = read_deployment(self._client, name)
            if not _is_needed(entry, runs):
                if existing:
                    yield Change(name, entry, existing, None)
                continue
            record = self._record(entry) if existing else {}
            before = _always_set(existing) if record is None else record
            unset = self._unset - ({"schedule"} if "cron" in entry else set()) if existing else ()
            merged = merge(before, _on_server(existing), self._desired(entry, runs), overwrite, unset)
            require_plain(f"{name} with the mirror", merged.values.get("data.mirror") or ())
            if entry["name"] == self._scheduled:
                runs = merged.values
            yield Change(name, entry, existing, merged, first=record is None)

    def _desired(self, entry: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = self.parameters if entry["entrypoint"] == RETRAIN else {}
        if entry["entrypoint"] == APPROVE:
            values = {"model": runs.get("model") or self._model, "store": runs["store"]}
        schedule = {"schedule": text_of(entry["schedule"])} if entry.get("schedule") else {}
        return {**values, **entry.get("parameters", {}), **schedule}

    def put(self, change: Change) -> None:
        """Create the deployment, or update it in place: its runs, other schedules, tags and job variables stay."""
        _, entry, existing, merged, first = change
        if merged is None:
            assert existing
            delete(self._client, existing)
            return
        values = dict(merged.values)
        schedule, flow, tags = values.pop("schedule", None), _flow(entry), entry.get("tags", [])
        fields: dict[str, Any] = {
            "description": entry["description"],
            "parameters": nested(values),
            "entrypoint": entry["entrypoint"],
            "pull_steps": self._content["pull"],
            "work_pool_name": entry["work_pool"]["name"],
            "parameter_openapi_schema": parameter_schema(flow).model_dump(),
            "enforce_parameter_schema": True,
        }
        if queue := entry["work_pool"].get("work_queue_name"):
            self._ensure_queue(queue, entry["work_pool"]["name"])
            fields["work_queue_name"] = queue
        if existing is None:
            schedules = [DeploymentScheduleCreate(schedule=entry["schedule"], slug=SCHEDULE)] if schedule else []
            flow_id = self._client.create_flow_from_name(flow.name)
            self._client.create_deployment(flow_id, entry["name"], schedules=schedules, tags=tags, **fields)
        else:
            if first:
                fields |= {"tags": sorted({*existing.tags, *tags}), "concurrency_limit": None}
            self._client.update_deployment(existing.id, DeploymentUpdate(**{"tags": existing.tags} | fields))
            if any(each.name == "schedule" for each in merged.changed):
                self._replace_schedule(existing, entry["schedule"])
        self._write_record(entry, merged.deployed)

    def _ensure_queue(self, name: str, pool: str) -> None:
        """One run of this queue at a time, unless somebody has changed that: else all that are late begin at once."""
        with suppress(ObjectAlreadyExists):
            self._client.create_work_queue(name, concurrency_limit=1, work_pool_name=pool)

    def _replace_schedule(self, existing: DeploymentResponse, schedule: CronSchedule) -> None:
        for each in existing.schedules:
            if each.slug == SCHEDULE:
                self._client.update_deployment_schedule(existing.id, each.id, schedule=schedule)
                return
        self._client.create_deployment_schedules(
            existing.id, [DeploymentScheduleCreate(schedule=schedule, slug=SCHEDULE)]
        )

    def _named(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The entry for this model: its name, and its tag, distinguish the deployments of several models.

        Those without the model's name may be of any: its run form, too, chooses the data. So they have no such tag.
        """
        if entry["entrypoint"] not in {RETRAIN, WATCH, APPROVE}:
            return dict(entry)
        name = f"{self._prefix}{entry['name']}"
        tags = [*entry.get("tags", []), *([f"model:{self._model}"] if self._prefix else [])]
        named = {**entry, "name": name, "tags": tags}
        if entry["entrypoint"] == WATCH:
            schedule = CronSchedule(cron=entry["cron"], timezone="UTC")
            return named | {"parameters": {"deployment": f"retrain/{self._scheduled}"}, "schedule": schedule}
        return named | ({"schedule": self._schedule} if name == self._scheduled else {})

    def _deployed_store(self) -> str:
        existing = read_deployment(self._client, f"retrain/{self._scheduled}")
        if existing and (store := existing.parameters.get("store")):
            return str(store)
        raise UsageError(
            f"cannot deploy {self._model}",
            "no store is named, and the runs of a server do not see this folder",
            "Name one that every worker can reach: --store s3://bucket/prefix, or a path that all of them have.",
        )

    def _record(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the last deploy has set; None if an earlier version deployed, or somebody has removed the record."""
        variable = self._client.read_variable_by_name(_variable(entry))
        return _renamed(variable.value) if variable and isinstance(variable.value, dict) else None

    def _write_record(self, entry: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        name = _variable(entry)
        if self._client.read_variable_by_name(name):
            self._client.update_variable(VariableUpdate(name=name, value=dict(values)))
        else:
            self._client.create_variable(VariableCreate(name=name, value=dict(values)))


def remove_obsolete(client: SyncPrefectClient, dry_run: bool, show: Callable[[str], None]) -> None:
    """Delete the deployments of earlier versions, with their automations."""
    for name in OBSOLETE:
        if old := read_deployment(client, name):
            show(f"{name}: removed, as this version does not use it")
            if not dry_run:
                delete(client, old)


def delete(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Delete a deployment with its automations."""
    client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
    client.delete_deployment(deployment.id)


def parameters_of(settings: Settings, device: DeviceChoice, store: str) -> dict[str, Any]:
    """The parameters of a deployed run, flat: what was chosen, and what a run elsewhere cannot know."""
    cards: dict[str, type[Value]] = {
        "data": Data,
        "recipe": RecipeSettings,
        "gate": GateSettings,
        "batches": BatchLimits,
    }
    chosen = {name: settings.card(kind).model_dump(mode="json", exclude_unset=True) for name, kind in cards.items()}
    own = {"store": store, "device": "cpu" if device == "cpu" else "gpu", "train_on": settings.train_on or "pool"}
    seeds = {"seeds": settings.seeds} if "seeds" in settings.model_fields_set else {}
    values = flat(chosen) | own | seeds | {"model": settings.model, "approve": settings.approve}
    if settings.source not in KNOWN and "://" not in settings.source:
        values["data.source"] = str(Path(settings.source).expanduser().absolute())  # a run has another current folder
    return _without_defaults(values)


def _without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a run takes anyway: the interface sends every field of a form that somebody has opened."""
    defaults = Settings().model_dump(mode="json") | {"force_publish": ""}
    return {name: value for name, value in values.items() if value != defaults.get(name.rpartition(".")[2])}


def _is_needed(entry: Mapping[str, Any], runs: Mapping[str, Any]) -> bool:
    """Whether a model has this deployment, by the parameters of its scheduled runs."""
    needs = {WATCH: has_batches(runs.get("data.source") or ""), APPROVE: bool(runs.get("approve"))}
    return needs.get(entry["entrypoint"], True)


def read_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment of this name, as "flow/deployment"; None if there is none."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _cron_schedule(settings: Settings) -> CronSchedule:
    try:
        return CronSchedule(cron=settings.cron, timezone=settings.timezone)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        what, next_step = f"cannot use the schedule {settings.cron!r}", "Mondays at 4 are '0 4 * * 1'."
        raise UsageError(what, why, next_step, settings.cron) from None


def _on_server(existing: DeploymentResponse | None) -> dict[str, Any]:
    """The values of a deployment that settings or people can change, flat."""
    if existing is None:
        return {}
    ours = [each for each in existing.schedules if each.slug == SCHEDULE] or existing.schedules
    return _without_defaults(_renamed(flat(existing.parameters))) | {
        "schedule": "; ".join(text_of(each.schedule) for each in ours) or None,
    }


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values as this version writes them: earlier ones called the source dataset, and seeds were a number."""
    renamed = {"data.source" if name == "data.dataset" else name: value for name, value in values.items()}
    return renamed | {name: str(value) for name, value in renamed.items() if name == "seeds"}


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
    return "unset" if value is None else hidden(str(value))  # earlier versions deployed any address


def _variable(entry: Mapping[str, Any]) -> str:
    return f"retrain_deployed_{entry['name'].replace('-', '_')}"


def _flow(entry: Mapping[str, Any]) -> Any:
    module, _, name = entry["entrypoint"].rpartition(".")
    return getattr(import_module(module), name)
