"""A source that grows, replayed with all that can go wrong in it: the digits in 12 batches, MNIST in 60."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tasks.data.datasets import MNIST
from tasks.data.idx import decode
from tasks.data.mirrors import fetch
from tasks.errors import DataError
from tasks.settings import RecipeSettings
from tests import batches
from tests.batches import RECIPE, Images, Place, arrive, digits, name, refused

BESIDE = Path(__file__).parents[3] / "shared" / "mnist"

BAD = "{}-bad"

Bad = tuple[str, Callable[[Images, Images], Images]]

# The failed row, and what is made of images that nobody has learned from and of the first batch.
POISONS: dict[str, Bad] = {
    "labels of other images": ("labels", lambda new, first: batches.permuted(new)),
    "labels, 20 % wrong": ("labels", lambda new, first: batches.permuted(new, 0.2)),
    "of one class": ("class shares", lambda new, first: batches.of_one_class(new)),
    "inverted": ("pixel statistics", lambda new, first: batches.inverted(new)),
    "300 pixels": ("image kind", lambda new, first: batches.enlarged(Images(new.images[:20], new.labels[:20]), 11)),
    "twice": ("repeated images", lambda new, first: first),
    "test images": (
        "test images",
        lambda new, first: Images(
            np.concatenate([new.images, first.images ^ 1]), np.concatenate([new.labels, first.labels])
        ),
    ),
}

# Of a batch of 1,000 images.
FIVE_PER_CENT: Bad = ("labels", lambda new, first: batches.permuted(new, 0.05))


def mnist() -> list[Images]:
    """The training images in 60 batches of 1,000, in the order of the files."""
    contents = fetch(MNIST, (BESIDE.as_uri(),)).contents
    files = {field: decode(contents[field], file.name, file.shape) for field, file in MNIST.files.items()}
    split = (np.array_split(files[f"train_{kind}"], 60) for kind in ("images", "labels"))
    return [Images(*each) for each in zip(*split, strict=True)]


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("content", "recipe", "poisons"),
    [
        pytest.param(digits, RECIPE, POISONS, id="digits"),
        pytest.param(
            mnist,
            RecipeSettings(epochs=2),
            POISONS | {"labels, 5 % wrong": FIVE_PER_CENT},
            id="mnist",
            marks=pytest.mark.skipif(not BESIDE.is_dir(), reason="no folder shared/mnist beside the checkout"),
        ),
    ],
)
@pytest.mark.usefixtures("prefect_server", "fresh_process")
def test_a_replay_with_every_poison_ends_as_one_without(
    tmp_path: Path, content: Callable[[], list[Images]], recipe: RecipeSettings, poisons: dict[str, Bad]
) -> None:
    days = content()
    place = Place(tmp_path / "place", recipe)
    published = Published(place, days)
    first = max(3, len(days) // 12)  # before it the champion knows too little
    for number in range(first):
        published.arrive(number)
    published.run()

    left = list(range(first, len(days)))
    for poison, (row, change) in poisons.items():
        if len(left) > 1:
            published.learn(left.pop(0))
        published.refuse(poison, row, change(days[left[-1]], days[0]))
    published.finish_half(left.pop(0))
    published.come_late(left.pop(0), "2026-10-31")
    published.change_one(1)
    published.lose_one(2)
    os.utime(place.folder / f"{name(0)}.npz", (1, 1))  # a clock that went back
    assert place.run().verdict == "already published"
    for number in left:
        published.learn(number)
    published.check(tmp_path / "rebuilt")


class Published:
    """A place, and what its newest version has to have learned from."""

    def __init__(self, place: Place, days: Sequence[Images]) -> None:
        self.place, self.days, self.names = place, days, set[str]()

    def run(self, **more: Any) -> None:
        assert self.place.run(**more).verdict == "published"
        assert self.place.learned() == sorted(self.names)

    def arrive(self, number: int) -> None:
        self.place.arrive(number, self.days[number])
        self.names.add(name(number))

    def learn(self, number: int) -> None:
        self.arrive(number)
        self.run()

    def refuse(self, poison: str, row: str, content: Images) -> None:
        bad, versions = BAD.format(max(self.names)), self.place.registry.versions()
        arrive(self.place.folder, bad, content)
        failed = refused(self.place.state())
        assert row in failed[bad], poison
        assert self.place.run(without=(bad,)).verdict == "already published"
        assert self.place.registry.versions() == versions

    def finish_half(self, number: int) -> None:
        file = self.place.arrive(number, self.days[number])
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], b""):
            file.write_bytes(damaged)
            assert self.place.run().verdict == "already published"
        file.write_bytes(whole)
        self.names.add(name(number))
        self.run()

    def come_late(self, number: int, late: str) -> None:
        arrive(self.place.folder, late, self.days[number])
        self.names.add(late)
        self.run()

    def change_one(self, number: int) -> None:
        self.place.arrive(number, batches.inverted(self.days[number]))
        with pytest.raises(DataError, match=f"--accept-changed {name(number)}"):
            cast(Any, self.place.state().result())
        self.place.arrive(number, self.days[number])
        assert self.place.run().verdict == "already published"

    def lose_one(self, number: int) -> None:
        (self.place.folder / f"{name(number)}.npz").unlink()
        self.names.remove(name(number))
        self.run()
        self.arrive(number)
        assert self.place.run().verdict in {"published", "already published"}

    def check(self, store: Path) -> None:
        """The newest version is what a single run over the good batches alone makes."""
        clean = Place(self.place.folder.parent, self.place.recipe)
        clean.store = str(store)
        bad = tuple(sorted({each.stem for each in self.place.folder.iterdir()} - self.names))
        assert clean.run(without=bad).verdict == "published"
        weights = [
            each.registry.manifest(max(each.registry.versions())).fact("weights_digest") for each in (self.place, clean)
        ]
        assert weights[0] == weights[1]
        facts = self.place.facts()
        assert sum(each["images"] + each["test_images"] for each in facts) == sum(len(day.labels) for day in self.days)
