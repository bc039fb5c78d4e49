"""The fixtures of the registry's tests: each takes both stores, and both ways of deciding who is champion."""

from __future__ import annotations

from typing import cast

import pytest

from tasks.registry import Registry
from tasks.storage import ObjectStore, open_store
from tasks.storage.probe import Capabilities

POINTER = Capabilities(create="enforced", swap="enforced", decides="pointer")
HISTORY = Capabilities(create="ignored", swap="refused", decides="history")


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture(params=[POINTER, HISTORY], ids=["pointer", "history"])
def capabilities(request: pytest.FixtureRequest) -> Capabilities:
    """Every test that takes this runs under both ways of deciding."""
    return cast(Capabilities, request.param)


@pytest.fixture
def registry(store: ObjectStore, capabilities: Capabilities) -> Registry:
    return Registry(store, "mnist", capabilities)
