"""`@step`: a Prefect task whose result is cached in the run's own store.

    @step(packages=["numpy"])
    def double(number: Number, run: Run) -> Number: ...

A step takes values and returns one value; its last argument is the `Run` it belongs to, which is no part of its key.
A result is found again by any run, on any machine, that opens the same store: see `tasks.caching.keys` for what the
key holds and `tasks.caching.results` for how a result is kept. Each step says in one line why it ran or did not.
Should an artifact be lost between two steps, the step that made it runs again, and then the one that needs it.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast, get_type_hints

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.utilities.annotations import quote

from tasks.caching.inventory import CHECKPOINTS, is_cached, value_of
from tasks.caching.keys import canonical, differences, key_document, key_of
from tasks.caching.results import ResultFiles
from tasks.errors import ArtifactError, KeyMissing
from tasks.settings import home
from tasks.storage import Artifacts, open_store
from tasks.storage.artifacts import named
from tasks.values import StepRun, Value

P = ParamSpec("P")
V = TypeVar("V", bound=Value)

# How many of the changes that make a step run are named.
MOST_CHANGES = 5

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
        refresh: The steps to compute anew.
        steps: How each step went, in their order.
        makers: For each artifact of this run, by its SHA-256, the call of the step that made it.
        computed: What each cached step took, where it was computed, by its key.
        submitted: Runs that were started elsewhere before the step's turn comes: their ids, by the step's own input.
        resumes: Whether a step that is computed anew goes on from what is kept of its progress: in a run that does
            one step for another run, which has removed what was older.
    """

    id: str
    url: str
    refresh: Collection[str] = ()
    steps: list[StepRun] = field(default_factory=list)
    makers: dict[str, Callable[[], object]] = field(default_factory=dict)
    computed: dict[str, float] = field(default_factory=dict)
    submitted: dict[Any, Any] = field(default_factory=dict)
    resumes: bool = False

    def __post_init__(self) -> None:
        self.store = open_store(self.url)
        self.artifacts = Artifacts(self.store, home() / "cache")

    @property
    def seconds(self) -> dict[str, float]:
        """What each cached step took, all its calls together, where they were computed: the same wherever reused."""
        found: dict[str, list[float]] = {}
        for key, seconds in self.computed.items():
            found.setdefault(key.partition("/")[0], []).append(seconds)
        return {name: round(math.fsum(seconds), 3) for name, seconds in found.items()}


def step(
    *,
    packages: Iterable[str] = (),
    not_in_key: Iterable[str] = (),
    cached: bool = True,
    checkpoints: bool = False,
    run_elsewhere: Callable[..., bool] | None = None,
    **options: Any,
) -> Callable[[Callable[P, V]], Step[P, V]]:
    """Turn a function of values into a step.

    Args:
        packages: Distributions whose version may change the result, for the key.
        not_in_key: Arguments that cannot change the result and stay out of the key.
        cached: False for a step that must run every time.
        checkpoints: True for a step that keeps its progress under its key; it is removed once the result is kept.
        run_elsewhere: Called before the function, with its arguments; says whether another run did the step and kept
            its result.
        options: Prefect's own task options (retries, timeout_seconds, tags).
    """
    return partial(
        Step,
        packages=tuple(packages),
        not_in_key={"run", *not_in_key},
        cached=cached,
        checkpoints=checkpoints,
        run_elsewhere=run_elsewhere,
        options=options,
    )


