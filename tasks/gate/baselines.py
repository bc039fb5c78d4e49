"""The baselines: the published versions that a candidate is compared with, champion and pinned reference.

A version keeps its predictions, so a comparison costs one read. If they are damaged or belong to another test set, the
version's model is evaluated again on the current one. A version that cannot be read does not let a candidate pass: its
row of the gate fails and names the problem. Called by `tasks.judge`; imports no TensorFlow.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from tasks.caching.steps import Run
from tasks.data.arrays import from_npz
from tasks.errors import ModelFileError, RegistryError, TrainingError
from tasks.gate.candidate import Candidate
from tasks.gate.comparison import Comparison, compare
from tasks.registry import Registry
from tasks.registry.documents import Manifest, Pin, Pointer
from tasks.storage import open_store
from tasks.storage.probe import Capabilities
from tasks.values import Artifact, Decision, Evaluation, Examples, Receipt, Value

LOG = logging.getLogger("retrain.judge")

# What to do about a baseline that cannot be read.
WAY_OUT = "See tasks/gate/README.md on `retrain rollback`, `retrain unpin` and `--force-publish`"

# The step that evaluates a published model on a test set.
Reevaluate = Callable[[Artifact, Examples, Run], Evaluation]


class Baseline(Value):
    """A published version to compare a candidate with, named as in the row ("champion v3").

    `predictions` are those on the current test set, in the form of `Evaluation.predictions`. None if there are none;
    `problem` then says why.
    """

    name: str
    predictions: Artifact | None = None
    problem: str = ""


class RegistryWithChampion(Registry):
    """A registry in which a candidate has something to be compared with, or there is an error."""

    def checked_champion(self) -> Pointer:
        """The champion. Raises RegistryError if there is none, or if it is damaged or an older copy."""
        champion = super().checked_champion()
        if champion is None:
            raise RegistryError(
                f"cannot compare with the champion of {self.model}",
                f"there is none in {self._store.url}",
                "Publish one there first, or check the store's address.",
            )
        return champion


def open_baselines(model: str, baseline: str, require_champion: bool, capabilities: Capabilities, run: Run) -> Registry:
    """The registry of the versions that a candidate is compared with.

    Args:
        model: The model's name.
        baseline: Another store, which is read and neither probed nor written; "" for the run's own.
        require_champion: Whether there has to be a champion. In another store there always has.
        capabilities: What the run's own store can do.
        run: The run, with its store.

    Raises:
        RegistryError: There is no champion and there has to be one, or it is damaged.
        StoreError: The store cannot be read.
        UsageError: The address of the other store cannot be used.
    """
    if not baseline:
        registry = RegistryWithChampion if require_champion else Registry
        opened = registry(run.store, model, capabilities)
        if require_champion:
            opened.checked_champion()
        return opened
    store = open_store(baseline)
    champion = RegistryWithChampion(store, model).checked_champion()
    unwritten = Capabilities(create="refused", swap="refused", decides=champion.decides)
    return RegistryWithChampion(store, model, unwritten)


class Baselines(Value):
    """What the candidate is compared with, and the state of the registry at that moment.

    `publish_id` identifies the champion: a publish requires it to be unchanged. `same_weights` is the version that
    already has the candidate's weights, `remark` names it. `published_decision` and `published_comparison` are those
    with which it was published, None if that was on another test set.
    """

    champion: Baseline | None = None
    reference: Baseline | None = None
    publish_id: str | None = None
    same_weights: Receipt | None = None
    remark: str = ""
    published_decision: Decision | None = None
    published_comparison: Comparison | None = None


def read_baselines(candidate: Candidate, registry: Registry, reevaluate: Reevaluate, run: Run) -> Baselines:
    """Read champion and reference from the registry.

    Args:
        candidate: The model to compare with them; its test set decides whether their predictions can be used.
        registry: The published versions of the candidate's model name.
        reevaluate: The step that evaluates a published model on a test set.
        run: The run, with its store.

    Raises:
        RegistryError: The pointer to the champion is damaged or an older copy, so nobody knows which version is it.
    """
    lookup = _Lookup(candidate, registry, reevaluate, run)
    pointer = registry.checked_champion()
    if pointer is None:
        return Baselines(reference=lookup.reference())
    champion = lookup.baseline(f"champion v{pointer.version}", pointer)
    baselines = Baselines(champion=champion, reference=lookup.reference(), publish_id=pointer.publish_id)
    same = _same_weights(candidate.trained.weights_digest, pointer, registry)
    if same is None:
        return baselines
    remark = f"version {same.version} has these weights already"
    if same.version != pointer.version:
        remark += f", and version {pointer.version} was put back in its place"
    receipt = registry.receipt(same.version, pointer, new=False)
    update: dict[str, object] = {"same_weights": receipt, "remark": remark}
    if _test_set(same) == lookup.test_set and (published := _decision(same)):
        comparison = _published_comparison(same.version, registry)
        update |= {"published_decision": published, "published_comparison": comparison}
    return baselines.model_copy(update=update)


def compare_with_champion(candidate: Candidate, baselines: Baselines, run: Run) -> Comparison | None:
    """The images won and lost against the champion; None before the first champion, or if it cannot be read.

    For weights that are published already: the comparison in the report that they were published with.
    """
    if baselines.same_weights:
        return baselines.published_comparison
    champion = baselines.champion
    if champion is None or champion.predictions is None:
        return None
    champion_probabilities, labels = from_npz(run.artifacts.get(champion.predictions))
    probabilities, candidate_labels = from_npz(run.artifacts.get(candidate.evaluation.predictions))
    if not np.array_equal(labels, candidate_labels):
        return None
    return compare(int(champion.name.rpartition("v")[2]), labels, champion_probabilities, probabilities)


class _Lookup(NamedTuple):
    """The arguments of `read_baselines`."""

    candidate: Candidate
    registry: Registry
    reevaluate: Reevaluate
    run: Run

    @property
    def test_set(self) -> tuple[object, object]:
        """The candidate's test set: the SHA-256 of its images and of its labels."""
        test = self.candidate.prepared.test
        return test.images.sha256, test.labels.sha256

    def reference(self) -> Baseline | None:
        """The pinned version; None without a pin."""
        try:
            pin = self.registry.pinned()
        except RegistryError as error:
            return _unusable("reference", error)
        return self.baseline(f"reference v{pin.version}", pin) if pin else None

    def baseline(self, name: str, pointer: Pointer | Pin) -> Baseline:
        """A version with its predictions, or with the reason why there are none."""
        try:
            return Baseline(name=name, predictions=self._predictions(name, self.registry.manifest(pointer)))
        except (RegistryError, ModelFileError, TrainingError) as error:
            return _unusable(name, error)

    def _predictions(self, name: str, manifest: Manifest) -> Artifact:
        """A version's predictions on the candidate's test set: as published, or computed by its model."""
        if _test_set(manifest) == self.test_set:
            try:
                data = self.registry.read(manifest.version, "predictions.npz")
                _require_predictions(data, self.registry.address(manifest.version, "predictions.npz"))
                return self.run.artifacts.put(data, "application/x-npz")
            except RegistryError as error:
                LOG.warning("judge: the model of %s is evaluated again: %s", name, error)
        else:
            LOG.info("judge: the model of %s is evaluated again: it was evaluated on another test set", name)
        model = self.run.artifacts.put(self.registry.read(manifest.version, "model.keras"), "application/vnd.keras")
        return self.reevaluate(model, self.candidate.prepared.test, self.run).predictions


