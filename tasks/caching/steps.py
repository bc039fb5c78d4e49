"""`@step`: a Prefect task whose result is cached in the run's own store.

    @step(packages=["numpy"])
    def double(number: Number, run: Run) -> Number: ...

A step takes values and returns one value; its last argument is the `Run` it belongs to, which is no part of its key.
Any run, on any machine, that opens the same store reuses a result: `tasks.caching.keys` has the parts of the key,
`tasks.caching.results` stores the results. Each step reports in one line why it ran or was reused. If an artifact is
lost between two steps, the step that produced it runs again, and then the one that needs it.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast, get_type_hints

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.utilities.annotations import quote

from tasks.caching.inventory import CHECKPOINTS, is_cached
from tasks.caching.keys import canonical, differences, key_document, key_of
from tasks.caching.results import ResultFiles
from tasks.errors import ArtifactError, KeyMissing, StoreError
from tasks.running.log import set_up
from tasks.running.server import wait_for_server
from tasks.settings import home
from tasks.storage import Artifacts, open_store
from tasks.storage.artifacts import artifacts_in
from tasks.storage.objects import LARGEST_DOCUMENT
from tasks.values import Artifact, StepRun, Value

P = ParamSpec("P")
V = TypeVar("V", bound=Value)

# The most changes that the reason for a step's run lists.
MAX_CHANGES = 5

LOG = logging.getLogger("retrain")

# Here, as every run of the project imports its steps before it begins.
set_up()
wait_for_server()


@dataclass
class Run:
    """One execution of the job: its store, the steps to compute again, and the record of each step.

    Args:
        id: Names the run's records in the store.
        url: The store, as `open_store` takes it. Raises UsageError or StoreError if it cannot be opened.
        refresh: The steps to compute again.
        series: Names what Prefect's interface shows of it: its model, also whether it only judges ("mnist dry run").
        only_judges: Whether it publishes nothing whatever the gate says; then the model's page does not show it.
        steps: The record of each step, in the order of execution.
        producers: By the SHA-256 of each artifact of this run, the call of the step that produced it.
        computed: By the key of each cached step, the seconds that its computation took.
        submitted: Ids of runs that were started elsewhere in advance, by the input of their step.
        resumes: Whether a refreshed step may resume from its checkpoints: true in a run that does one step for another
            run, which has deleted older checkpoints.
    """

    id: str
    url: str
    refresh: Collection[str] = ()
    series: str = ""
    only_judges: bool = False
    steps: list[StepRun] = field(default_factory=list)
    producers: dict[str, Callable[[], object]] = field(default_factory=dict)
    computed: dict[str, float] = field(default_factory=dict)
    submitted: dict[Any, Any] = field(default_factory=dict)
    resumes: bool = False

    def __post_init__(self) -> None:
        self.store = open_store(self.url)
        self.artifacts = Artifacts(self.store, home() / "cache")

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each cached step took to compute, all its calls together; the same if it was reused."""
        times: dict[str, list[float]] = {}
        for key, seconds in self.computed.items():
            times.setdefault(key.partition("/")[0], []).append(seconds)
        return {name: round(math.fsum(seconds), 3) for name, seconds in times.items()}


def step(
    *,
    packages: Iterable[str] = (),
    not_in_key: Iterable[str] = (),
    cached: bool = True,
    checkpoints: bool = False,
    fits: Callable[..., object] | None = None,
    run_elsewhere: Callable[..., bool] | None = None,
    **options: Any,
) -> Callable[[Callable[P, V]], Step[P, V]]:
    """Turn a function of values into a step.

    Args:
        packages: Distributions whose version may change the result, for the key.
        not_in_key: Arguments that cannot change the result and stay out of the key.
        cached: False for a step that must run every time.
        checkpoints: True for a step that saves checkpoints under its key; they are deleted once the result is cached.
        fits: Called with a cached value, what reads an artifact, and the arguments; raises ValueError or RetrainError
            if the function cannot return that value for them. Whoever may write the store may have made it.
        run_elsewhere: Called before the function, with its arguments; true if another run did the step and cached
            its result.
        options: Prefect's own task options (retries, timeout_seconds, tags).
    """
    return partial(
        Step,
        packages=tuple(packages),
        not_in_key={"run", *not_in_key},
        cached=cached,
        checkpoints=checkpoints,
        fits=fits,
        run_elsewhere=run_elsewhere,
        options=options,
    )


