"""The content of a report: `Facts`, which the run knows, and `Document`, which is report.json.

Pure; called by everything that writes or reads a report. Imports no drawing library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from tasks.data.arrays import Labels, Probabilities, class_name
from tasks.gate.candidate import Candidate
from tasks.gate.comparison import Comparison
from tasks.report.calibration import Calibration, calibration
from tasks.report.changes import Changes
from tasks.values import Decision, Provenance, Statistics, Value

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
STEPS = ("download", "preprocess", "train", "evaluate", "load_back", "export")

# How many mistakes the report shows at most.
MISTAKES = 30


class Facts(Value):
    """What a run knows for its report, besides images and predictions; `comparison` is None without a champion."""

    candidate: Candidate
    decision: Decision
    provenance: Provenance
    comparison: Comparison | None = None


class Mistake(Value):
    """A test image that the model gets wrong: its number, its label, the guess, and the probability of the guess."""

    image: int
    truth: int
    guess: int
    probability: float


class Document(Candidate):
    """The content of report.json: the candidate, the gate's decision, and what was computed from the predictions.

    `changes` is what the candidate was made from, compared with the champion; None without one, and in earlier reports.
    `schema_version` goes up when a field changes its meaning or disappears; new fields leave it as it is.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    schema_: Literal["report.schema.json"] = Field("report.schema.json", alias="$schema")
    schema_version: Literal[1] = 1
    decision: Decision
    provenance: Provenance
    comparison: Comparison | None = None
    changes: Changes | None = None
    calibration: Calibration
    mistakes: tuple[Mistake, ...]

    def class_name(self, label: int) -> str:
        """The name of a class; its number where it has no other."""
        return class_name(self.prepared.classes, label)

    @property
    def facts(self) -> Facts:
        """The facts that it was built from."""
        candidate = Candidate(**{name: getattr(self, name) for name in Candidate.model_fields})
        known = {name: getattr(self, name) for name in ("decision", "provenance", "comparison")}
        return Facts(candidate=candidate, **known)

    @property
    def splits(self) -> list[tuple[str, Statistics]]:
        """The statistics of each split, in the order in which the job uses them."""
        return _in_order(self.prepared.statistics, SPLITS)

    @property
    def seconds(self) -> list[tuple[str, float]]:
        """The seconds of each step, in the order in which they run."""
        return _in_order(self.provenance.seconds, STEPS)

    @property
    def digests(self) -> list[tuple[str, str]]:
        """Names and SHA-256 of data, model and packages."""
        data, packages = self.prepared, sorted(self.provenance.digests.items())
        return [
            ("training images", data.train.images.sha256),
            ("training labels", data.train.labels.sha256),
            ("test images", data.test.images.sha256),
            ("test labels", data.test.labels.sha256),
            ("model file", self.trained.model.sha256),
            ("weights", self.trained.weights_digest),
            *((f"{name} {self.provenance.packages.get(name, '')}".strip(), digest) for name, digest in packages),
        ]


def _in_order(entries: Mapping[str, T], names: Sequence[str]) -> list[tuple[str, T]]:
    """The entries with these names first, then any others by name: equal facts must give the same report."""
    known = [name for name in names if name in entries]
    return [(name, entries[name]) for name in [*known, *sorted(entries.keys() - known)]]


def build_document(facts: Facts, probabilities: Probabilities, labels: Labels) -> Document:
    """Add to the facts what the predictions show: probabilities float32 (n, classes), labels uint8 (n,)."""
    return Document(
        **dict(facts.candidate),
        decision=facts.decision,
        provenance=facts.provenance,
        comparison=facts.comparison,
        calibration=calibration(probabilities, labels),
        mistakes=worst_mistakes(probabilities, labels, MISTAKES),
    )


def manifest_facts(facts: Facts) -> dict[str, Any]:
    """The facts in a version's manifest: digests of data, code and packages, metrics, the decision."""
    candidate, evaluation = facts.candidate, facts.candidate.evaluation
    data = candidate.prepared
    return {
        "weights_digest": candidate.trained.weights_digest,
        "data": {
            "train": data.train.images.sha256,
            "train_labels": data.train.labels.sha256,
            "validation": data.validation and data.validation.images.sha256,
            "test": data.test.images.sha256,
            "test_labels": data.test.labels.sha256,
            **({"shape": list(data.shape), "classes": list(data.classes)} if data.classes else {}),
            **({"batches": [batch.model_dump(exclude={"test"}) for batch in data.batches]} if data.batches else {}),
        },
        "recipe": candidate.recipe.model_dump(mode="json"),
        "device": candidate.trained.device.model_dump(mode="json"),
        "provenance": facts.provenance.model_dump(mode="json"),
        "metrics": {"accuracy": evaluation.accuracy, "loss": evaluation.loss, "images": evaluation.images},
        "plan": candidate.plan and candidate.plan.model_dump(mode="json"),
        "seeds": candidate.spread and candidate.spread.model_dump(mode="json"),
        "onnx": candidate.exported.model_dump(mode="json"),
        "decision": facts.decision.model_dump(mode="json"),
    }


def worst_mistakes(probabilities: Probabilities, labels: Labels, limit: int) -> tuple[Mistake, ...]:
    """The mistakes to which the model gives the highest probability, in descending order.

    Args:
        probabilities: float32 (n, classes).
        labels: uint8 (n,).
        limit: How many at most.
    """
    guesses = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    # A stable sort: equal probabilities keep the order of the images, so the same model gives the same report.
    ranked = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    return tuple(
        Mistake(image=int(i), truth=int(labels[i]), guess=int(guesses[i]), probability=round(float(confidence[i]), 4))
        for i in ranked
    )
