"""The baselines: the published versions that a candidate is compared with, champion and pinned reference.

A version is compared by what its model predicts on the current test set, and by nothing that is stored beside it:
whoever can write a store can write other predictions, accuracies and digests there. A version that cannot be read or
evaluated does not let a candidate pass: its row of the gate fails and names the problem. Called by `tasks.judge`;
imports no TensorFlow.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from tasks.caching.steps import Run
from tasks.data.arrays import answers, answers_to_npz, from_npz
from tasks.errors import LoadBackError, ModelFileError, RegistryError, StoreError
from tasks.gate.candidate import Candidate
from tasks.gate.comparison import Comparison, compare
from tasks.learning import model_file
from tasks.learning.plan import TrainingPlan
from tasks.registry import Registry
from tasks.registry.answers import SeedAnswers
from tasks.registry.documents import Manifest, Pin, Pointer
from tasks.registry.registry import MODEL_FILE
from tasks.settings import Recipe
from tasks.storage import open_store
from tasks.storage.probe import Capabilities
from tasks.values import KERAS, NPZ, Artifact, Decision, Evaluation, Examples, Prepared, Receipt, Value

LOG = logging.getLogger("retrain.judge")

# What to do about a baseline that cannot be read.
WAY_OUT = "See tasks/gate/README.md on `retrain rollback`, `retrain unpin` and `--force-publish`"

# `tasks.evaluate.evaluate_published`, which is above this room.
EvaluatePublished = Callable[[Artifact, Callable[[], bytes], Examples, int, Run], Evaluation]


class Plans(NamedTuple):
    """How a version was trained: the first of its seeds, and the one whose model is published."""

    first: TrainingPlan
    own: TrainingPlan


class Baseline(Value):
    """A published version to compare a candidate with, named as in the row ("champion v3").

    `predictions` are those on the current test set, in the form of `Evaluation.predictions`. None if there are none;
    `problem` then says why. `by_seed` has what its recipe's seeds answer (`tasks.data.arrays.answers_from_npz`); None
    if only the published model's answers are known. `identity` is that of the version's content, `facts` are those in
    its manifest; both empty if that cannot be read.
    """

    name: str
    version: int
    identity: str = ""
    facts: dict[str, Any] = Field(default_factory=dict)
    predictions: Artifact | None = None
    by_seed: Artifact | None = None
    problem: str = ""

    @property
    def plan(self) -> Plans | None:
        """Its trainings; None where the manifest does not say, as that of an earlier version."""
        try:
            first = TrainingPlan.model_validate(self.facts.get("plan"))
            return Plans(first, first.model_copy(update={"recipe": Recipe.model_validate(self.facts.get("recipe"))}))
        except ValidationError:
            return None


class RegistryWithChampion(Registry):
    """A registry in which a candidate has something to be compared with, or there is an error."""

    def checked_champion(self) -> Pointer:
        """The champion. Raises RegistryError if there is none, or if it is damaged or an older copy."""
        champion = super().checked_champion()
        if champion is None:
            raise RegistryError(
                f"cannot compare with the champion of {self.model}",
                f"there is none in {self.store.url}",
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
        opened = registry(run.store, model, capabilities, model_file.check)
        if require_champion:
            opened.checked_champion()
        return opened
    store = open_store(baseline)
    champion = RegistryWithChampion(store, model).checked_champion()
    unwritten = Capabilities(create="refused", swap="refused", decides=champion.decides)
    return RegistryWithChampion(store, model, unwritten, model_file.check)


class Baselines(Value):
    """What the candidate is compared with, and the state of the registry at that moment.

    `publish_id` identifies the champion: a publish requires it to be unchanged. `same_weights` is the version that
    already has the candidate's weights, `remark` names it. `published_decision` and `published_comparison` are those
    with which it was published, None if that was on another test set. `repeats` is the number of seeds of the version
    whose first training is the candidate's too, 0 if there is none: the same job again takes as many.
    """

    champion: Baseline | None = None
    reference: Baseline | None = None
    publish_id: str | None = None
    same_weights: Receipt | None = None
    remark: str = ""
    published_decision: Decision | None = None
    published_comparison: Comparison | None = None
    repeats: int = 0


def read_baselines(
    candidate: Candidate, registry: Registry, evaluate_published: EvaluatePublished, run: Run
) -> Baselines:
    """Read champion and reference from the registry.

    Args:
        candidate: The model to compare with them; its test set decides whether their predictions can be used.
        registry: The published versions of the candidate's model name.
        evaluate_published: Evaluates a published model on a test set.
        run: The run, with its store.

    Raises:
        RegistryError: The pointer to the champion is damaged or an older copy, so nobody knows which version is it.
    """
    lookup = _Lookup(candidate, registry, evaluate_published, run)
    pointer = registry.checked_champion()
    if pointer is None:
        return Baselines(reference=lookup.reference())
    champion = lookup.baseline("champion", pointer)
    baselines = Baselines(champion=champion, reference=lookup.reference(), publish_id=pointer.publish_id)
    same = lookup.same_weights(pointer)
    if same is None:
        return baselines.model_copy(update={"repeats": lookup.repeats(pointer)})
    remark = f"version {same.version} has these weights already"
    if same.version != pointer.version:
        remark += f", and version {pointer.version} was put back in its place"
    receipt = registry.receipt(same.version, pointer, new=False)
    update: dict[str, object] = {"same_weights": receipt, "remark": remark}
    if _test_set(same) == candidate.prepared.test_set and (published := _decision(same)):
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
    return compare(champion.version, labels, champion_probabilities, probabilities)


def read_version(
    role: str,
    version: Pointer | Pin | int,
    prepared: Prepared,
    registry: Registry,
    evaluate_published: EvaluatePublished,
    run: Run,
) -> Baseline:
    """A version with what it answers to a test set, computed by its model; or with the reason why it cannot be.

    Args:
        role: What it is called: champion, reference.
        version: Its number, or what points to it.
        prepared: The data, with the test set and the classes.
        registry: The published versions.
        evaluate_published: Evaluates a published model on a test set.
        run: The run, with its store.
    """
    number = version if isinstance(version, int) else version.version
    baseline = Baseline(name=f"{role} v{number}", version=number)
    try:
        manifest = registry.manifest(version)
        baseline = baseline.model_copy(update={"identity": manifest.identity, "facts": manifest.facts})
        predictions = _predictions(baseline.name, manifest, prepared, registry, evaluate_published, run)
    except (RegistryError, ModelFileError, LoadBackError) as error:
        return baseline.model_copy(update={"problem": _problem(error)})
    (own,), labels = answers([run.artifacts.get(predictions)])
    kept = SeedAnswers(run.store, *prepared.test_set).read(manifest.identity, own, labels)
    if kept is None and registry.store.url != run.store.url:  # another store's version: its own runs have kept them
        with suppress(StoreError):  # from there a run may read the models alone
            kept = SeedAnswers(registry.store, *prepared.test_set).read(manifest.identity, own, labels)
    by_seed = None if kept is None else run.artifacts.put(answers_to_npz(kept, labels), NPZ)
    return baseline.model_copy(update={"predictions": predictions, "by_seed": by_seed})


def _predictions(
    name: str,
    manifest: Manifest,
    prepared: Prepared,
    registry: Registry,
    evaluate_published: EvaluatePublished,
    run: Run,
) -> Artifact:
    """A version's predictions on the test set, computed by its model."""
    file = registry.file(manifest, MODEL_FILE)
    model = Artifact(sha256=file.sha256, size=file.size, media_type=KERAS)

    def read() -> bytes:
        LOG.info("judge: the model of %s is evaluated: this store has no result of it on the test set", name)
        return registry.read_file(manifest.version, file)

    classes = len(prepared.statistics["test"].per_class)
    evaluation = evaluate_published(model, read, prepared.test, classes, run)
    published = manifest.accuracy
    if _test_set(manifest) == prepared.test_set and evaluation.accuracy != published:
        LOG.warning(
            "judge: the model of %s reaches an accuracy of %.4f, and its manifest says %s",
            name,
            evaluation.accuracy,
            published,
        )
    return evaluation.predictions


