"""`retrain data check`: what a run would see of the data. Called by `main`, and for `retrain init`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flows.cli.command import Command
from flows.cli.layout import say
from tasks.errors import DataError
from tasks.settings import EACH, Data, Settings, has_batches
from tasks.values import Statistics

if TYPE_CHECKING:
    from tasks.data.sources import Contents
    from tasks.data.sources.batches import BatchContents
    from tasks.data.splits import Splits

# Steps of training after which a first try may stop, and with how many images of one batch.
STEPS = 1_500
SMALL_BATCH, LARGE_BATCH, MANY = 32, 128, 10_000

# Names of classes in one line.
NAMES = 12

# Batches in one list.
ROWS = 20

# What is in each batch by its name, or why it cannot be read.
Batches = Mapping[str, "BatchContents | DataError"]


class Found(NamedTuple):
    """A source as a run would see it: its content, its splits, and the statistics of each."""

    contents: Contents
    splits: Splits
    train: Statistics
    test: Statistics


def data(options: argparse.Namespace) -> int:
    """`retrain data check`."""
    settings: Settings = options.settings
    say(str(settings.source), "source    ")
    batches = read_batches(settings)
    for name, text in listed(batches):
        say(text, f"{name:<10}")
    for name, text in described(look_into(settings, batches)):
        say(text, f"{name:<10}")
    if wrong := [name for name, each in batches.items() if isinstance(each, DataError)]:
        more = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        why = f"{wrong[0]}{more} of {len(batches):,} cannot be read"
        raise DataError("a run would reject the batches", why, "Correct them, or leave them out for good: --without.")
    return 0


def read_batches(settings: Settings) -> Batches:
    """Each batch of a source that grows, read by itself, as many as a run takes; none of another source."""
    from tasks.data.sources.batches import batches_of, read_batch

    batches: dict[str, BatchContents | DataError] = {}
    for files in batches_of(settings.source)[-settings.window :] if has_batches(settings.source) else ():
        try:
            batches[files.name] = read_batch(files, _progress())
        except DataError as error:
            batches[files.name] = error
    return batches


def listed(batches: Batches) -> Iterator[tuple[str, str]]:
    """A row for each batch, the last ones first."""
    for name, each in list(batches.items())[: -ROWS - 1 : -1]:
        yield "batch", str(each) if isinstance(each, DataError) else f"{name}: {_counts(each)}"
    if len(batches) > ROWS:
        yield "", f"… and {len(batches) - ROWS:,} more"


def look_into(settings: Settings, batches: Batches) -> Found:
    """Read the source as a run would; where it grows, its `batches` that could be read are all of it.

    Raises:
        DataError: The data cannot be used, and why.
        DownloadError: No mirror delivered them.
    """
    from tasks.data.reading import read_source  # with a client of HTTP, which other commands need not wait for
    from tasks.data.sources.batches import join
    from tasks.data.splits import divide, statistics

    if has_batches(settings.source):
        readable = {name: each for name, each in batches.items() if not isinstance(each, DataError)}
        if not readable:
            raise next(each for each in batches.values() if isinstance(each, DataError))
        contents = join(readable)
    else:
        contents, _ = read_source(settings.source, settings.mirror, _progress())
    splits = divide(contents.train, contents.test, contents.classes)
    train, test = (
        statistics(split, contents.classes, name) for name, split in (("train", splits.train), ("test", splits.test))
    )
    return Found(contents, splits, train, test)


def described(found: Found) -> Iterator[tuple[str, str]]:
    """What was found, as rows of a name and a text."""
    from tasks.data.content import digests

    contents, splits = found.contents, found.splits
    height, width, *channels = splits.train.images.shape[1:]
    names = ", ".join(contents.classes[:NAMES]) + (", …" if len(contents.classes) > NAMES else "")
    yield "format", contents.format
    yield "images", f"{height} × {width} pixels, {'in colour' if channels else 'grey'}"
    yield "classes", f"{len(contents.classes):,}: {names}"
    yield "train", _sizes(found.train)
    yield "test", _sizes(found.test) + ("" if contents.test else ", chosen by the content of each image")
    yield "in both", f"{splits.leaked:,} training images are test images too, and are left out of training"
    repeated = len(splits.train.labels) - len(np.unique(digests(splits.train.images), axis=0))
    yield "repeated", f"{repeated:,} training images occur more than once"


def proposed(found: Found, settings: Settings) -> dict[str, Any]:
    """Settings to begin with, by name, for a source that nobody knows."""
    images, batch_size = found.train.images, LARGE_BATCH if found.train.images >= MANY else SMALL_BATCH
    return {
        "model": slug(settings.source),
        "epochs": min(100, max(5, math.ceil(STEPS * batch_size / images))),
        "batch_size": batch_size,
        "min_accuracy": min(1.0, math.ceil(100 * guessing(found) + 1) / 100),
    }


def guessing(found: Found) -> float:
    """The accuracy of a model that always guesses the most frequent class."""
    return max(found.test.per_class) / found.test.images


def slug(source: str) -> str:
    """A model's name from the address of its data: that of the file or the folder."""
    name = re.sub(r"\.[a-z0-9.]*$", "", source.removesuffix(EACH).rstrip("/").rpartition("/")[2].lower())
    return re.sub("[^a-z0-9]+", "-", name).strip("-")[:50].strip("-") or "model"


def _counts(batch: BatchContents) -> str:
    train, test = (len(split.labels) if split else 0 for split in (batch.train, batch.test))
    names = ", ".join(batch.classes[:NAMES]) + (", …" if len(batch.classes) > NAMES else "")
    count = len(batch.classes)
    return f"{train:,} images, {test:,} test images, {count:,} class{'es' if count > 1 else ''}: {names}"


def _sizes(statistics: Statistics) -> str:
    fewest, most = min(statistics.per_class), max(statistics.per_class)
    each = f"{fewest:,} to {most:,}" if fewest < most else f"{most:,}"
    return f"{statistics.images:,} images, {each} of each class"


def _progress() -> Any:
    """On a terminal, a line that is written over; elsewhere nothing: the result follows."""
    if not sys.stderr.isatty():
        return lambda *_: None

    def show(name: str, done: int, total: int | None) -> None:
        share = f"{100 * done / total:3.0f} %" if total else f"{done:,}"
        end = "\r\033[K" if done == total else ""
        print(f"\r\033[Kreading {share} {name}"[:100], end=end, file=sys.stderr, flush=True)

    return show


COMMANDS = [
    Command(
        data,
        "read the data as a run would, and say what is there",
        {"action": {"choices": ["check"], "help": "check: without a training"}},
        fields=[*Data.model_fields],
        description="Read the data, check them, and print what a run would see: sizes, classes, splits, images that "
        "stand in both; of a source that grows, each batch first. Writes nothing.",
    ),
]
