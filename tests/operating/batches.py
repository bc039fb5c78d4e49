"""How often the rows of a new batch refuse a healthy one, and what they find: on MNIST and the digits.

python -m tests.operating.batches FOLDER    # with MNIST's four IDX files; writes batches.json, in about ten minutes

mnist    batches of 1,000 images, drawn at random from all 70,000; 1, 2, 3, 5, 10 or 60 are earlier
digits   12 batches of 150, in a random order; each but the first is compared with those before it
days     batches of 500, each with class shares and a brightness of its own, as real days have; without a champion
files    MNIST's training images in the order of their files, which has writers together: batch 11 to 60

The earlier batches' test images are those that the content's hash chooses; the champion is a small network that
has learned from the others. A poison is put into healthy batches, and found if a row fails.
`naive` counts the days without their dispersion, as if all earlier images were one batch.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.data import idx
from tasks.data.arrays import Bytes, Labels, Split, scale
from tasks.data.content import split_by_content
from tasks.data.datasets import DIGITS, MNIST, Spec, embedded_digits
from tasks.data.mirrors import fetch
from tasks.gate.batch_checks import Champion, Earlier, NewBatch, check_batch
from tasks.settings import BatchLimits

JSON = Path(__file__).with_name("batches.json")

CLASSES = tuple("0123456789")
EARLIER, MANY, HEALTHY, POISONED, IMAGES = (1, 2, 3, 5, 10) * 2, 60, 52, 5, 1000
ROWS = (
    "new classes",
    "known classes",
    "class shares",
    "pixel statistics",
    "labels",
    "test images",
    "repeated images",
)
WITHOUT_CHAMPION = ("days", "naive")

FIRST = 10  # batches that files begin with
DIGITS_WORLDS, DIGITS_BATCHES, DIGITS_POISONED = 46, 12, 20
DAYS_EARLIER, DAYS_WORLDS, CONCENTRATION, GAIN = (2, 3, 5, 10), 125, 300, 0.03


class World(NamedTuple):
    """The earlier batches, and a classifier: probabilities (n, 10) of images; None without a champion."""

    earlier: Earlier
    predict: Callable[[Bytes], NDArray[np.float32]] | None = None
    tests: Split | None = None


def everything(spec: Spec, contents: dict[str, bytes]) -> Split:
    """All images of a data set, in the order of its files, training images first."""
    arrays = {field: idx.decode(contents[field], file.name, file.shape) for field, file in spec.files.items()}
    return Split(
        *(np.concatenate([arrays[f"{split}_{kind}"] for split in ("train", "test")]) for kind in ("images", "labels"))
    )


def digits() -> Split:
    """The digits inside scikit-learn."""
    return everything(DIGITS, embedded_digits())


def world(batches: list[Split], champion: bool = True) -> World:
    """These batches as the earlier ones, and a champion that has learned from their training images."""
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    number = np.repeat(np.arange(len(batches)), [len(batch.labels) for batch in batches])
    train, test = split_by_content(Split(images, labels))
    earlier = Earlier(images, labels, number, test.images, CLASSES)
    return World(earlier, classifier(train), test) if champion else World(earlier)


def classifier(train: Split) -> Callable[[Bytes], NDArray[np.float32]]:
    """A small network after 20 epochs."""
    from sklearn.neural_network import MLPClassifier

    def pixels(images: Bytes) -> NDArray[np.float32]:
        return scale(images.reshape(len(images), -1))

    model = MLPClassifier(64, batch_size=min(128, 1 + len(train.labels) // 30), random_state=0)
    for _ in range(20):
        model.partial_fit(pixels(train.images), train.labels, classes=np.arange(len(CLASSES)))

    def predict(images: Bytes) -> NDArray[np.float32]:
        result: NDArray[np.float32] = model.predict_proba(pixels(images)).astype(np.float32)
        return result

    return predict


def failed(world: World, batch: Split) -> list[str]:
    """The rows that a batch fails."""
    champion = None
    if world.predict and world.tests and batch.images.shape[1:] == world.earlier.images.shape[1:]:
        champion = Champion(
            "the champion", world.predict(batch.images), world.predict(world.tests.images), world.tests.labels, CLASSES
        )
    checks, _ = check_batch(NewBatch("new", *batch, CLASSES), world.earlier, champion, BatchLimits())
    return [check.name for check in checks if not check.passed]


def jpeg(images: Bytes) -> Bytes:
    """Compressed with a quality of 75, and read again."""
    result = np.empty_like(images)
    for number, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=75)
        result[number] = np.asarray(Image.open(file))
    return result


def poisons(batch: Split, world: World, pool: Split, random: np.random.Generator) -> Iterator[tuple[str, Split]]:
    """What can be wrong with a batch; `pool` has more images."""
    images, labels = batch
    n = len(labels)

    def wrong(share: float) -> Labels:
        rows, changed = random.permutation(n)[: round(share * n)], labels.copy()
        changed[rows] = (changed[rows] + random.integers(1, len(CLASSES), len(rows))) % len(CLASSES)
        return changed

    yield "labels permuted", Split(images, random.permutation(labels))
    yield "20 % of the labels wrong", Split(images, wrong(0.2))
    yield "5 % of the labels wrong", Split(images, wrong(0.05))
    yield "labels shifted by one", Split(images, (labels + 1) % len(CLASSES))
    only = np.flatnonzero(pool.labels == random.integers(len(CLASSES)))[:n]
    yield "one class only", Split(pool.images[only], pool.labels[only])
    yield "images inverted", Split(255 - images, labels)
    if world.tests:
        taken = random.integers(len(world.tests.labels), size=max(2, round(0.05 * n)))
        rows = random.permutation(n)[: len(taken)]
        for name, change in (("5 % are test images", lambda each: each), ("5 % are test images as JPEG", jpeg)):
            mixed, theirs = images.copy(), labels.copy()
            mixed[rows], theirs[rows] = change(world.tests.images[taken]), world.tests.labels[taken]
            yield name, Split(mixed, theirs)
    again = world.earlier.batch == random.integers(world.earlier.batch.max() + 1)
    yield "an earlier batch again", Split(world.earlier.images[again], world.earlier.labels[again])
    yield "images of another size", Split(np.pad(images, ((0, 0), (2, 2), (2, 2))), labels)


class Count:
    """How many batches were checked, how many refused, and by which rows."""

    def __init__(self) -> None:
        self.batches, self.rows = 0, Counter[str]()

    def add(self, rows: list[str]) -> None:
        self.batches += 1
        self.rows.update([*rows, *(["any"] if rows else [])])

    def rates(self) -> dict[str, Any]:
        return {"batches": self.batches, **{row: round(n / self.batches, 4) for row, n in sorted(self.rows.items())}}


Counts = dict[str, Count]


def add(counts: Counts, name: str, rows: list[str]) -> None:
    counts.setdefault(name, Count()).add(rows)


def parts(data: Split, order: NDArray[np.intp], size: int) -> list[Split]:
    """Batches of so many images."""
    return [
        Split(data.images[order[start : start + size]], data.labels[order[start : start + size]])
        for start in range(0, len(order) - size + 1, size)
    ]


def mnist_rates(data: Split, healthy: Counts, poisoned: Counts) -> None:
    random = np.random.default_rng(0)
    for number in (*EARLIER, MANY):
        batches = parts(data, random.permutation(len(data.labels)), IMAGES)
        here = world(batches[:number])
        for place, batch in enumerate(batches[number : number + HEALTHY]):
            add(healthy, "mnist", failed(here, batch))
            if place < POISONED:
                for name, bad in poisons(batch, here, pool(batches[number:]), random):
                    add(poisoned, f"mnist, {number} earlier: {name}", failed(here, bad))
        print(f"mnist after {number}: {healthy['mnist'].rates()}", flush=True)


def pool(batches: list[Split]) -> Split:
    return Split(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def digits_rates(data: Split, healthy: Counts, poisoned: Counts, worlds: int = DIGITS_WORLDS) -> None:
    random = np.random.default_rng(0)
    for number in range(worlds):
        batches = parts(data, random.permutation(len(data.labels)), len(data.labels) // DIGITS_BATCHES)
        for place in range(1, DIGITS_BATCHES):
            here = world(batches[:place])
            add(healthy, "digits", failed(here, batches[place]))
            if number < DIGITS_POISONED and place in (1, 5, 11):
                for name, bad in poisons(batches[place], here, pool(batches[place:]), random):
                    add(poisoned, f"digits, batch {place + 1}: {name}", failed(here, bad))
    print(f"digits: {healthy['digits'].rates()}", flush=True)


def days(data: Split, number: int, random: np.random.Generator) -> list[Split]:
    """Batches with class shares and a brightness of their own, no image in two of them."""
    left, result = np.ones(len(data.labels), bool), []
    for _ in range(number):
        shares = random.dirichlet(np.full(len(CLASSES), CONCENTRATION / len(CLASSES)))
        chance = left * shares[data.labels] / np.bincount(data.labels[left])[data.labels]
        rows = random.choice(len(data.labels), IMAGES // 2, replace=False, p=chance / chance.sum())
        images = (data.images[rows] * random.normal(1, GAIN)).clip(0, 255).astype(np.uint8)
        result.append(Split(images, data.labels[rows]))
        left[rows] = False
    return result


def days_rates(data: Split, healthy: Counts) -> None:
    random = np.random.default_rng(0)
    for number in DAYS_EARLIER * DAYS_WORLDS:
        batches = days(data, number + 1, random)
        here = world(batches[:-1], champion=False)
        add(healthy, "days", failed(here, batches[-1]))
        add(healthy, "naive", failed(World(naive(here.earlier)), batches[-1]))
    print(f"days: {healthy['days'].rates()}, naive: {healthy['naive'].rates()}", flush=True)


def naive(earlier: Earlier) -> Earlier:
    """As if all earlier images were of one batch."""
    return Earlier(earlier.images, earlier.labels, earlier.batch * 0, earlier.test_images, earlier.classes)


def files_rates(data: Split, healthy: Counts) -> None:
    batches = parts(data, np.arange(60_000), IMAGES)
    here = world(batches[:FIRST])
    for batch in batches[FIRST:]:
        add(healthy, "files", failed(here, batch))
    print(f"files: {healthy['files'].rates()}", flush=True)


def markdown(rates: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Two tables: the share of healthy batches that each row refuses, and the share of poisoned ones that any does."""
    sets = rates["healthy"]
    header = [f"{name} ({each['batches']:,})" for name, each in sets.items()]
    lines = [f"| healthy batches refused | {' | '.join(header)} |", "|---|" + "---|" * len(sets)]
    for row in (*ROWS, "any"):
        lines.append(f"| {row} | {' | '.join(_share(name, row, each) for name, each in sets.items())} |")
    places = list(dict.fromkeys(name.split(": ")[0] for name in rates["poisoned"]))
    lines += ["", f"| poisoned batches found | {' | '.join(places)} |", "|---|" + "---|" * len(places)]
    for poison in dict.fromkeys(name.split(": ")[1] for name in rates["poisoned"]):
        found = [rates["poisoned"][f"{place}: {poison}"].get("any", 0) for place in places]
        lines.append(f"| {poison} | {' | '.join(f'{share:.2f}' for share in found)} |")
    return "\n".join(lines) + "\n"


def _share(name: str, row: str, rates: dict[str, Any]) -> str:
    return "" if row == "labels" and name in WITHOUT_CHAMPION else f"{rates.get(row, 0):.3f}"


def main(folder: Path) -> None:
    healthy: Counts = {}
    poisoned: Counts = {}
    data = everything(MNIST, fetch(MNIST, (f"file://{folder.resolve()}",)).contents)
    digits_rates(digits(), healthy, poisoned)
    write(healthy, poisoned)
    mnist_rates(data, healthy, poisoned)
    write(healthy, poisoned)
    days_rates(data, healthy)
    files_rates(data, healthy)
    write(healthy, poisoned)


def write(healthy: Counts, poisoned: Counts) -> None:
    rates = {
        kind: {name: count.rates() for name, count in counts.items()}
        for kind, counts in (("healthy", healthy), ("poisoned", poisoned))
    }
    JSON.write_text(json.dumps(rates, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
