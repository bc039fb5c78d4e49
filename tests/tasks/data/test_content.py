from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.content import Split, digests, leaks, sort_by_content, split_by_content
from tests.source_files import some


def test_a_digest_is_the_start_of_the_sha_256_of_the_pixels() -> None:
    images = some(3).images
    expected = [hashlib.sha256(image.tobytes()).hexdigest()[:32] for image in images]
    assert [f"{high:016x}{low:016x}" for high, low in digests(images).tolist()] == expected
    assert digests(images[:0]).shape == (0, 2)


@given(st.integers(1, 40), st.integers(0, 5), st.sampled_from([1, 3]))
def test_any_order_of_the_same_images_is_sorted_into_the_same(count: int, seed: int, channels: int) -> None:
    images, labels = some(count, 4, channels, classes=2, seed=seed)
    images, labels = np.concatenate([images, images]), np.concatenate([labels, 1 - labels])  # doubles, contradicting
    pairs = sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = Split(np.ascontiguousarray(images[order]), labels[order])
    sort_by_content(images, labels)
    sort_by_content(*shuffled)
    assert np.array_equal(images, shuffled.images)
    assert np.array_equal(labels, shuffled.labels)
    assert sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)) == pairs
    assert digests(images).tolist() == sorted(digests(images).tolist())


def test_sorting_takes_a_tenth_of_the_images_memory() -> None:
    images, labels = some(20_000, 28)
    tracemalloc.start()
    try:
        sort_by_content(images, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < images.nbytes / 10


@given(st.integers(2, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_test_image_stays_one_whatever_is_added(count: int, share: float, more: float, seed: int) -> None:
    everything = some(count, 4, seed=seed)
    train, test = split_by_content(everything, share)
    assert len(train.images) + len(test.images) == count
    assert not len(leaks(train, test))
    grown = Split(*(np.concatenate(pair) for pair in zip(some(30, 4, seed=9), everything, strict=True)))
    for larger in (split_by_content(grown, share), split_by_content(grown, max(share, more))):
        assert {image.tobytes() for image in test.images} <= {image.tobytes() for image in larger[1].images}


def test_the_share_of_the_test_split_is_near_what_was_asked_for() -> None:
    everything = some(20_000, 4)
    assert len(split_by_content(everything)[1].labels) / 20_000 == pytest.approx(0.15, abs=0.01)
    assert len(split_by_content(everything, 0)[1].labels) == 0
    assert len(split_by_content(everything, 1)[0].labels) == 0


def test_equal_images_are_on_one_side_under_whatever_label() -> None:
    images, labels = some(50, 4, classes=2)
    twice = Split(np.concatenate([images, images]), np.concatenate([labels, 1 - labels]))
    train, test = split_by_content(twice, 0.5)
    assert not len(leaks(train, test))
    assert len(test.labels) % 2 == 0
    assert 0 < len(test.labels) < 100


def test_training_images_that_stand_in_the_test_split_are_named() -> None:
    train, other = some(20, 4), some(10, 4, seed=1)
    test = Split(np.concatenate([other.images, train.images[[3, 17]]]), np.zeros(12, np.uint8))
    assert leaks(train, test).tolist() == [3, 17]
    assert not len(leaks(train, other))
