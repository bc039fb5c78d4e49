"""Whom the candidate has to face: the champion and the pinned version, each by its predictions on today's test set.

A version keeps its predictions, so a comparison costs one read. Where they are of another test set, or damaged, its
model is loaded (safely, see `tasks.model_file`) and evaluated on today's. What cannot be read at all is no reason to
pass: the gate gets the problem, in words, and turns it into a row that fails. Called by the flow.
"""

from __future__ import annotations

import logging
import zipfile

import numpy as np
from pydantic import ValidationError

from tasks.arrays import from_npz
from tasks.caching.steps import Run
from tasks.errors import ModelFileError, RegistryError, TrainingError
from tasks.evaluate import reevaluate
from tasks.report.comparison import Comparison, compare
from tasks.report.facts import Document, Facts
from tasks.storage import Registry
from tasks.storage.documents import Manifest, Pin, Pointer
from tasks.storage.probe import Capabilities
from tasks.values import Artifact, Decision, Evaluation, Prepared, Receipt, Rival, Rivals, Trained

LOG = logging.getLogger("retrain.judge")

# What to do about a version that cannot be compared with.
WAY_OUT = "See the README on `retrain rollback`, `retrain unpin` and `--force-publish`"


def meet(prepared: Prepared, trained: Trained, capabilities: Capabilities, run: Run) -> Rivals:
    """Look up champion and reference as they are now.

    Raises RegistryError where the pointer to the champion is damaged: nobody knows then what to compare with.
    """
    registry = Registry(run.store, prepared.dataset, capabilities)
    pointer = registry.champion()
    if pointer is None:
        return Rivals(reference=_reference(registry, prepared, run))
    found = Rivals(
        champion=_rival(f"champion v{pointer.version}", pointer, registry, prepared, run),
        reference=_reference(registry, prepared, run),
        publish_id=pointer.publish_id,
    )
    same = _same(trained.weights_digest, pointer, registry)
    if same is None:
        return found
    remark = f"version {same.version} has these weights already"
    if same.version != pointer.version:
        remark += f", and version {pointer.version} was put back in its place"
    receipt = registry.receipt(same.version, pointer, new=False)
    published = _decision(same) if _test_set(same) == _test_set_now(prepared) else None
    return found.model_copy(update={"same": receipt, "remark": remark, "published": published})


def as_published(facts: Facts, rivals: Rivals) -> Facts:
    """The facts of the report: where nothing changes it is the report that the model was published with."""
    if facts.decision.verdict != "no change" or rivals.published is None:
        return facts
    return facts.model_copy(update={"decision": rivals.published})


def compared(evaluation: Evaluation, rivals: Rivals, run: Run) -> Comparison | None:
    """What the candidate wins and loses against the champion; None before the first, or where it cannot be read.

    Of weights that are published already it is what they were published with.
    """
    if rivals.same:
        return _published_comparison(rivals.same, run) if rivals.published else None
    champion = rivals.champion
    if champion is None or champion.predictions is None:
        return None
    theirs, labels = from_npz(run.artifacts.get(champion.predictions))
    ours, same = from_npz(run.artifacts.get(evaluation.predictions))
    if not np.array_equal(labels, same):
        return None
    return compare(int(champion.name.rpartition("v")[2]), labels, theirs, ours)


def _published_comparison(same: Receipt, run: Run) -> Comparison | None:
    registry = Registry(run.store, same.model)
    try:
        return Document.model_validate_json(registry.read(same.version, "report.json")).comparison
    except (RegistryError, ValidationError):
        return None


def _reference(registry: Registry, prepared: Prepared, run: Run) -> Rival | None:
    try:
        pin = registry.pinned()
    except RegistryError as error:
        return _problem("reference", error)
    return _rival(f"reference v{pin.version}", pin, registry, prepared, run) if pin else None


def _rival(name: str, which: Pointer | Pin, registry: Registry, prepared: Prepared, run: Run) -> Rival:
    try:
        return Rival(name=name, predictions=_predictions(name, registry.manifest(which), registry, prepared, run))
    except (RegistryError, ModelFileError, TrainingError) as error:
        return _problem(name, error)


def _problem(name: str, error: RegistryError | ModelFileError | TrainingError) -> Rival:
    return Rival(name=name, problem=f"{error.what}: {error.why.rstrip('.')}. {WAY_OUT}")


def _predictions(name: str, manifest: Manifest, registry: Registry, prepared: Prepared, run: Run) -> Artifact:
    """A version's predictions on today's test set: those it keeps, or its model's."""
    if _test_set(manifest) == _test_set_now(prepared):
        try:
            kept = registry.read(manifest.version, "predictions.npz")
            _require_predictions(kept, registry.address(manifest.version, "predictions.npz"))
            return run.artifacts.put(kept, "application/x-npz")
        except RegistryError as error:
            LOG.warning("judge: the model of %s is evaluated again: %s", name, error)
    else:
        LOG.info("judge: the model of %s is evaluated again: it was on another test set", name)
    model = run.artifacts.put(registry.read(manifest.version, "model.keras"), "application/vnd.keras")
    return reevaluate(model, prepared.test, run).predictions


def _test_set(manifest: Manifest) -> tuple[object, object]:
    data = manifest.facts.get("data", {})
    return data.get("test"), data.get("test_labels")


def _test_set_now(prepared: Prepared) -> tuple[object, object]:
    return prepared.test.images.sha256, prepared.test.labels.sha256


def _require_predictions(data: bytes, address: str) -> None:
    """Raise RegistryError for what was published whole but holds no predictions: nobody could lose to them."""
    try:
        probabilities, labels = from_npz(data)
        sound = probabilities.ndim == 2 and len(probabilities) == len(labels) and np.isfinite(probabilities).all()
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise RegistryError(f"cannot use {address}", str(error), "Its model is evaluated again.") from error
    if not sound:
        raise RegistryError(f"cannot use {address}", "it holds no probabilities", "Its model is evaluated again.")


def _same(weights_digest: str, pointer: Pointer, registry: Registry) -> Manifest | None:
    """A version with these weights: the champion, if it is whole, or a later one that was rolled back from.

    To publish the latter again would undo the rollback.
    """
    if _has(weights_digest, pointer, registry) and not registry.verify(pointer):
        return registry.manifest(pointer)
    later = sorted(version for version in registry.crowned() if version > pointer.version)
    return next((registry.manifest(version) for version in later if _has(weights_digest, version, registry)), None)


def _has(weights_digest: str, which: Pointer | int, registry: Registry) -> bool:
    try:
        return registry.manifest(which).facts.get("weights_digest") == weights_digest
    except RegistryError as error:
        LOG.warning("judge: %s", error)
        return False


def _decision(manifest: Manifest) -> Decision | None:
    try:
        return Decision.model_validate(manifest.facts.get("decision"))
    except ValidationError:
        return None
