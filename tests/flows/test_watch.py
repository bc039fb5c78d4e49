"""The watch, as far as it needs no server: what tells two listings apart, and what it may import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from flows.watch import TRIES, _keys
from tasks.data.sources.batches import BatchFiles
from tests.test_structure import HEAVY

ROOT = Path(__file__).parents[2]

listings = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=3)


def keys(listing: list[tuple[str, str]], deployment: int = 1) -> list[str]:
    batches = [BatchFiles(name, None, seen) for name, seen in listing]  # type: ignore[arg-type]
    return _keys(UUID(int=deployment), batches)


@given(listings, listings)
def test_equal_listings_have_the_same_keys_and_others_none_in_common(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    assert len(set(keys(one))) == TRIES
    assert (keys(one) == keys(other)) == (one == other) == bool(set(keys(one)) & set(keys(other)))
    assert not set(keys(one, 1)) & set(keys(one, 2)), "deployments of one flow share the server's keys"


def test_it_imports_neither_the_job_nor_what_trains() -> None:
    heavy = sorted((HEAVY - {"yaml", "PIL"}) | {"flows.retrain", "tasks.learning", "tasks.report"})
    program = f"import sys, flows.watch; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
