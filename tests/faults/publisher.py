"""A process that publishes, so that it can be killed: `python -m tests.faults.publisher STORE FIRST COUNT`.

Prints `ready` and waits for a line. Then publishes COUNT contents, numbered from FIRST, and prints the number and the
version of each after its publish returned.
On a local store, TEST_DIE_AFTER makes it kill itself after so many writes; a server's proxy kills from outside.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from tasks.registry import Registry
from tasks.storage import open_store
from tasks.storage.local import LocalStore
from tasks.storage.probe import check


def contents(number: int) -> dict[str, bytes]:
    """The files that are published for a number."""
    return {"model.keras": b"model %d" % number * 500, "report.html": b"<p>%d</p>" % number}


def main(url: str, first: int, count: int) -> None:
    """Publish, and print a line after each publish."""
    store = open_store(url)
    capabilities = check(store)
    print("ready", flush=True)
    sys.stdin.readline()
    if deaths := os.environ.get("TEST_DIE_AFTER"):
        _die_after(int(deaths))
    registry = Registry(store, "mnist", capabilities)
    for number in range(first, first + count):
        receipt = registry.publish(contents(number), {"number": number}, f"content {number}")
        print(number, receipt.version, flush=True)


def _die_after(writes: int) -> None:
    """SIGKILL this process right after its local store has made so many writes."""
    left = iter(range(writes - 1, -1, -1))

    def deadly(write: Callable[..., None]) -> Callable[..., None]:
        @wraps(write)
        def wrapped(*args: Any) -> None:
            write(*args)
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in ("put", "put_once", "compare_and_swap", "delete"):
        setattr(LocalStore, name, deadly(getattr(LocalStore, name)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