class _Lookup(NamedTuple):
    """The arguments of `read_baselines`."""

    candidate: Candidate
    registry: Registry
    evaluate_published: EvaluatePublished
    run: Run

    def reference(self) -> Baseline | None:
        """The pinned version; None without a pin."""
        try:
            pin = self.registry.pinned()
        except RegistryError as error:
            return Baseline(name="reference", version=0, problem=_problem(error))
        return self.baseline("reference", pin) if pin else None

    def baseline(self, role: str, pointer: Pointer | Pin) -> Baseline:
        """A version with its predictions, or with the reason why there are none."""
        return read_version(role, pointer, self.candidate.prepared, self.registry, self.evaluate_published, self.run)

    def repeats(self, pointer: Pointer) -> int:
        """How many seeds the champion, or a later version, took whose first training is the candidate's."""
        versions: list[Pointer | int] = [pointer, *self._later(pointer)]
        for version in versions:
            try:
                manifest = self.registry.manifest(version)
            except RegistryError:  # `same_weights` has said so
                continue
            scores = manifest.fact("seeds", "scores")
            if not isinstance(scores, list) or not scores or not isinstance(scores[0], dict):
                continue
            if scores[0].get("weights") == self.candidate.first_weights:
                return len(scores)
        return 0

    def _later(self, pointer: Pointer) -> list[int]:
        return sorted(version for version in self.registry.promoted() if version > pointer.version)

    def same_weights(self, pointer: Pointer) -> Manifest | None:
        """A version with the candidate's weights: the champion, if it is intact, or a later one, rolled back from.

        Publishing the latter again would undo the rollback.
        """
        if self._has_weights(pointer) and not self.registry.verify(pointer):
            return self.registry.manifest(pointer)
        matching = (version for version in self._later(pointer) if self._has_weights(version))
        return next((self.registry.manifest(version) for version in matching), None)

    def _has_weights(self, version: Pointer | int) -> bool:
        """Whether a version says that it has the candidate's weights, and its model file does not contradict that."""
        trained = self.candidate.trained
        try:
            if self.registry.manifest(version).fact("weights_digest") != trained.weights_digest:
                return False
        except RegistryError as error:
            LOG.warning("judge: cannot tell whether a version has the candidate's weights: %s", error)
            return False
        try:
            published = self.registry.read(version, MODEL_FILE)
            return model_file.same_weights(published, self.run.artifacts.get(trained.model))
        except (RegistryError, ModelFileError):
            # Of a champion, `verify` finds that too; of a later one, a rollback must not be undone.
            return True


def _problem(error: RegistryError | ModelFileError | LoadBackError) -> str:
    return f"{error.what}: {error.why.rstrip('.')}. {WAY_OUT}"


def _published_comparison(version: int, registry: Registry) -> Comparison | None:
    try:
        report = json.loads(registry.read(version, "report.json"))
        return Comparison.model_validate(report.get("comparison"))
    except (RegistryError, ValueError, AttributeError, RecursionError):  # from the second: no object with a comparison
        return None


def _test_set(manifest: Manifest) -> tuple[object, object]:
    return manifest.fact("data", "test"), manifest.fact("data", "test_labels")


def _decision(manifest: Manifest) -> Decision | None:
    try:
        return Decision.model_validate(manifest.fact("decision"))
    except ValidationError:
        return None
