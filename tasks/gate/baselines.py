"""The baselines: the published versions that a candidate is compared with, by their predictions on today's test set.

They are the champion and the pinned reference. A version keeps its predictions, so a comparison costs one read. Where
they are of another test set, or damaged, its model is evaluated again on today's. A version that cannot be read does
not let a candidate pass: the problem becomes a row of the gate that fails. Called by `tasks.judge`.
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
from tasks.values import Artifact, Decision, Evaluation, Examples, Receipt, Value

LOG = logging.getLogger("retrain.judge")

# What to do about a version that cannot be compared with.
WAY_OUT = "See the README on `retrain rollback`, `retrain unpin` and `--force-publish`"

# The step that evaluates a published model on a test set.
Reevaluate = Callable[[Artifact, Examples, Run], Evaluation]


class Baseline(Value):
    """A published version to compare a candidate with.

    `predictions` are those on today's test set, as `evaluate` keeps them; None where there are none, and `problem` says
    why.
    """

    name: str
    predictions: Artifact | None = None
    problem: str = ""


class Baselines(Value):
    """What the candidate is compared with, and the state of the registry at that moment.

    `publish_id` is the champion's: a publish requires it to be unchanged. `same` is the version that has the
    candidate's weights already, `remark` names it, and `published` is the decision that it was published with.
    """

    champion: Baseline | None = None
    reference: Baseline | None = None
    publish_id: str | None = None
    same: Receipt | None = None
    remark: str = ""
    published: Decision | None = None


def read_baselines(candidate: Candidate, registry: Registry, reevaluate: Reevaluate, run: Run) -> Baselines:
    """Look up champion and reference as they are now.

    Raises RegistryError where the pointer to the champion is damaged: then there is no champion to compare with.
    """
    lookup = _Lookup(candidate, registry, reevaluate, run)
    pointer = registry.champion()
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
    published = _decision(same) if _test_set(same) == lookup.test_set else None
    return baselines.model_copy(update={"same": receipt, "remark": remark, "published": published})


def compare_with_champion(candidate: Candidate, baselines: Baselines, run: Run) -> Comparison | None:
    """What the candidate wins and loses against the champion; None before the first, or where it cannot be read.

    Of weights that are published already it is the comparison that they were published with.
    """
    if baselines.same:
        return _published_comparison(baselines.same, run) if baselines.published else None
    champion = baselines.champion
    if champion is None or champion.predictions is None:
        return None
    theirs, labels = from_npz(run.artifacts.get(champion.predictions))
    ours, same_labels = from_npz(run.artifacts.get(candidate.evaluation.predictions))
    if not np.array_equal(labels, same_labels):
        return None
    return compare(int(champion.name.rpartition("v")[2]), labels, theirs, ours)


class _Lookup(NamedTuple):
    """The arguments of `read_baselines`."""

    candidate: Candidate
    registry: Registry
    reevaluate: Reevaluate
    run: Run

    @property
    def test_set(self) -> tuple[object, object]:
        """Today's test set: the SHA-256 of its images and of its labels."""
        test = self.candidate.prepared.test
        return test.images.sha256, test.labels.sha256

    def reference(self) -> Baseline | None:
        """The pinned version, if there is one."""
        try:
            pin = self.registry.pinned()
        except RegistryError as error:
            return _problem("reference", error)
        return self.baseline(f"reference v{pin.version}", pin) if pin else None

    def baseline(self, name: str, which: Pointer | Pin) -> Baseline:
        """A version with its predictions, or with the reason why there are none."""
        try:
            return Baseline(name=name, predictions=self._predictions(name, self.registry.manifest(which)))
        except (RegistryError, ModelFileError, TrainingError) as error:
            return _problem(name, error)

    def _predictions(self, name: str, manifest: Manifest) -> Artifact:
        """A version's predictions on today's test set: the published ones, or its model's."""
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


def _problem(name: str, error: RegistryError | ModelFileError | TrainingError) -> Baseline:
    return Baseline(name=name, problem=f"{error.what}: {error.why.rstrip('.')}. {WAY_OUT}")


def _published_comparison(same: Receipt, run: Run) -> Comparison | None:
    try:
        report = json.loads(Registry(run.store, same.model).read(same.version, "report.json"))
        return Comparison.model_validate(report.get("comparison"))
    except (RegistryError, ValueError, AttributeError):  # the last two: a report of another form, or without one
        return None


def _test_set(manifest: Manifest) -> tuple[object, object]:
    data = manifest.facts.get("data", {})
    return data.get("test"), data.get("test_labels")


def _require_predictions(data: bytes, address: str) -> None:
    """Raise RegistryError for a file that is whole but holds no predictions: no candidate could lose to them."""
    try:
        probabilities, labels = from_npz(data)
        sound = probabilities.ndim == 2 and len(probabilities) == len(labels) and np.isfinite(probabilities).all()
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise RegistryError(f"cannot use {address}", str(error), "Its model is evaluated again.") from error
    if not sound:
        raise RegistryError(f"cannot use {address}", "it holds no probabilities", "Its model is evaluated again.")


def _same_weights(weights_digest: str, pointer: Pointer, registry: Registry) -> Manifest | None:
    """A version with these weights: the champion, if it is whole, or a later one that was rolled back from.

    To publish the latter again would undo the rollback.
    """
    if _has_weights(weights_digest, pointer, registry) and not registry.verify(pointer):
        return registry.manifest(pointer)
    later = sorted(version for version in registry.promoted() if version > pointer.version)
    matching = (version for version in later if _has_weights(weights_digest, version, registry))
    return next((registry.manifest(version) for version in matching), None)


def _has_weights(weights_digest: str, which: Pointer | int, registry: Registry) -> bool:
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
