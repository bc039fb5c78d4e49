"""How many cases each parser gets, and how much time and memory each case may take.

A test here is a function with `@given`, without settings: it gets them from this file. `--every-case` is CASES of each,
without it a few.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz import CASES

FEW = 30

# For one case, on a machine that is busy with other things too.
LONGEST = timedelta(seconds=10)

# Bytes that a test may take beyond what its process has at its beginning. The files have a few kilobytes.
MEMORY = 2**30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--every-case`."""
    parser.addoption("--every-case", action="store_true", help=f"{CASES:,} cases for each parser instead of {FEW}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set the number of cases of each test in this folder."""
    every = config.getoption("--every-case", default=False)
    chosen = settings(
        max_examples=CASES if every else FEW,
        deadline=LONGEST,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and isinstance(item, pytest.Function):
            if hasattr(item.obj, "hypothesis"):
                chosen(item.obj)
            if every:
                item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Let a parser that allocates what a file says run out of memory, which is no error of the project."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)
