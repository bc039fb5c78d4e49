"""What a run shows on its page in the Prefect interface: progress, tables, the report.

Called by the steps; the artifacts' keys stay the same from run to run, so each has a history page. Imports Prefect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

LOG = logging.getLogger("retrain")

# Seconds between two updates: each costs a request.
INTERVAL = 1.0


class Progress:
    """A progress bar on the run's page and a line in its log, while a step works.

    Args:
        key: The artifact's key ("train").
        description: What is counted.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._artifact: Any = create_progress_artifact(progress=0.0, key=self._key, description=self._description)
        return self

    def show(self, fraction: float, line: str = "") -> None:
        """Tell how far the step is, as a fraction of 1: in the log each time, on the page at most once a second."""
        LOG.info("%s: %3.0f %% %s", self._key, 100 * fraction, line)
        if time.monotonic() - self._shown < INTERVAL:
            return
        self._shown = time.monotonic()
        update_progress_artifact(artifact_id=self._artifact, progress=round(100 * fraction, 1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            update_progress_artifact(artifact_id=self._artifact, progress=100.0)


def show_table(key: str, rows: Sequence[dict[str, str]], description: str) -> None:
    """A table on the run's page."""
    create_table_artifact(list(rows), key=key, description=description)


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Text on the run's page; pictures as data addresses."""
    create_markdown_artifact(markdown, key=key, description=description)
