"""The cache: what a step's result depends on (`keys`), where it is kept (`results`), and the `@step` that uses both."""

from __future__ import annotations

from tasks.caching.steps import Run, step

__all__ = ["Run", "step"]
