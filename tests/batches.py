"""A source that grows, made of scikit-learn's digits: twelve batches of 149 or 150 images, and what may be wrong."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from prefect.client.schemas.objects import State
from sklearn.datasets import load_digits

from flows.retrain import retrain
from tasks.errors import GateRejected
from tasks.registry import Registry
from tasks.settings import ONE_SEED, Data, GateSettings, RecipeSettings
from tasks.storage import open_store
from tasks.values import Outcome

NUMBER = 12

MODEL = "grown"
RECIPE = RecipeSettings(epochs=30, batch_size=32)
GATE = GateSettings(min_accuracy=0.5, min_accuracy_lower_bound=0.4, min_class_recall=0.1, max_regression=0.2)


class Images(NamedTuple):
    """uint8 (n, height, width), and labels (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@cache
def digits(number: int = NUMBER, seed: int = 0) -> list[Images]:
    """The digits in random order, in so many batches."""
    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    images, labels = (bunch.images * 15).astype(np.uint8)[order], bunch.target.astype(np.uint8)[order]
    return [Images(*each) for each in zip(np.array_split(images, number), np.array_split(labels, number), strict=True)]


def name(number: int) -> str:
    """The name of a batch, which sorts: a day."""
    return f"2026-11-{number + 1:02d}"


def arrive(folder: Path, batch: str, content: Images) -> Path:
    """A batch arrives as it should: it is written elsewhere, and renamed into place."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished, file = folder / f".{batch}.npz", folder / f"{batch}.npz"
    with unfinished.open("wb") as opened:
        np.savez(opened, images=content.images, labels=content.labels)
    return unfinished.rename(file)


def permuted(content: Images, share: float = 1.0, seed: int = 1) -> Images:
    """A share of the labels belongs to other images."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(content.labels))[: round(share * len(content.labels))]
    labels = content.labels.copy()
    labels[chosen] = np.roll(labels[chosen], 1) if share == 1 else (labels[chosen] + 1) % 10
    return content._replace(labels=labels)


def shifted(content: Images) -> Images:
    """Each label is the next one."""
    return content._replace(labels=(content.labels + 1) % 10)


def inverted(content: Images) -> Images:
    """Black is white."""
    return content._replace(images=255 - content.images)


def of_one_class(content: Images) -> Images:
    """Each image is a 1."""
    rows = np.flatnonzero(content.labels == 1).repeat(10)
    random = np.random.default_rng(2)
    noise = random.integers(0, 6, (len(rows), *content.images.shape[1:]), dtype=np.uint8)
    return Images(content.images[rows] // 2 * 2 + noise, content.labels[rows])


def enlarged(content: Images, factor: int = 40) -> Images:
    """Pictures of 320 pixels."""
    return content._replace(images=content.images.repeat(factor, axis=1).repeat(factor, axis=2))


class Place:
    """A source and a store, and runs of the job on them."""

    def __init__(self, folder: Path, recipe: RecipeSettings = RECIPE) -> None:
        self.folder, self.store, self.recipe = folder / "in", str(folder / "store"), recipe

    def arrive(self, number: int, content: Images | None = None) -> Path:
        return arrive(self.folder, name(number), content or digits()[number])

    def state(self, **more: Any) -> State[Outcome]:
        data = Data(source=f"{self.folder}/*", **more.pop("data", {}))
        options = {"device": "cpu", "seeds": ONE_SEED, "model": MODEL, "store": self.store, "gate": GATE} | more
        return cast(State[Outcome], retrain(data, self.recipe, return_state=True, **options))

    def run(self, **more: Any) -> Outcome:
        return cast(Outcome, cast(Any, self.state(**more)).result())

    @property
    def registry(self) -> Registry:
        return Registry(open_store(self.store), MODEL)

    def learned(self, version: int | None = None) -> list[str]:
        """The names of the batches that the newest version, or another one, was trained on."""
        return [each["name"] for each in self.facts(version)]

    def facts(self, version: int | None = None) -> list[dict[str, Any]]:
        """What its manifest says of them."""
        registry = self.registry
        manifest = registry.manifest(version or max(registry.versions()))
        return cast(list[dict[str, Any]], manifest.fact("data", "batches"))


def refused(state: State[Outcome]) -> dict[str, list[str]]:
    """The names of the failed rows of each new batch, by the report of a run that a check ended."""
    assert state.name == "Rejected", state.message
    with pytest.raises(GateRejected) as error:
        cast(Any, state.result())
    address = str(state.message).rpartition("Report: ")[2].strip().removeprefix("file://")
    report = json.loads(Path(address).with_name("report.json").read_text())
    assert error.value.outcome is None
    return {
        each["batch"]: [check["name"] for check in each["checks"] if not check["passed"]] for each in report["batches"]
    }
