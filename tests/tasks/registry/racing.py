"""Racing publishes that name the champion they were judged against, as runs do, while readers read everything."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from tasks.errors import ChampionMoved
from tasks.registry import Registry
from tasks.registry.fetch import fetch_version
from tasks.storage import open_store
from tasks.storage.probe import Capabilities

WRITERS, READERS = 4, 2


def race(url: str, capabilities: Capabilities, publishes: int, folder: Path) -> None:
    """Race rounds of four writers in an empty store: each round has one winner, and no reader ever fails.

    No reader may see a champion that is not in the history at the end: it would have been withdrawn.
    """
    first = Registry(open_store(url), "mnist", capabilities)
    first.publish({"model.keras": b"first"}, {}, "first")
    done, seen = Event(), set()

    def read(reader: int) -> None:
        registry, count = Registry(open_store(url), "mnist"), 0
        while not done.is_set():
            champion = registry.champion()
            assert champion
            seen.add(champion.entry)
            assert registry.checked_champion()
            fetch_version(registry, champion, folder / f"{reader}-{(count := count + 1)}")
            seen.update(entry.entry for entry in registry.history())
            assert registry.verify_champion() == []

    def publish(number: int, after: str) -> int | None:
        registry = Registry(open_store(url), "mnist", capabilities)
        try:
            return registry.publish({"model.keras": b"%d" % number}, {}, "next", after=after).version
        except ChampionMoved:
            return None

    winners = [1]
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        reading = [readers.submit(read, reader) for reader in range(READERS)]
        try:
            for start in range(0, publishes, WRITERS):
                champion = first.champion()
                assert champion
                after = [champion.publish_id] * WRITERS
                winners += [
                    version for version in writers.map(publish, range(start, start + WRITERS), after) if version
                ]
        finally:
            done.set()
    for each in reading:
        each.result()
    assert len(winners) == 1 + publishes / WRITERS
    assert [entry.version for entry in first.history()] == winners == first.versions()
    assert seen <= {entry.entry for entry in first.history()}
    assert list(open_store(url).list("models/mnist/history/claims/")) == []
