"""`retrain doctor`: try what a store can do, and print the result.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse

from flows.cli.command import Command, writers
from flows.cli.layout import say
from tasks.settings import has_batches
from tasks.storage import open_store
from tasks.storage.local import LocalStore
from tasks.storage.probe import Capabilities, check, folders_of_run, race

# What is printed for each value of `Capabilities.decides`.
DECIDES = {
    "pointer": "the pointer decides who is the champion; it is moved by compare-and-swap, and the history records it",
    "history": "the newest entry of the history decides who is the champion; the pointer is repaired to it",
}

# What the two conditional writes are called, and what each relies on.
S3 = ("create if absent (If-None-Match)", "compare and swap (If-Match)")
LOCAL = ("create if absent (a hard link)", "compare and swap (a lock)")


def doctor(options: argparse.Namespace) -> int:
    """`retrain doctor`."""
    url = options.settings.store
    store = open_store(url)
    print(f"{store.url}\n")
    settings = options.settings
    capabilities = check(store, folders_of_run(settings.model_name, False, has_batches(settings.source)))
    for text in ("write and read back", "list what was just written", "delete", "tell what is missing from forbidden"):
        print(f"  {text:<38} yes")
    create, swap = LOCAL if isinstance(store, LocalStore) else S3
    print(f"  {create:<38} {capabilities.create}")
    print(f"  {swap:<38} {capabilities.swap}")
    atomic = options.race is None or _writes_are_atomic(url, options.race, capabilities)
    print()
    say(f"Therefore {DECIDES[capabilities.decides]}.")
    if not atomic and capabilities.decides == "pointer":
        say("But its conditional writes are not atomic: set RETRAIN_HISTORY_DECIDES=1 wherever the job runs.")
        return 1
    return 0


def _writes_are_atomic(url: str, number: int, capabilities: Capabilities) -> bool:
    """Let writers race for one object; true if at most one of them won."""
    creators, swappers = race([open_store(url) for _ in range(number)], capabilities)
    for text, winners in (("create", creators), ("swap", swappers)):
        print(f"  {f'{number} writers race to {text}':<38} {winners} won")
    return creators <= 1 and swappers <= 1


COMMANDS = [
    Command(
        doctor,
        "try what the store can do, and show what a publish will therefore rely on",
        {
            "--race": {
                "type": writers,
                "metavar": "N",
                "help": "let N writers (1 to 256) race, to expose writes that are not atomic",
            }
        },
    ),
]
