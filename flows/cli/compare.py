"""`retrain compare A B`: what differs between two published versions.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

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
    old_facts, new_facts = (registry.manifest(version).facts for version in (old, new))
    pair = version_comparison.Pair(registry.model, old, new, old_facts, new_facts, _comparison(registry, old, new))
    if options.html:
        _write_page(options.html, version_comparison.html(pair, _test_images(registry, store, new)))
    print(version_comparison.markdown(pair), end="")
    return 0


def _comparison(registry: Registry, old: int, new: int) -> Comparison | None:
    """The comparison of the two on each test image; None if their test images or labels differ, or one has none."""
    from tasks.gate.comparison import compare as compare_images

    manifests = [registry.manifest(version) for version in (old, new)]
    if not all("predictions.npz" in {file.path for file in manifest.files} for manifest in manifests):
        return None
    predictions = [from_npz(registry.read(version, "predictions.npz")) for version in (old, new)]
    (old_probabilities, old_labels), (new_probabilities, new_labels) = predictions
    old_test, new_test = (manifest.fact("data", "test") for manifest in manifests)
    if old_test != new_test or old_labels.tobytes() != new_labels.tobytes():
        return None
    return compare_images(old, old_labels, old_probabilities, new_probabilities)


def _test_images(registry: Registry, store: ObjectStore, version: int) -> Bytes | None:
    """The test images, uint8 (n, 784); None if they are gone: they are in the cache and not in the version."""
    try:
        report = json.loads(registry.read(version, "report.json"))
        artifact = Artifact.model_validate(report["prepared"]["test"]["images"])
        return from_npy(Artifacts(store, home() / "cache").get(artifact))
    except (ArtifactError, RegistryError, KeyError) as error:
        print(f"retrain: the page names the images by number, it cannot show them: {error}", file=sys.stderr)
        return None


def _write_page(path: Path, page: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page)
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error), "Give another file.") from error


COMMANDS = [
    Command(
        compare,
        "show what differs between two versions, also image by image",
        {
            "old": {"type": int, "metavar": "A", "help": "a version's number"},
            "new": {"type": int, "metavar": "B", "help": "another version's number"},
            "--html": {"type": Path, "metavar": "FILE", "help": "also write an HTML page with pictures"},
        },
    ),
]
