from __future__ import annotations

import numpy as np

from tasks.data import idx
from tasks.data.datasets import DATASETS, DIGITS, MNIST, digest, embedded_digits


def test_the_embedded_digits_are_the_pinned_ones_and_look_like_mnist() -> None:
    contents = embedded_digits()
    for field, file in DIGITS.files.items():
        assert digest(contents[field]) == file.sha256
        idx.decode(contents[field], file.name, file.shape)
    images = idx.decode(contents["train_images"], "images", DIGITS.train_images.shape)
    assert images.min() == 0
    assert images.max() == 255
    assert not images[:, :2].any(), "there is a border, as MNIST has one"


def test_every_class_is_in_both_splits_of_the_digits() -> None:
    contents = embedded_digits()
    for field in ("train_labels", "test_labels"):
        labels = idx.decode(contents[field], field, DIGITS.files[field].shape)
        assert set(np.unique(labels)) == set(range(10))


def test_mnist_has_public_mirrors_that_are_alive_and_encrypted() -> None:
    assert all(mirror.startswith("https://") for mirror in MNIST.mirrors)
    assert not any("lecun" in mirror for spec in DATASETS.values() for mirror in spec.mirrors)
