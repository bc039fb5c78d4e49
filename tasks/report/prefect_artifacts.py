"""Prefect artifacts, which a run shows on its page in the interface: progress bars, tables, the report.

Called by the steps and the flow. A key stays the same from run to run, so the interface has a history of each. Showing
something never ends a run and hardly delays one: it happens in a thread, and what fails is logged and dropped. The only
module of this folder that imports Prefect, except for the step itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Self

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.running.server import wait_at_most

LOG = logging.getLogger("retrain")

# Seconds between two updates, as each costs a request.
INTERVAL = 1.0

# Seconds for which a table is offered to a server that does not answer, and for which the run waits for that.
OFFER_SECONDS = 5.0
LONGEST_WAIT = 10.0


class Progress:
    """A context manager: a progress bar on the run's page and lines in its log, while a step works.

    A thread sends the newest value, so the step never waits for the server.

    Args:
        key: The artifact's key, the name of the step ("train").
        description: What is counted.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._percent = 0.0
        self._artifact: Any = None
        self._news, self._ended = threading.Event(), threading.Event()
        self._told = False

    def __enter__(self) -> Self:
        self._thread = _start(self._send)
        self._news.set()
        return self

    def show(self, fraction: float, line: str = "") -> None:
        """Log the progress, a fraction in [0, 1], and update the bar, at most once a second."""
        LOG.info("%s: %3.0f %% %s", self._key, 100 * fraction, line)
        self._percent = round(100 * fraction, 1)
        self._news.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._percent = 100.0
        self._ended.set()
        self._news.set()
        self._thread.join(LONGEST_WAIT)

    def _send(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            last = self._ended.is_set()
            try:
                with wait_at_most(0):
                    self._send_percent()
            except Exception as error:
                if not self._told:
                    LOG.warning("%s: cannot show the progress: %s", self._key, error)
                self._told = True
            if last:
                return
            self._ended.wait(INTERVAL)

    def _send_percent(self) -> None:
        if self._artifact is None:
            self._artifact = create_progress_artifact(self._percent, key=self._key, description=self._description)
        else:
            update_progress_artifact(artifact_id=self._artifact, progress=self._percent)


def show_table(key: str, rows: Sequence[dict[str, str]], description: str) -> None:
    """Create a table artifact on the run's page."""
    _show(key, partial(create_table_artifact, list(rows), key=key, description=description))


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Create a Markdown artifact on the run's page; pictures have to be data URLs."""
    _show(key, partial(create_markdown_artifact, markdown, key=key, description=description))


def _show(key: str, create: Callable[[], object]) -> None:
    def offer() -> None:
        try:
            with wait_at_most(OFFER_SECONDS):
                create()
        except Exception as error:
            LOG.warning("%s: cannot show it on the run's page: %s", key, error)

    _start(offer).join(LONGEST_WAIT)


def _start(target: Callable[[], None]) -> threading.Thread:
    """Start a thread that belongs to the same run, and does not keep the process alive."""
    thread = threading.Thread(target=copy_context().run, args=(target,), daemon=True)
    thread.start()
    return thread