class Step(Generic[P, V]):
    """What `step` makes of a function: call it as before, inside a flow."""

    def __init__(
        self,
        function: Callable[P, V],
        packages: tuple[str, ...],
        not_in_key: set[str],
        cached: bool,
        checkpoints: bool,
        run_elsewhere: Callable[..., bool] | None,
        options: dict[str, Any],
    ) -> None:
        self.name, self.cached, self._checkpoints = function.__name__, cached, checkpoints
        self._function, self._packages, self._not_in_key, self._run_elsewhere = (
            function,
            packages,
            not_in_key,
            run_elsewhere,
        )
        self._signature = inspect.signature(function)
        self._value: type[V] = get_type_hints(function)["return"]

        @wraps(function)  # Prefect reads a task's parameters from its signature
        def compute(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
            return self._compute(*args, **kwargs)

        policy = StepKey(self.key) if cached else NO_CACHE
        self._task: Task[P, dict[str, Any]] = Task(
            compute,
            name=self.name,
            task_run_name=self.name,
            cache_policy=policy,
            persist_result=cached,
            result_serializer="json",
            **options,
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> V:
        """The step's value, computed or reused; raises what the function raises."""
        makers, mended = self._run(*args, **kwargs).makers, set()
        while True:
            try:
                return self._value.model_validate(self._call(*args, **kwargs)["value"])
            except ArtifactError as error:
                # The cache may be cleared, or expire, while a run is at work.
                if error.sha256 not in makers or error.sha256 in mended:
                    raise
                LOG.warning("%s: what it needs was lost meanwhile and is made again: %s", self.name, error)
                mended.add(error.sha256)
                makers[error.sha256]()

    def _call(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        run = self._run(*args, **kwargs)
        refresh = self.cached and self.name in run.refresh
        if self._checkpoints and refresh and not run.resumes:
            self._forget(run, self.key(*args, **kwargs))
        task = self._task.with_options(refresh_cache=refresh)
        # A block that is saved on no server: Prefect's constructor insists on a saved one, its engine does not.
        task.result_storage = ResultFiles.of(run.store, run.artifacts)
        start = time.perf_counter()
        # Unseen by Prefect, which would draw an arrow from every step before to every step after.
        given = self._signature.bind(*args, **kwargs).arguments | {"run": quote(run)}
        state: State[dict[str, Any]] = cast(Any, task)(return_state=True, **given)
        made: Any = state.result()
        reused = state.name == "Cached"
        run.steps.append(self._journal(made, reused, time.perf_counter() - start))
        if self.cached:
            run.computed[self.key(*args, **kwargs)] = made["seconds"]
        run.makers |= {artifact.sha256: partial(self, *args, **kwargs) for artifact in named(made["value"])}
        if self._checkpoints and not reused and is_cached(run.store, key := self.key(*args, **kwargs)):
            self._forget(run, key)
        return cast(dict[str, Any], made)

    @staticmethod
    def _forget(run: Run, key: str) -> None:
        for entry in run.store.list(f"{CHECKPOINTS}{key}/"):
            run.store.delete(entry.key)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of this call: the step's name and a SHA-256."""
        return f"{self.name}/{key_of(self.document(*args, **kwargs))}"

    def document(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the key of this call is the digest of."""
        given = self._signature.bind(*args, **kwargs).arguments
        inputs = {name: value for name, value in given.items() if name not in self._not_in_key}
        return key_document(self.name, self._function.__module__, inputs, self._packages)

    def _compute(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Call the function, and note when, where and how long."""
        run, document = self._run(*args, **kwargs), self.document(*args, **kwargs)
        why = _why(run, self.name, document) if self.cached else "always runs"
        if self.cached:
            LOG.info("%s: runs, %s", self.name, why)
        if self._run_elsewhere and self._run_elsewhere(*args, **kwargs):
            content = ResultFiles.of(run.store, run.artifacts).read_path(self.key(*args, **kwargs))
            return cast(dict[str, Any], value_of(content)) | {"why": why}
        start = time.perf_counter()
        value = self._function(*args, **kwargs)
        seconds = round(time.perf_counter() - start, 3)
        if self.cached:
            run.store.put(_last(self.name), canonical(document))
        made = {"value": value.model_dump(mode="json"), "seconds": seconds}
        return made | {"at": _now(), "worker": platform.node(), "why": why}

    def _run(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        return cast(Run, self._signature.bind(*args, **kwargs).arguments["run"])

    def _journal(self, made: Mapping[str, Any], reused: bool, seconds: float) -> StepRun:
        reason = f"reused, computed {_ago(made['at'])} on {made['worker']}" if reused else made["why"]
        if reused:
            LOG.info("%s: %s", self.name, reason)
        computed = made["seconds"] if self.cached else None
        return StepRun(name=self.name, cached=reused, reason=reason, seconds=round(seconds, 3), computed=computed)


@dataclass(init=False)
class StepKey(CachePolicy):
    """The key of one step, by `tasks.caching.keys`."""

    def __init__(self, key: Callable[..., str]) -> None:
        super().__init__()
        self._key = key

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any
    ) -> str:
        """See the base class."""
        return self._key(**inputs)


def _last(name: str) -> str:
    return f"cache/last/{name}.json"


def _why(run: Run, name: str, document: Mapping[str, Any]) -> str:
    """Why a step has to run: against the last time that it ran in this store."""
    if name in run.refresh:
        return "a refresh was asked for"
    try:
        last = json.loads(run.store.get(_last(name)).data)
    except KeyMissing:
        return "for the first time in this store"
    return _in_short(differences(last, document)) or "its cached result is gone or damaged"


def _in_short(changes: list[str]) -> str:
    """The first of them: a report depends on all that a run has found."""
    more = len(changes) - MOST_CHANGES
    return ", ".join(changes[:MOST_CHANGES]) + (f", and {more} more" if more > 0 else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ago(moment: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
