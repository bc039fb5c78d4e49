"""A source that grows, made of scikit-learn's digits: twelve batches of 149 or 150 images, and what may be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

NUMBER = 12


class Images(NamedTuple):
    """uint8 (n, height, width), and labels (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


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