def _unusable(name: str, error: RegistryError | ModelFileError | TrainingError) -> Baseline:
    return Baseline(name=name, problem=f"{error.what}: {error.why.rstrip('.')}. {WAY_OUT}")


def _published_comparison(version: int, registry: Registry) -> Comparison | None:
    try:
        report = json.loads(registry.read(version, "report.json"))
        return Comparison.model_validate(report.get("comparison"))
    except (RegistryError, ValueError, AttributeError):  # the last two: no JSON object, or one without a comparison
        return None


def _test_set(manifest: Manifest) -> tuple[object, object]:
    return manifest.fact("data", "test"), manifest.fact("data", "test_labels")


def _require_predictions(data: bytes, address: str) -> None:
    """Refuse a file that is intact but holds no predictions: no candidate could lose to it. Raises RegistryError."""
    try:
        probabilities, labels = from_npz(data)
        usable = probabilities.ndim == 2 and len(probabilities) == len(labels) and np.isfinite(probabilities).all()
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise RegistryError(f"cannot use {address}", str(error), "Its model is evaluated again.") from error
    if not usable:
        raise RegistryError(f"cannot use {address}", "it holds no probabilities", "Its model is evaluated again.")


def _same_weights(weights_digest: str, pointer: Pointer, registry: Registry) -> Manifest | None:
    """A version with these weights: the champion, if it is intact, or a later version that was rolled back from.

    Publishing the latter again would undo the rollback.
    """
    if _has_weights(weights_digest, pointer, registry) and not registry.verify(pointer):
        return registry.manifest(pointer)
    later = sorted(version for version in registry.promoted() if version > pointer.version)
    matching = (version for version in later if _has_weights(weights_digest, version, registry))
    return next((registry.manifest(version) for version in matching), None)


def _has_weights(weights_digest: str, version: Pointer | int, registry: Registry) -> bool:
    try:
        return registry.manifest(version).fact("weights_digest") == weights_digest
    except RegistryError as error:
        LOG.warning("judge: cannot tell whether a version has the candidate's weights: %s", error)
        return False


def _decision(manifest: Manifest) -> Decision | None:
    try:
        return Decision.model_validate(manifest.fact("decision"))
    except ValidationError:
        return None
