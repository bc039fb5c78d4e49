"""`retrain compare A B`: what differs between two published versions. No Prefect, no TensorFlow."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flows.cli.command import Command
from tasks.data.arrays import Bytes, from_npy, from_npz
from tasks.errors import ArtifactError, RegistryError, UsageError
from tasks.gate.comparison import Comparison
from tasks.registry import Registry
from tasks.settings import home
from tasks.storage import Artifacts, ObjectStore, open_store
from tasks.values import Artifact


def compare(options: argparse.Namespace) -> int:
    """`retrain compare A B`."""
    from tasks.report import version_comparison

    store = open_store(options.settings.store)
    registry = Registry(store, options.settings.dataset)
    old, new = options.old, options.new
    before, after = (registry.manifest(version).facts for version in (old, new))
    pair = version_comparison.Pair(registry.model, old, new, before, after, _compared(registry, old, new))
    if options.html:
        _write(options.html, version_comparison.page(pair, _images(registry, store, new)))
    print(version_comparison.markdown(pair), end="")
    return 0


def _compared(registry: Registry, old: int, new: int) -> Comparison | None:
    """How the two differ on the test images; None where those are not the same."""
    from tasks.gate.comparison import compare as compare_images

    (theirs, labels), (ours, same) = (from_npz(registry.read(each, "predictions.npz")) for each in (old, new))
    tests = [registry.manifest(each).facts.get("data", {}).get("test") for each in (old, new)]
    if tests[0] != tests[1] or labels.tobytes() != same.tobytes():
        return None
    return compare_images(old, labels, theirs, ours)


def _images(registry: Registry, store: ObjectStore, version: int) -> Bytes | None:
    """The test images, which are no part of a version: they may have expired with the cache."""
    try:
        told = json.loads(registry.read(version, "report.json"))
        artifact = Artifact.model_validate(told["prepared"]["test"]["images"])
        return from_npy(Artifacts(store, home() / "cache").get(artifact))
    except (ArtifactError, RegistryError, KeyError) as error:
        print(f"retrain: the page names the images by number, it cannot show them: {error}", file=sys.stderr)
        return None


def _write(path: Path, page: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page)
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error), "Give another file.") from error


COMMANDS = [
    Command(
        compare,
        "tell what differs between two versions, image by image too",
        {
            "old": {"type": int, "metavar": "A", "help": "a version's number"},
            "new": {"type": int, "metavar": "B", "help": "another's"},
            "--html": {"type": Path, "metavar": "FILE", "help": "write it as a page with pictures as well"},
        },
    ),
]
