"""Prefect artifacts, which a run shows on its page in the interface: progress bars, tables, the report.

Called by the steps and the flow. A key stays the same from run to run, so the interface has a history of each. The only
module of this folder that imports Prefect, except for the step itself.
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

# Seconds between two updates, as each costs a request.
INTERVAL = 1.0


class Progress:
    """A context manager: a progress bar on the run's page and lines in its log, while a step works.

    Args:
        key: The artifact's key, the name of the step ("train").
        description: What is counted.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._artifact: Any = create_progress_artifact(progress=0.0, key=self._key, description=self._description)
        return self

    def show(self, fraction: float, line: str = "") -> None:
        """Log the progress, a fraction in [0, 1], and update the bar, at most once a second."""
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
    """Create a table artifact on the run's page."""
    create_table_artifact(list(rows), key=key, description=description)


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Create a Markdown artifact on the run's page; pictures have to be data URLs."""
    create_markdown_artifact(markdown, key=key, description=description)
