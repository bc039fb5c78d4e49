"""`@step`: a Prefect task whose result is cached in the run's own store.

    @step(packages=["numpy"])
    def double(number: Number, run: Run) -> Number: ...

A step takes values and returns one value; its last argument is the `Run` it belongs to, which is no part of its key.
A result is found again by any run, on any machine, that opens the same store: see `tasks.caching.keys` for what the
key holds and `tasks.caching.results` for how a result is kept. Each step says in one line why it ran or did not.
"""

from __future__ import annotations

import inspect
import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import TaskRunContext
from prefect.logging.handlers import APILogHandler

from tasks.caching.keys import canonical, differences, key_document, key_of
from tasks.caching.results import ResultFiles
from tasks.errors import KeyMissing
from tasks.settings import home
from tasks.storage import Artifacts, open_store
from tasks.values import StepRun, Value

P = ParamSpec("P")
V = TypeVar("V", bound=Value)

# Whatever the project logs inside a run shows on its page too.
LOG = logging.getLogger("retrain")
LOG.setLevel(logging.INFO)
LOG.addHandler(APILogHandler())


@dataclass
class Run:
    """One execution of the job: the store that it works in, what to compute anew, and how each step went.

    Args:
        id: Names the run's records in the store.
        url: The store, as `open_store` takes it. Raises UsageError or StoreError where it cannot be opened.
        refresh: Compute every step anew.
        local: Where to keep verified copies of a remote store's artifacts.
    """

    id: str
    url: str
    refresh: bool = False
    local: Path = field(default_factory=lambda: home() / "cache")
    steps: list[StepRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = open_store(self.url)
        self.artifacts = Artifacts(self.store, self.local)

    @property
    def seconds(self) -> dict[str, float]:
        """What each step took, where it was computed."""
        return {step.name: step.computed for step in self.steps}


def step(
    *, packages: Iterable[str] = (), apart: Iterable[str] = (), cached: bool = True, **options: Any
) -> Callable[[Callable[P, V]], Callable[P, V]]:
    """Turn a function of values into a step.

    Args:
        packages: Distributions whose version may change the result, for the key.
        apart: Arguments that cannot change the result and stay out of the key.
        cached: False for a step that must run every time.
        options: Prefect's own task options (retries, timeout_seconds, tags).
    """
    return partial(_decorate, packages=tuple(packages), apart={"run", *apart}, cached=cached, options=options)


def _decorate(
    function: Callable[P, V], *, packages: tuple[str, ...], apart: set[str], cached: bool, options: dict[str, Any]
) -> Callable[P, V]:
    name = function.__name__
    signature = inspect.signature(function)
    value_type: type[V] = get_type_hints(function)["return"]

    def compute(*args: Any, **kwargs: Any) -> dict[str, Any]:
        run, document = describe(*args, **kwargs)
        if cached:
            LOG.info("%s: runs, %s", name, _why(run, name, document))
        start = time.perf_counter()
        value = function(*args, **kwargs)
        seconds = round(time.perf_counter() - start, 3)
        if cached:
            run.store.put(_last(name), canonical(document))
        return {"value": value.model_dump(mode="json"), "seconds": seconds, "at": _now(), "worker": platform.node()}

    def describe(*args: Any, **kwargs: Any) -> tuple[Run, dict[str, Any]]:
        given = signature.bind(*args, **kwargs).arguments
        inputs = {name: value for name, value in given.items() if name not in apart}
        return given["run"], key_document(name, function.__module__, inputs, packages)

    # Prefect reads a task's parameters from its signature.
    compute = wraps(function)(compute)
    del compute.__annotations__["return"]
    policy = StepKey(describe) if cached else NO_CACHE
    task = Task(compute, name=name, cache_policy=policy, persist_result=cached, result_serializer="json", **options)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> V:
        run = cast(Run, signature.bind(*args, **kwargs).arguments["run"])
        bound = task.with_options(refresh_cache=run.refresh if cached else None)
        # A block that is saved on no server: Prefect's constructor insists on a saved one, its engine does not.
        bound.result_storage = ResultFiles.of(run.store, run.artifacts)
        start = time.perf_counter()
        state = bound(*args, return_state=True, **kwargs)
        record = state.result()
        run.steps.append(_journal(name, record, state.name == "Cached", time.perf_counter() - start))
        return value_type.model_validate(record["value"])

    return call


@dataclass
class StepKey(CachePolicy):
    """The key of one step, by `tasks.caching.keys`."""

    describe: Callable[..., tuple[Run, dict[str, Any]]] | None = None

    def __init__(self, describe: Callable[..., tuple[Run, dict[str, Any]]]) -> None:
        super().__init__()
        self.describe = describe

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any
    ) -> str:
        """See the base class."""
        assert self.describe is not None
        document = self.describe(**inputs)[1]
        return f"{document['step']}/{key_of(document)}"


def _journal(name: str, record: Mapping[str, Any], cached: bool, seconds: float) -> StepRun:
    reason = "ran"
    if cached:
        reason = f"reused, computed {_ago(record['at'])} on {record['worker']}"
        LOG.info("%s: %s", name, reason)
    return StepRun(name=name, cached=cached, reason=reason, seconds=round(seconds, 3), computed=record["seconds"])


def _last(name: str) -> str:
    return f"cache/last/{name}.json"


def _why(run: Run, name: str, document: Mapping[str, Any]) -> str:
    """Why a step has to run: against the last time that it ran in this store."""
    if run.refresh:
        return "a refresh was asked for"
    try:
        last = json.loads(run.store.get(_last(name)).data)
    except KeyMissing:
        return "for the first time in this store"
    return ", ".join(differences(last, document)) or "its cached result is gone or damaged"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ago(moment: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
