"""`retrain doctor`: what a store can do, found out by doing it. No Prefect, no TensorFlow."""

from __future__ import annotations

import argparse

from flows.cli.command import Command
from tasks.storage import open_store
from tasks.storage.probe import Capabilities, check, race

# What `doctor` says of the ways in which a champion is decided.
DECIDES = {
    "pointer": "the pointer decides who is the champion; it is moved by compare-and-swap, and the history records it",
    "history": "the newest entry of the history decides who is the champion; the pointer is repaired to it",
}


def doctor(options: argparse.Namespace) -> int:
    """`retrain doctor`."""
    url = options.settings.store
    store = open_store(url)
    print(f"{store.url}\n")
    capabilities = check(store)
    for text in ("write and read back", "list what was just written", "delete", "tell what is missing from forbidden"):
        print(f"  {text:<38} yes")
    print(f"  {'create if absent (If-None-Match)':<38} {capabilities.create}")
    print(f"  {'compare and swap (If-Match)':<38} {capabilities.swap}")
    atomic = options.race is None or _raced(url, options.race, capabilities)
    print(f"\nTherefore {DECIDES[capabilities.decides]}.")
    if not atomic and capabilities.decides == "pointer":
        print("But its conditional writes are not atomic: set RETRAIN_HISTORY_DECIDES=1 wherever the job runs.")
        return 1
    return 0


def _raced(url: str, writers: int, capabilities: Capabilities) -> bool:
    creators, swappers = race([open_store(url) for _ in range(writers)], capabilities)
    for text, winners in (("create", creators), ("swap", swappers)):
        print(f"  {f'{writers} writers race to {text}':<38} {winners} won")
    return creators <= 1 and swappers <= 1


COMMANDS = [
    Command(
        doctor,
        "try what the store can do, and tell what a publish will therefore rely on",
        {"--race": {"type": int, "metavar": "N", "help": "let N writers race, to expose writes that are not atomic"}},
        fields=("store",),
    ),
]
