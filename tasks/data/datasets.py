"""The known data sets: their files, the digests that pin the content of each, their public mirrors.

A pin is the SHA-256 of the *content* of an IDX file, so a mirror may compress the file as it likes. Called by
`tasks.data.mirrors` and the steps `download` and `preprocess`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tasks.data import idx
from tasks.data.arrays import Split
from tasks.data.sources import Contents
from tasks.values import Sha256


class FileSpec(NamedTuple):
    """One IDX file: its name, the SHA-256 of its content ("" if nobody has verified it), the shape of its array."""

    name: str
    sha256: Sha256
    shape: tuple[int, ...]


class Spec(NamedTuple):
    """One data set. Its `mirrors` are tried in order; a data set without mirrors is embedded."""

    name: str
    train_images: FileSpec
    train_labels: FileSpec
    test_images: FileSpec
    test_labels: FileSpec
    mirrors: tuple[str, ...]
    names: tuple[str, ...] = tuple("0123456789")

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def files(self) -> dict[str, FileSpec]:
        """The four files by the name of their field in `tasks.values.Files`."""
        return {field: getattr(self, field) for field in ("train_images", "train_labels", "test_images", "test_labels")}


MNIST = Spec(
    "mnist",
    FileSpec(
        "train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", (60000, 28, 28)
    ),
    FileSpec("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", (60000,)),
    FileSpec(
        "t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", (10000, 28, 28)
    ),
    FileSpec("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", (10000,)),
    (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    ),
)

DIGITS = Spec(
    "digits",
    FileSpec(
        "train-images-idx3-ubyte", "cf5ab2b440e8a13ca054f7b3a16c7d0ec503fb7bb10d5109aee92f6fec460709", (1437, 28, 28)
    ),
    FileSpec("train-labels-idx1-ubyte", "65bdc6faff0700b9f6fa567fd457a04bc8d14651b4df0da70aa57db040c0a05d", (1437,)),
    FileSpec(
        "t10k-images-idx3-ubyte", "8895e38a1414036fc4faa73a6f861eb3348d6b7dc93f59c45534e769aa69e184", (360, 28, 28)
    ),
    FileSpec("t10k-labels-idx1-ubyte", "67a03ca1a94f534802edb49443f7f195e53ae9d3472f0c9f27c55830144c5819", (360,)),
    (),
)


def _like_mnist(name: str, mirrors: tuple[str, ...], names: tuple[str, ...]) -> Spec:
    """A set with MNIST's files and shapes, whose content nobody has verified here: `pins` keeps what came first."""
    files = {field: file._replace(sha256="") for field, file in MNIST.files.items()}
    return MNIST._replace(name=name, mirrors=mirrors, names=names, **files)


FASHION_MNIST = _like_mnist(
    "fashion-mnist",
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KMNIST = _like_mnist(
    "kmnist",
    ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
)

DATASETS: dict[str, Spec] = {spec.name: spec for spec in (MNIST, DIGITS, FASHION_MNIST, KMNIST)}


def embedded_digits() -> dict[str, bytes]:
    """scikit-learn's 1,797 handwritten digits (UCI, 8 × 8, values 0 to 16) as four IDX contents, by field name.

    Each pixel becomes 3 × 3 pixels, with a border of 2: 28 × 28, in exact integers. Every fifth image is for the test.
    """
    from sklearn.datasets import load_digits

    small = load_digits()
    levels = (small.images.astype(np.uint16) * 255 // 16).astype(np.uint8)
    images = np.pad(np.kron(levels, np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
    labels = small.target.astype(np.uint8)
    test = np.arange(len(labels)) % 5 == 0
    return {
        "train_images": idx.encode(images[~test]),
        "train_labels": idx.encode(labels[~test]),
        "test_images": idx.encode(images[test]),
        "test_labels": idx.encode(labels[test]),
    }


def decoded(spec: Spec, contents: Mapping[str, bytes]) -> Contents:
    """Images and labels of the four verified IDX contents, by field name."""
    arrays = {field: idx.decode(contents[field], file.name, file.shape) for field, file in spec.files.items()}
    train, test = (Split(arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in ("train", "test"))
    return Contents(train, test, spec.names, f"the data set {spec.name}")


def digest(content: bytes) -> Sha256:
    """The SHA-256 of an IDX file's content, in hex, to be compared with a pin."""
    return hashlib.sha256(content).hexdigest()
