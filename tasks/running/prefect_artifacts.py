"""Prefect artifacts, which a run shows on its page in the interface: text, and what a step logs while it works.

All are Markdown: of Prefect's kinds the only one that today's interface shows whole. A key names what is shown and the
series of the run, which is its model, so that the history of a key is that of one model. Showing something never ends a
run and hardly delays one: it happens in a thread, and what fails is logged and dropped. Called by the steps, the flow
and `tasks.learning.work_pool`.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import flow_run

from tasks.running.server import wait_at_most

LOG = logging.getLogger("retrain")

# Seconds between two updates, as each costs a request, and the most lines that one sends.
INTERVAL = 1.0
LINES = 100

# Seconds for which something is offered to a server that does not answer, and for which the run waits for that.
OFFER_SECONDS = 5.0
LONGEST_WAIT = 10.0

FENCE = "```"

VERDICTS = ("published", "waiting", "declined", "unchanged", "passed", "rejected")


def show_markdown(name: str, series: str, markdown: str, description: str) -> None:
    """Create an artifact on the run's page; pictures have to be data URLs."""
    key = artifact_key(name, series)
    _offer(key, lambda: create_markdown_artifact(markdown, key=key, description=description))


def artifact_key(name: str, series: str) -> str:
    """The key of an artifact ("report-mnist"): Prefect takes lowercase letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", f"{name} {series}".lower()).strip("-")


def show_verdict(verdict: str, version: str = "") -> None:
    """Add one of VERDICTS to the run's name and tags: the lists of runs and an artifact's history show these alone."""

    def change() -> None:
        name = f"{str(flow_run.name).partition(': ')[0]}: {verdict}{version}"  # a retry has an earlier verdict
        tags = [*(tag for tag in flow_run.tags if tag not in VERDICTS), verdict]
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(flow_run.id)), name=name, tags=tags)

    _offer("verdict", change)


class LogArtifact(logging.Handler):
    """A context manager: the lines that a step logs, as an artifact on the run's page that grows with them.

    Its description is the newest line. A thread sends them, so the step never waits for the server.

    Args:
        log: The logger of the step.
        name: The step ("train"), with which its lines begin.
        series: See `show_markdown`.
        head: Markdown to stand above the lines.
    """

    def __init__(self, log: logging.Logger, name: str, series: str, head: str = "") -> None:
        super().__init__(logging.INFO)
        self._log, self._name, self._key, self._head = log, name, artifact_key(name, series), head
        self._lines: list[str] = []
        self._artifact: Any = None
        self._news, self._ended = threading.Event(), threading.Event()
        self._told = False

    def __enter__(self) -> Self:
        self._thread = _start(self._send)
        self._log.addHandler(self)
        return self

    def emit(self, record: logging.LogRecord) -> None:
        """See the base class."""
        line = record.getMessage().removeprefix(f"{self._name}: ").replace(FENCE, "'''")
        self._lines = [*self._lines, *line.splitlines()][-LINES:]
        self._news.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.removeHandler(self)
        self._ended.set()
        self._news.set()
        self._thread.join(LONGEST_WAIT)

    def _send(self) -> None:
        last = False
        while not last:
            self._news.wait()
            self._news.clear()
            last = self._ended.is_set()
            try:
                with wait_at_most(0):
                    self._send_lines(self._lines)
            except Exception as error:
                if not self._told:
                    _warn("%s: cannot show the progress: %s", self._key, error)
                self._told = True
            self._ended.wait(0 if last else INTERVAL)

    def _send_lines(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "\n".join([self._head, "", f"{FENCE}text", *lines, FENCE]).strip()
        if self._artifact is None:
            self._artifact = create_markdown_artifact(text, key=self._key, description=lines[-1])
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._artifact, ArtifactUpdate(data=text, description=lines[-1]))


def logged_lines(client: SyncPrefectClient, run: UUID, name: str) -> list[str]:
    """The lines that a step of another run shows by its newest `LogArtifact`."""
    of_step = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[run]), key=ArtifactFilterKey(like_=artifact_key(name, "") + "%")
    )
    newest = client.read_artifacts(artifact_filter=of_step, sort=ArtifactSort.CREATED_DESC, limit=1)
    text = str(newest[0].data) if newest else ""
    return text.partition(f"{FENCE}text\n")[2].rpartition(f"\n{FENCE}")[0].splitlines()


def link_to(run: UUID, text: str) -> str:
    """A link to the page of another run. Relative, as the run's own address of the server need not be the reader's."""
    return f"[{text}](../../runs/flow-run/{run})"  # pages with an artifact on them are two levels deep


def _offer(what: str, request: Callable[[], object]) -> None:
    def offer() -> None:
        try:
            with wait_at_most(OFFER_SECONDS):
                request()
        except Exception as error:
            _warn("%s: cannot show it on the run's page: %s", what, error)

    _start(offer).join(LONGEST_WAIT)


def _warn(message: str, *values: object) -> None:
    if threading.main_thread().is_alive():  # else the process ends, which is why it failed; nothing can be logged then
        LOG.warning(message, *values)


def _start(target: Callable[[], None]) -> threading.Thread:
    """Start a thread that belongs to the same run, and does not keep the process alive."""
    thread = threading.Thread(target=copy_context().run, args=(target,), daemon=True)
    thread.start()
    return thread