class Step(Generic[P, V]):
    """A function as a step; called like the function, inside a flow."""

    def __init__(
        self,
        function: Callable[P, V],
        packages: tuple[str, ...],
        not_in_key: set[str],
        cached: bool,
        checkpoints: bool,
        fits: Callable[..., object] | None,
        run_elsewhere: Callable[..., bool] | None,
        options: dict[str, Any],
    ) -> None:
        self.name, self.cached, self._checkpoints = function.__name__, cached, checkpoints
        self._function, self._packages, self._not_in_key = function, packages, not_in_key
        self._fits, self._run_elsewhere = fits, run_elsewhere
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
        producers, recomputed = self._run(*args, **kwargs).producers, set()
        while True:
            try:
                return self._value.model_validate(self._call(*args, **kwargs)["value"])
            except ArtifactError as error:
                # The cache may be cleared, or expire, while a run is at work.
                if error.sha256 not in producers or error.sha256 in recomputed:
                    raise
                LOG.warning("%s: an input was lost and is computed again: %s", self.name, error)
                recomputed.add(error.sha256)
                producers[error.sha256]()

    def kept(self, *args: P.args, **kwargs: P.kwargs) -> V | None:
        """The step's value if it is cached and intact, and not to be refreshed; None instead of computing it."""
        record = self._kept(*args, **kwargs)
        return self._value.model_validate(record["value"]) if record else None

    def directly(self, *args: P.args, **kwargs: P.kwargs) -> V:
        """The step's value, computed or reused as by a call, but without a task run and its record in `run.steps`.

        For what another step needs thousands of times: a task run takes 0.1 s, and a row of Prefect's interface. Its
        seconds are the other step's. The step has to be cached, and to keep no checkpoints; its retries and its timeout
        do not apply. Raises what the function raises.
        """
        record = self._kept(*args, **kwargs)
        if record is None:
            record = self._compute(*args, **kwargs)
            with suppress(StoreError):  # it is logged
                self._results(*args, **kwargs).write(self.key(*args, **kwargs), record)
        again = partial(self.directly, *args, **kwargs)
        self._run(*args, **kwargs).producers |= {artifact.sha256: again for artifact in artifacts_in(record["value"])}
        return self._value.model_validate(record["value"])

    def _kept(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any] | None:
        if self.name in self._run(*args, **kwargs).refresh:
            return None
        try:
            return self._results(*args, **kwargs).read(self.key(*args, **kwargs))
        except (ArtifactError, StoreError):
            return None

    def _call(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        run = self._run(*args, **kwargs)
        refresh = self.cached and self.name in run.refresh
        if self._checkpoints and refresh and not run.resumes:
            self._delete_checkpoints(run, self.key(*args, **kwargs))
        task = self._task.with_options(refresh_cache=refresh)
        # An unsaved block: Prefect's constructor requires a saved one, its engine does not.
        task.result_storage = self._results(*args, **kwargs)
        start = time.perf_counter()
        # Quoted, as Prefect would otherwise draw an edge from every earlier step to every later one.
        arguments = self._signature.bind(*args, **kwargs).arguments | {"run": quote(run)}
        state: State[dict[str, Any]] = cast(Any, task)(return_state=True, **arguments)
        record: Any = state.result()
        reused = state.name == "Cached"
        run.steps.append(self._step_run(record, reused, time.perf_counter() - start))
        if self.cached:
            run.computed[self.key(*args, **kwargs)] = record["seconds"]
        run.producers |= {artifact.sha256: partial(self, *args, **kwargs) for artifact in artifacts_in(record["value"])}
        if self._checkpoints and not reused and is_cached(run.store, key := self.key(*args, **kwargs)):
            self._delete_checkpoints(run, key)
        return cast(dict[str, Any], record)

    def _results(self, *args: P.args, **kwargs: P.kwargs) -> ResultFiles:
        def fits(value: V, read: Callable[[Artifact], bytes]) -> None:
            if self._fits:
                self._fits(value, read, *args, **kwargs)

        run = self._run(*args, **kwargs)
        return ResultFiles.of(run.store, run.artifacts, self._value, fits)

    @staticmethod
    def _delete_checkpoints(run: Run, key: str) -> None:
        for entry in run.store.list(f"{CHECKPOINTS}{key}/"):
            run.store.delete(entry.key)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of this call: the step's name and a SHA-256."""
        return f"{self.name}/{key_of(self.document(*args, **kwargs))}"

    def document(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The document whose digest is the key of this call."""
        arguments = self._signature.bind(*args, **kwargs).arguments
        inputs = {name: value for name, value in arguments.items() if name not in self._not_in_key}
        return key_document(self.name, self._function.__module__, inputs, self._packages)

    def _compute(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Call the function, and record when, where and for how long."""
        run, document = self._run(*args, **kwargs), self.document(*args, **kwargs)
        why = _why(run, self.name, document) if self.cached else "always runs"
        if self.cached:
            LOG.info("%s: runs, %s", self.name, why)
        if self._run_elsewhere and self._run_elsewhere(*args, **kwargs):
            return self._results(*args, **kwargs).read(self.key(*args, **kwargs)) | {"why": why}
        start = time.perf_counter()
        value = self._function(*args, **kwargs)
        seconds = round(time.perf_counter() - start, 3)
        if self.cached:
            _remember(run, self.name, document)
        record = {"value": value.model_dump(mode="json"), "seconds": seconds}
        return record | {"at": _now(), "worker": platform.node(), "why": why}

    def _run(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        return cast(Run, self._signature.bind(*args, **kwargs).arguments["run"])

    def _step_run(self, record: Mapping[str, Any], reused: bool, seconds: float) -> StepRun:
        reason = f"reused, computed {_ago(record['at'])} on {record['worker']}" if reused else record["why"]
        if reused:
            LOG.info("%s: %s", self.name, reason)
        computed = record["seconds"] if self.cached else None
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


def _last_document(name: str) -> str:
    return f"cache/last/{name}.json"


def _remember(run: Run, name: str, document: Mapping[str, Any]) -> None:
    """Keep what a step ran with, for the reason of its next run; without it only that reason is missing."""
    try:
        run.store.put(_last_document(name), canonical(document))
    except StoreError as error:
        LOG.warning("%s: the next run of this step will not know why it runs: %s", name, error)


def _why(run: Run, name: str, document: Mapping[str, Any]) -> str:
    """Why a step has to run, compared with its last run in this store."""
    if name in run.refresh:
        return "a refresh was asked for"
    try:
        last = json.loads(run.store.get(_last_document(name), LARGEST_DOCUMENT).data)
        return _first_changes(differences(last, document)) or "its cached result is gone or damaged"
    except KeyMissing:
        return "for the first time in this store"
    except StoreError as error:  # this only explains: no reason to end a run
        return f"the reason is not known: {error.why}"
    except (ValueError, AttributeError, TypeError, RecursionError):
        return "the reason is not known: the record of its last run is damaged"


def _first_changes(changes: list[str]) -> str:
    """The first changes and how many follow: a step like the report has many inputs."""
    more = len(changes) - MAX_CHANGES
    return ", ".join(changes[:MAX_CHANGES]) + (f", and {more} more" if more > 0 else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ago(moment: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
