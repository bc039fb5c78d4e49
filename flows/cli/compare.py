"""`retrain compare`: what differs between two models, each a published version or what a run has judged.

Called by `main`; must import neither Prefect nor TensorFlow.
"""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.cli.command import MARKDOWN, Command
from flows.cli.layout import plain, show_markdown
from tasks.address import escaped
from tasks.data.arrays import Bytes, Labels, Probabilities, from_npy, from_npz
from tasks.errors import ArtifactError, ObjectTooLarge, RegistryError, UsageError
from tasks.gate.comparison import Comparison
from tasks.registry import Registry
from tasks.registry.documents import Pointer
from tasks.report.batches import BatchesDocument
from tasks.report.facts import Document, manifest_facts
from tasks.settings import MODEL_NAME, home
from tasks.storage import Artifacts, ObjectStore, open_store
from tasks.storage.objects import LARGEST_DOCUMENT

# A run's id, or its beginning; where a run is named by the address of its report, its store too.
RUN = re.compile(r"(?:(?P<store>.+)/)?runs/(?P<run>[\w-]{1,64})(?:/[\w.]*)?|(?P<id>[\w-]{1,64})", re.ASCII)


class Side(NamedTuple):
    """One of two models: its name, the facts in its manifest, and what reads its predictions and the test images.

    Predictions are None for a version that was published without. Either may raise ArtifactError for what is gone.
    """

    name: str
    facts: Mapping[str, Any]
    predictions: Callable[[], tuple[Probabilities, Labels] | None]
    images: Callable[[], Bytes]


class Judged(NamedTuple):
    """What a run has judged: the run's name, its report, and the store that has its artifacts."""

    name: str
    document: Document
    store: ObjectStore


def compare(options: argparse.Namespace) -> int:
    """`retrain compare A [B]`."""
    from tasks.report import version_comparison

    store = open_store(options.settings.store)
    named = [
        int(text) if _is_version(text) else _judged(text, store)
        for text in (options.old, options.new)
        if text is not None
    ]
    runs = [each for each in named if isinstance(each, Judged)]
    registry = Registry(store, _model(runs) or options.settings.model_name)
    try:
        sides = [_run(each) if isinstance(each, Judged) else _version(registry, store, each) for each in named]
        old, new = sides if len(sides) == 2 else (_champion(registry, store), *sides)
    except RegistryError:
        if not runs and (nothing := registry.nothing()):  # a mistyped model; a run's own is right
            raise nothing from None
        raise
    comparison, why_not = _comparison(old, new)
    pair = version_comparison.Pair(registry.model, old.name, new.name, old.facts, new.facts, comparison, why_not)
    if options.html:
        _write_page(options.html, version_comparison.html(pair, _test_images(new)))
    markdown = version_comparison.markdown(pair)
    if options.markdown:
        print(plain(markdown), end="")
    else:
        show_markdown(markdown)
    return 0


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _model(runs: list[Judged]) -> str:
    """The name of the model that the runs are of; "" if none is compared."""
    models = sorted({run.document.model_name for run in runs})
    if len(models) > 1:
        why = f"one is of {' and one of '.join(models)}"
        raise UsageError("cannot compare these runs", why, "Name two of one model.")
    return models[0] if models else ""


def _champion(registry: Registry, store: ObjectStore) -> Side:
    if pointer := registry.checked_champion():
        return _version(registry, store, pointer)._replace(name=f"champion v{pointer.version}")
    raise RegistryError(
        f"cannot compare with the champion of {registry.model}",
        f"there is none in {store.url}",
        "Name two versions or runs, or the store that has one.",
    )


def _version(registry: Registry, store: ObjectStore, which: int | Pointer) -> Side:
    manifest = registry.manifest(which)

    def predictions() -> tuple[Probabilities, Labels] | None:
        if "predictions.npz" not in {file.path for file in manifest.files}:
            return None
        address = registry.address(manifest.version, "predictions.npz")
        return _from_npz(registry.read(which, "predictions.npz"), address)

    def images() -> Bytes:  # they are in the cache and not in the version
        address = registry.address(manifest.version, "report.json")
        return _images(_document(registry.read(which, "report.json"), address), store)

    return Side(f"version {manifest.version}", manifest.facts, predictions, images)


def _run(run: Judged) -> Side:
    document, artifacts = run.document, Artifacts(run.store, home() / "cache")
    return Side(
        run.name,
        manifest_facts(document.facts),
        lambda: _from_npz(artifacts.get(document.evaluation.predictions), f"the predictions of {run.name}"),
        lambda: _images(document, run.store),
    )


