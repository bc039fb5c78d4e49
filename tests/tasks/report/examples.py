"""Facts, images and predictions to render, as a real run has them, from a few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from tasks.data.arrays import Bytes, Labels, Probabilities, label_type
from tasks.gate.candidate import Candidate
from tasks.gate.checks import CandidateResults, decide
from tasks.gate.comparison import compare
from tasks.learning.metrics import score
from tasks.report import Rendered, figures, html, render
from tasks.report.facts import Document, Facts, build_document
from tasks.settings import Gate, Recipe
from tasks.values import (
    KERAS,
    NPY,
    NPZ,
    Artifact,
    Device,
    Epoch,
    Evaluation,
    Examples,
    LoadBack,
    Prepared,
    Provenance,
    Statistics,
    Trained,
)

CLASSES = 10
DIGITS = tuple(map(str, range(CLASSES)))
GATE = Gate(min_accuracy=0.85, min_accuracy_lower_bound=0.85, min_class_recall=0.5)


def empty(media_type: str) -> Artifact:
    return Artifact(sha256="0" * 64, size=0, media_type=media_type)


class Example(NamedTuple):
    """The arguments of `render`."""

    facts: Facts
    images: Bytes
    probabilities: Probabilities
    labels: Labels

    @property
    def document(self) -> Document:
        return build_document(self.facts, self.probabilities, self.labels)

    def with_candidate(self, **changed: object) -> Example:
        """The same with other facts on the candidate."""
        candidate = self.facts.candidate.model_copy(update=changed)
        return self._replace(facts=self.facts.model_copy(update={"candidate": candidate}))

    def render(self) -> Rendered:
        return render(*self)

    def page(self) -> str:
        """Its HTML alone, without the pictures that the other forms have."""
        return html.render(self.document, self.images).decode()


def _once(draw: Callable[[Any], dict[str, str]]) -> Callable[[Any], dict[str, str]]:
    drawn: dict[str, dict[str, str]] = {}
    return lambda numbers: drawn.get(repr(numbers)) or drawn.setdefault(repr(numbers), draw(numbers))


curves_once, calibration_once = _once(figures.curve_svgs), _once(figures.calibration_svgs)


@contextmanager
def drawn_once() -> Iterator[None]:
    """Inside, curves of numbers that were drawn before are not drawn again: for many reports of different texts."""
    with patch.multiple(html, curve_svgs=curves_once, calibration_svgs=calibration_once):
        yield


def example(wrong: int = 40, images: int = 400, epochs: int = 3, validation: bool = False) -> Example:
    """A model that gets `wrong` of the test images wrong, with growing confidence from image to image."""
    labels = np.arange(images, dtype=np.uint8) % CLASSES
    guesses = labels.copy()
    guesses[:wrong] = (labels[:wrong] + 1) % CLASSES
    return predicted(guesses, labels, epochs, validation)


@cache
def rendered(wrong: int = 40, images: int = 400, epochs: int = 3, validation: bool = False) -> Rendered:
    """Its report, drawn once for all tests that only read it: drawing takes half a second."""
    return example(wrong, images, epochs, validation).render()


def own(names: tuple[str, ...], shape: tuple[int, ...] = (32, 32), each: int = 20, champion: bool = False) -> Example:
    """A model of somebody's own data, `letters`, of which some classes are rarer than others and one in 7 is wrong.

    With `champion` beside one that gets others wrong.
    """
    numbers = np.concatenate([np.full(each - label % 7, label) for label in range(len(names))])
    labels = numbers.astype(label_type(len(names)))
    step = 1 + np.arange(len(labels)) % 3
    wrong = [((np.arange(len(labels)) + offset) % 7 == 0) * step for offset in (0, 3)]
    guesses, others = (((labels + added) % len(names)).astype(labels.dtype) for added in wrong)
    sample, old = (predicted(each, labels, classes=names, shape=shape) for each in (guesses, others))
    candidate = sample.facts.candidate
    prepared = candidate.prepared.model_copy(update={"dataset": "", "leaked": 12})
    sample = sample.with_candidate(model="letters", prepared=prepared)
    comparison = compare(7, labels, old.probabilities, sample.probabilities) if champion else None
    return sample._replace(facts=sample.facts.model_copy(update={"comparison": comparison}))


def predicted(
    guesses: Labels,
    labels: Labels,
    epochs: int = 3,
    validation: bool = False,
    classes: tuple[str, ...] = DIGITS,
    shape: tuple[int, ...] = (28, 28),
) -> Example:
    """A model with these guesses."""
    count = len(labels)
    confidence = np.linspace(0.5, 0.95, count, dtype=np.float32)
    probabilities = np.tile(((1 - confidence) / (len(classes) - 1))[:, None], (1, len(classes))).astype(np.float32)
    probabilities[np.arange(count), guesses] = confidence
    images = np.random.default_rng(0).integers(0, 256, (count, math.prod(shape)), dtype=np.uint8)
    facts = _facts(probabilities, labels, epochs, validation, classes, shape)
    return Example(facts, images, probabilities, labels)


def _results(
    evaluation: Evaluation, probabilities: Probabilities, labels: Labels, classes: tuple[str, ...]
) -> CandidateResults:
    loaded = LoadBack(images=len(labels), same=len(labels))
    guesses = probabilities.argmax(axis=1).astype(labels.dtype)
    return CandidateResults(evaluation, guesses, labels, loaded, classes=classes)


def with_champion(wrong: int = 40, champion_wrong: int = 30) -> Example:
    """As `example`, beside a champion that gets the last images wrong instead of the first."""
    sample = example(wrong)
    guesses = sample.labels.copy()
    guesses[-champion_wrong:] = (sample.labels[-champion_wrong:] + 2) % CLASSES
    comparison = compare(7, sample.labels, predicted(guesses, sample.labels).probabilities, sample.probabilities)
    return sample._replace(facts=sample.facts.model_copy(update={"comparison": comparison}))


def _facts(
    probabilities: Probabilities,
    labels: Labels,
    epochs: int,
    validation: bool,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
) -> Facts:
    evaluation = score(probabilities, labels, empty(NPZ))
    return Facts(
        candidate=Candidate(
            prepared=_prepared(labels, validation, classes, shape),
            recipe=Recipe(epochs=epochs),
            trained=_trained(epochs, validation),
            evaluation=evaluation,
        ),
        decision=decide(_results(evaluation, probabilities, labels, classes), None, None, GATE),
        provenance=Provenance(
            code="abc123",
            python="3.11.7",
            packages={"keras": "3.15.1", "numpy": "2.4.6"},
            digests={"keras": "a" * 64, "numpy": "b" * 64},
            source="https://mirror.example/mnist/",
            seconds={"train": 9.5, "download": 0.6, "evaluate": 0.3, "preprocess": 130.0},
        ),
    )


def _prepared(labels: Labels, validation: bool, classes: tuple[str, ...], shape: tuple[int, ...]) -> Prepared:
    counts = tuple(int(count) for count in np.bincount(labels, minlength=len(classes)))
    split = Statistics(images=len(labels), per_class=counts, mean=0.13, minimum=0, maximum=1)
    names = ["test", "train", *(["validation"] if validation else [])]
    examples = Examples(images=empty(NPY), labels=empty(NPY))
    return Prepared(
        dataset="mnist",
        shape=shape,
        classes=classes,
        train=examples,
        test=examples,
        statistics=dict.fromkeys(names, split),
    )


def _trained(epochs: int, validation: bool) -> Trained:
    history = tuple(
        Epoch(
            loss=1 / number,
            accuracy=1 - 0.1 / number,
            validation_loss=1.5 / number if validation else None,
            validation_accuracy=1 - 0.2 / number if validation else None,
            seconds=1.5,
        )
        for number in range(1, epochs + 1)
    )
    return Trained(
        model=empty(KERAS),
        weights_digest="f" * 64,
        parameters=407_050,
        history=history,
        device=Device(kind="cpu", arithmetic="oneDNN with AVX2", name="a processor"),
        packages={"keras": "3.15.1"},
        finished=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )
