"""The registry: immutable versions of a model, which of them is the champion, and the history of champions.

May import neither Prefect nor TensorFlow, so that an application can use it to load the champion.
"""

from __future__ import annotations

from tasks.registry.registry import Registry, model_names

__all__ = ["Registry", "model_names"]
