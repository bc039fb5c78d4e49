from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tasks.registry import Registry
from tasks.registry.batches import BatchLedger
from tasks.registry.garbage import garbage
from tasks.storage import ObjectStore
from tasks.storage.objects import LARGEST_DOCUMENT

FILES = {"model.keras": b"the model"}
FACTS = {"metrics": {"accuracy": 0.98}}
LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def registry(store: ObjectStore) -> Registry:
    registry = Registry(store, "mnist")
    registry.publish(FILES, FACTS, "first")
    return registry


def garbage_keys(store: ObjectStore, registry: Registry, before: datetime = LATER) -> list[str]:
    return [entry.key for entry in garbage(store, registry, before)]


def test_what_a_manifest_names_is_no_garbage(store: ObjectStore, registry: Registry) -> None:
    store.put("cache/objects/x", b"")
    BatchLedger(store, "mnist", "s3://data/*").leave_out(["monday"], "a run")
    store.put("models/digits/versions/1/x", b"another model's")
    assert garbage_keys(store, registry) == []


def test_stray_files_incomplete_versions_and_probes_are_garbage(store: ObjectStore, registry: Registry) -> None:
    keys = [
        "probe/left",
        "runs/probe/left",
        "batches/mnist/probe/left",
        "models/mnist/probe/left",
        "models/mnist/versions/1/stray",
        "models/mnist/versions/2/model.keras",
    ]
    keys += [f"models/mnist/versions/1/content-{64 * '0'}", f"models/mnist/versions/2/content-{64 * '0'}"]
    keys.append(f"models/mnist/history/claims/00000002-v2-{32 * '0'}.json")
    for key in keys:
        store.put(key, b"left")
    marker = keys.pop(7)
    assert sorted(garbage_keys(store, registry)) == sorted(keys)
    assert garbage_keys(store, registry, datetime.now(UTC) - timedelta(days=1)) == []
    for key in keys:
        store.delete(key)
    assert registry.verify(1) == []
    assert garbage_keys(store, registry) == []
    assert store.get(marker, LARGEST_DOCUMENT), "it keeps the number taken"
    assert registry.publish({"model.keras": b"next"}, FACTS, "next").version == 3


def test_a_version_that_is_being_written_keeps_its_old_files_too(store: ObjectStore, registry: Registry) -> None:
    store.put("models/mnist/versions/2/model.keras", b"old")
    between = next(iter(store.list("models/mnist/versions/2/"))).modified
    assert garbage_keys(store, registry, between) == []


def test_a_version_whose_manifest_is_damaged_keeps_everything(
    store: ObjectStore, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("models/mnist/versions/1/manifest.json", b"{")
    assert garbage_keys(store, registry) == []
    assert "version 1 keeps everything" in caplog.text


@pytest.mark.parametrize("name", ["\u0661", "\u0662", "01", "002", "0", "-1", "1 ", "1.0", "\u00b2"])
def test_what_only_reads_like_a_number_is_no_version(name: str, store: ObjectStore, registry: Registry) -> None:
    """Python takes any decimal digits for a number: the files of such a name would count as another version's."""
    for path in ("manifest.json", "model.keras", f"content-{64 * '0'}"):
        store.put(f"models/mnist/versions/{name}/{path}", b"planted")
    store.put(f"models/mnist/history/00000009-v{name}-{32 * '0'}.json", b"planted")
    assert registry.versions() == [1]
    assert registry.verify_champion() == []
    assert registry.publish({"model.keras": b"another"}, FACTS, "second").version == 2
    assert not [key for key in garbage_keys(store, registry) if f"versions/{name}/" in key]
