from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tasks.data.arrays import Bytes, Split, from_npy, scale, to_npy
from tasks.data.content import split_by_content
from tasks.data.splits import divide, hold_out, statistics
from tasks.errors import DataError


def split(count: int = 100, classes: int = 10, seed: int = 0) -> Split:
    random = np.random.default_rng(seed)
    return Split(random.integers(0, 256, (count, 784), np.uint8), (np.arange(count) % classes).astype(np.uint8))


def test_what_training_sees_is_float32_rows_from_0_to_1() -> None:
    images = np.array([[0, 51, 255]], np.uint8)
    scaled = scale(images)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[0.0, pytest.approx(0.2), 1.0]]
    assert split().images.shape == (100, 784)


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=2, max_side=9)))
def test_npy_bytes_are_reproducible_and_need_no_copy(array: Bytes) -> None:
    assert to_npy(array) == to_npy(array.copy())
    restored = from_npy(to_npy(array))
    assert np.array_equal(restored, array)
    assert not restored.flags.owndata


@given(st.sampled_from([0.1, 0.25, 0.5]), st.integers(0, 2**32 - 1))
def test_the_validation_split_is_a_partition_with_every_class_in_proportion(fraction: float, seed: int) -> None:
    full = split(200)
    train, validation = hold_out(full, fraction, seed)
    assert len(validation.labels) == round(200 * fraction)
    assert np.bincount(validation.labels).tolist() == [round(20 * fraction)] * 10
    rows = sorted(image.tobytes() for image in np.concatenate([train.images, validation.images]))
    assert rows == sorted(image.tobytes() for image in full.images)


def test_the_split_is_a_function_of_the_seed() -> None:
    first, second, other = (hold_out(split(), 0.2, seed)[1].images for seed in (7, 7, 8))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_validation_split_too_small_for_every_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"cannot hold out a validation split.*Set validation_fraction"):
        hold_out(split(), 0.05, 0)


def test_statistics_count_each_class_and_describe_the_scaled_pixels() -> None:
    images = np.zeros((4, 784), np.uint8)
    images[0] = 255
    result = statistics(Split(images, np.array([0, 1, 1, 1], np.uint8)), "ab", "train")
    assert result.per_class == (1, 3)
    assert (result.mean, result.minimum, result.maximum) == (0.25, 0.0, 1.0)


def test_a_class_that_the_content_gives_no_test_image_is_refused_with_what_helps() -> None:
    some = Split(np.random.default_rng(0).integers(0, 256, (200, 16), np.uint8), np.zeros(200, np.uint8))
    training, test = (part.images for part in split_by_content(some))
    images = np.concatenate([training[:3], test[:2], training[3:5]])
    why = (
        r"cannot make a test split for class few: .* and none of its 2 is a test image; 2 classes "
        r"have none\. Add images of it \(43 are nearly always enough\), or give a test split of your own"
    )
    with pytest.raises(DataError, match=why):
        divide(Split(images, np.array([0, 0, 2, 0, 0, 1, 1], np.uint8)), None, ("many", "few", "one"))
    with pytest.raises(DataError, match=r"for class b: .* and none of its 2 is a training image\. Add"):
        divide(Split(images, np.array([0, 0, 0, 1, 1, 0, 0], np.uint8)), None, "ab")


def test_a_class_whose_training_images_are_all_test_images_is_named() -> None:
    images, labels = np.arange(64, dtype=np.uint8).reshape(4, 16), np.array([0, 0, 1, 1], np.uint8)
    with pytest.raises(DataError, match="each training image of class b stands in the test split too, and is left out"):
        divide(Split(images, labels), Split(images[1:], labels[1:]), "ab")


def test_data_that_cannot_be_learned_from_are_refused() -> None:
    with pytest.raises(DataError, match="class 9 has none"):
        statistics(split(classes=9), "0123456789", "train")
    with pytest.raises(DataError, match="every pixel is 0"):
        statistics(Split(np.zeros((10, 784), np.uint8), np.arange(10, dtype=np.uint8)), "0123456789", "test")