def _judged(text: str, store: ObjectStore) -> Judged:
    """A run that is named by its id, the beginning of that, or the path or URL of its report.

    A report elsewhere, as in a folder of `--report-dir`, is read as it is; its artifacts are those of `store`.

    Raises:
        RegistryError: There is no such run, there are several, or it has no report that can be read.
    """
    match = RUN.fullmatch(text)
    if not (match and match["store"]) and (data := _local_file(text)) is not None:
        return Judged(escaped(text), _document(data, escaped(text)), store)
    if match is None:
        raise _unknown(text, store, "it is no version's number, no run's id and no report's address")
    if match["store"]:
        store = open_store(match["store"])
    run = _whole_id((match["run"] or match["id"]).lower(), text, store)
    key = f"runs/{run}/report.json"
    try:
        data = store.get(key, LARGEST_DOCUMENT).data
    except ObjectTooLarge as error:
        raise _unusable(store.address(key), error.why) from error
    return Judged(f"run {run[:8]}", _document(data, store.address(key)), store)


def _local_file(text: str) -> bytes | None:
    """The content of the file of this name; None if there is none."""
    try:
        return Path(text).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise _unusable(escaped(text), error.strerror or str(error)) from error


def _whole_id(start: str, text: str, store: ObjectStore) -> str:
    """The id of the one run with a report whose id starts like this."""
    keys = [entry.key for entry in store.list(f"runs/{start}")]
    ids = sorted({key.split("/")[1] for key in keys if key.count("/") == 2})
    runs = [run for run in ids if f"runs/{run}/report.json" in keys]
    if start in runs or len(runs) == 1:
        return start if start in runs else runs[0]
    if runs:
        raise _unknown(text, store, f"{len(runs)} runs start with {start}: {', '.join(runs[:3])}")
    if ids:
        raise _unknown(text, store, f"run {ids[0]} has no report.json, so it ended before its report was written")
    raise _unknown(text, store, f"no run in {store.url} has this id, or one that starts like it")


def _unknown(text: str, store: ObjectStore, why: str) -> RegistryError:
    return RegistryError(
        f"cannot compare {escaped(text)!r}",
        why,
        f"Give a version's number (`retrain versions`), or a run's id or the address of its report.json ({store.url}).",
    )


def _document(data: bytes, address: str) -> Document:
    try:
        document = Document.model_validate_json(data)
    except ValueError as error:
        if (refused := _refused(data)) is not None:
            raise _unusable(address, f"that run trained no model, as a check refused {escaped(refused)}") from None
        why = escaped(" ".join(str(error).splitlines()[1:3]))
        raise _unusable(address, f"it is no report of this version of retrain: {why}") from error
    if not re.fullmatch(MODEL_NAME, document.model_name):
        raise _unusable(address, f"it is of {escaped(document.model_name)!r}, which is no model's name")
    return document


def _refused(data: bytes) -> str | None:
    """The batches whose checks ended a run before its training; None if the report is of something else."""
    try:
        document = BatchesDocument.model_validate_json(data)
    except ValueError:
        return None
    return "; ".join(f"batch {each.batch}: {', '.join(each.failed)}" for each in document.refused)


def _from_npz(data: bytes, address: str) -> tuple[Probabilities, Labels]:
    try:
        return from_npz(data)
    except ValueError as error:
        raise _unusable(address, f"it holds no predictions: {error}") from error


def _unusable(address: str, why: str) -> RegistryError:
    return RegistryError(f"cannot read {address}", why, "Name another version or run.")


def _images(document: Document, store: ObjectStore) -> Bytes:
    artifact, shape = document.prepared.test.images, document.prepared.shape
    try:
        images = from_npy(Artifacts(store, home() / "cache").get(artifact))
        if images.dtype != np.uint8:
            raise ValueError(f"they are {images.dtype}")
        return images.reshape(-1, *shape)
    except ValueError as error:
        raise _unusable(f"the test images {artifact.sha256[:12]}…", str(error)) from error


def _comparison(old: Side, new: Side) -> tuple[Comparison | None, str]:
    """The comparison of the two on each test image, or None and why there is none."""
    from tasks.gate.comparison import compare as compare_images

    try:
        predictions = [old.predictions(), new.predictions()]
    except ArtifactError as error:  # a run's are in the cache, which may be cleared
        return None, f"The predictions of one are gone ({error.why}), so no image can be compared."
    (before, after), tests = predictions, [side.facts.get("data") for side in (old, new)]
    same_test = len({each.get("test") if isinstance(each, Mapping) else None for each in tests}) == 1
    if before is None or after is None or not same_test or before[1].tobytes() != after[1].tobytes():
        return None, ""
    return compare_images(0, before[1], before[0], after[0]), ""


def _test_images(side: Side) -> Bytes | None:
    """The test images, uint8 (n, height, width) or (n, height, width, 3); None if they are gone."""
    try:
        return side.images()
    except (ArtifactError, RegistryError) as error:
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
        "show what differs between two models, also image by image: versions, or what runs have judged",
        {
            "old": {"metavar": "A", "help": "a version's number, or a run: its id, or its report's path or address"},
            "new": {"metavar": "B", "nargs": "?", "help": "another one. Without it, the champion is compared with A"},
            "--html": {"type": Path, "metavar": "FILE", "help": "also write an HTML page with pictures"},
            "--markdown": MARKDOWN,
        },
    ),
]
