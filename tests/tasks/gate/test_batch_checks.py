from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, f, fisher_exact, hypergeom, kstwobign

from tasks.data.arrays import Bytes, Split
from tasks.gate.batch_checks import (
    AT_ONCE,
    COMPARED,
    SHOWN,
    Champion,
    Earlier,
    NewBatch,
    _cells,
    _chi_squared_p,
    _dispersion,
    _nearest,
    _none_of,
    _smirnov,
    _smirnov_p,
    check_batch,
)
from tasks.settings import BatchLimits
from tasks.values import Check
from tests.operating.batches import CLASSES, World, digits, failed, jpeg, parts, poisons, pool, world

DIGITS = digits()
BATCHES = parts(DIGITS, np.random.default_rng(5).permutation(len(DIGITS.labels)), 149)
LIMITS = BatchLimits()
ROWS = [
    "image kind",
    "new classes",
    "known classes",
    "class shares",
    "pixel statistics",
    "labels",
    "test images",
    "repeated images",
]
FOUND_BY = {
    "labels permuted": "labels",
    "20 % of the labels wrong": "labels",
    "labels shifted by one": "labels",
    "one class only": "class shares",
    "images inverted": "pixel statistics",
    "5 % are test images": "test images",
    "5 % are test images as JPEG": "test images",
    "an earlier batch again": "repeated images",
    "images of another size": "image kind",
}


@pytest.fixture(scope="module")
def here() -> World:
    return world(BATCHES[:10])


def new(batch: Split = BATCHES[10], classes: tuple[str, ...] = CLASSES) -> NewBatch:
    return NewBatch("monday", *batch, classes)


def champion_of(here: World, images: Bytes) -> Champion:
    assert here.predict
    assert here.tests
    return Champion(
        "champion v3", here.predict(images), here.predict(here.tests.images), here.tests.labels.copy(), CLASSES
    )


def rows(batch: NewBatch, earlier: Earlier, champion: Champion | None = None) -> dict[str, Check]:
    checks, _ = check_batch(batch, earlier, champion, LIMITS)
    return {check.name: check for check in checks}


def noise(images: int, shape: tuple[int, ...] = (6, 6), seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (images, *shape), np.uint8)


def earlier(
    images: Bytes, labels: Any, batch: Any = None, tests: int = 0, classes: tuple[str, ...] = CLASSES
) -> Earlier:
    numbers = np.zeros(len(images), int) if batch is None else np.asarray(batch)
    return Earlier(images, np.asarray(labels), numbers, images[:tests], classes)


def test_a_healthy_batch_passes_every_row(here: World) -> None:
    checks, shown = check_batch(new(), here.earlier, champion_of(here, BATCHES[10].images), LIMITS)
    assert [check.name for check in checks] == ROWS
    assert [check.name for check in checks if not check.passed] == []
    assert shown == {}


def test_healthy_batches_of_the_digits_are_not_refused() -> None:
    """Every batch after the first one in two orders; the rates of 550 are in tests/operating/batches.json."""
    refused = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(DIGITS.labels))
        batches = parts(DIGITS, order, 149)
        for place in range(1, len(batches)):
            refused += failed(world(batches[:place], champion=False), batches[place])
    assert len(refused) <= 1


@pytest.mark.parametrize("poison", FOUND_BY)
def test_a_poison_is_found_by_its_row(here: World, poison: str) -> None:
    bad = dict(poisons(BATCHES[10], here, pool(BATCHES[10:]), np.random.default_rng(0)))[poison]
    assert FOUND_BY[poison] in failed(here, bad)


def test_images_of_another_size_are_told_alone() -> None:
    batch = new(Split(noise(40, (8, 6)), np.zeros(40, np.uint8)))
    (check,), shown = check_batch(batch, earlier(noise(9), np.zeros(9, int)), None, LIMITS)
    assert (check.name, check.passed) == ("image kind", False)
    assert check.sentence == "8 × 6 pixels, but 6 × 6 pixels in the earlier batches"
    assert list(shown["image kind"]) == list(range(SHOWN))


@pytest.mark.parametrize(
    ("images", "labels", "classes"),
    [
        (noise(0), np.zeros(0, int), CLASSES),
        (noise(3), np.zeros(2, int), CLASSES),
        (noise(3), np.array([0, 1, 10]), CLASSES),
        (noise(3), np.array([0, 1, -1]), CLASSES),
        (noise(3), np.array([0, 1, np.nan]), CLASSES),
        (noise(3).astype(np.float32), np.zeros(3, int), CLASSES),
        (noise(3)[0], np.zeros(6, int), CLASSES),
        (noise(3), np.zeros(3, int), ("a", "a")),
        (noise(3), np.zeros(3, int), ()),
    ],
)
def test_what_is_no_batch_fails(images: Any, labels: Any, classes: tuple[str, ...]) -> None:
    known = earlier(noise(9), np.zeros(9, int))
    ((check,), _) = check_batch(NewBatch("monday", images, labels, classes), known, None, LIMITS)
    assert not check.passed
    broken = Earlier(images, labels, np.zeros(len(labels), int), images, classes)
    ((check,), _) = check_batch(new(Split(noise(9), np.zeros(9, np.uint8))), broken, None, LIMITS)
    assert not check.passed


def test_earlier_images_need_their_batches_and_test_images_of_their_size() -> None:
    batch, known = new(Split(noise(9), np.zeros(9, np.uint8))), earlier(noise(9), np.zeros(9, int))
    for broken in (replace(known, batch=np.zeros(8, int)), replace(known, test_images=noise(2, (5, 5)))):
        assert not rows(batch, broken)["image kind"].passed


@pytest.mark.parametrize(
    "change",
    [
        lambda each: replace(each, predicted=np.where(np.arange(10) == 3, np.nan, each.predicted)),
        lambda each: replace(each, test_predicted=each.test_predicted * np.nan),
        lambda each: replace(each, predicted=each.predicted[1:]),
        lambda each: replace(each, predicted=each.predicted[:, 1:]),
        lambda each: replace(each, predicted=each.predicted * 3),
        lambda each: replace(each, predicted=each.predicted - 1),
        lambda each: replace(each, test_predicted=each.test_predicted[:0], test_labels=each.test_labels[:0]),
        lambda each: replace(each, test_labels=each.test_labels + 1),
        lambda each: replace(each, test_labels=each.test_labels[1:]),
    ],
)
def test_predictions_that_are_none_fail_the_labels(here: World, change: Callable[[Champion], Champion]) -> None:
    champion = change(champion_of(here, BATCHES[10].images))
    checks = rows(new(), here.earlier, champion)
    assert [name for name, check in checks.items() if not check.passed] == ["labels"]


def test_a_class_that_no_batch_had_is_named_and_its_images_are_shown() -> None:
    labels = np.arange(60) % 3
    known = earlier(noise(60), labels, classes=("a", "b", "c", "x"))
    batch = new(Split(noise(30, seed=1), np.arange(30) % 4), ("c", "x", "b", "a"))
    checks, shown = check_batch(batch, known, None, LIMITS)
    check = checks[1]
    assert (check.name, check.value, check.passed, check.loss) == ("new classes", -1, False, True)
    assert check.sentence == "no earlier batch has x (8 images)"
    assert list(shown["new classes"]) == list(range(1, 30, 4))
    allowed, shown = check_batch(batch, known, None, BatchLimits(max_new_classes=1))
    assert all(each.passed for each in allowed)
    assert not shown


def test_classes_are_compared_by_name() -> None:
    labels = np.repeat(np.arange(2), (180, 20))
    known = earlier(noise(200), labels, classes=("common", "rare"))
    batch = Split(noise(100, seed=1), np.repeat(np.arange(2), (10, 90)))
    assert rows(new(batch, ("rare", "common")), known)["class shares"].passed
    assert not rows(new(batch, ("common", "rare")), known)["class shares"].passed


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_the_probability_of_no_image_is_hypergeometric(images: int, everything: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, everything))
    expected = hypergeom.pmf(0, images + everything, count, images)
    assert _none_of(count, images, everything) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_small_batch_may_lack_a_rare_class_and_a_large_one_may_not() -> None:
    labels = np.repeat(np.arange(2), (1900, 100))
    known = earlier(noise(2000), labels)
    small, large = (new(Split(noise(n, seed=1), np.zeros(n, np.uint8))) for n in (30, 300))
    assert rows(small, known)["known classes"].passed
    check = rows(large, known)["known classes"]
    assert not check.passed
    assert check.sentence.startswith("class 1 has no image where 15.0 are expected, p = ")


def test_a_class_that_comes_in_bursts_may_be_missing() -> None:
    """Half of the batches have none of it; in the others every fifth image is one."""
    batch = np.repeat(np.arange(10), 100)
    steady, bursts = np.arange(1000) % 10 == 0, (batch % 2 == 1) & (np.arange(1000) % 5 == 0)
    without = new(Split(noise(100, seed=1), np.zeros(100, np.uint8)))
    assert not rows(without, earlier(noise(1000), steady.astype(int), batch))["known classes"].passed
    assert rows(without, earlier(noise(1000), bursts.astype(int), batch))["known classes"].passed


def test_chi_squared_is_the_textbooks() -> None:
    table = np.array([[30, 50, 40, 20], [200, 260, 180, 150]], float)
    expected = chi2_contingency(table, correction=False)
    assert _cells(table[0], table[1]).sum() == pytest.approx(expected.statistic)
    assert _chi_squared_p(expected.statistic, table[0], table[1], 0) == pytest.approx(expected.pvalue, rel=0.1)
    with_dispersion = _chi_squared_p(expected.statistic / 2, table[0], table[1], 6)
    assert with_dispersion == pytest.approx(f.sf(expected.statistic / 2 / 3, 3, 6), rel=0.05)
    assert 0 < _chi_squared_p(90, table[0], table[1], 0) < 1e-15


def test_shares_of_few_images_keep_their_rate() -> None:
    """A class of 1 % in batches of 50, where the asymptotic distribution refuses 1 in 100 instead of 1,000."""
    random, shares = np.random.default_rng(0), [0.01, 0.99]
    some, others = random.multinomial(50, shares, 20_000), random.multinomial(1000, shares, 20_000)
    tables, times = np.unique(np.hstack([some, others])[:, [0, 2]], axis=0, return_counts=True)
    refused = 0
    for (rare, before), number in zip(tables, times, strict=True):
        new, earlier = np.array([rare, 50 - rare], float), np.array([before, 1000 - before], float)
        statistic = _cells(new, earlier).sum()
        if statistic > 8:  # p is above 0.001 below, and most tables are
            refused += number * (_chi_squared_p(float(statistic), new, earlier, 0) < LIMITS.min_p_shares)
    assert refused / 20_000 <= 0.0015


def test_dispersion_is_that_of_the_earlier_batches_and_weighs_more_in_a_larger_batch() -> None:
    table = np.array([[50, 50], [70, 30], [30, 70]], float)
    ratios = _cells(table, table.sum(axis=0) - table).sum(axis=1)
    assert _dispersion(ratios, table, 100) == pytest.approx(1 + (ratios.mean() - 1) * 75 / (200 / 3))
    assert _dispersion(ratios, table, 10_000) > 3 * _dispersion(ratios, table, 100)
    assert _dispersion(ratios * 0, table, 100) == 1
    assert _dispersion(ratios[:1], table[:1], 100) == 1


def test_days_that_differ_are_not_refused_for_it() -> None:
    """Shares of 30 to 70 % among the earlier batches: 35 % is nothing new, though chance would not have it."""
    batch = np.repeat(np.arange(5), 200)
    labels = np.concatenate([np.arange(200) >= zeros for zeros in (60, 80, 100, 120, 140)]).astype(int)
    day = new(Split(noise(200, seed=1), (np.arange(200) >= 70).astype(np.uint8)))
    assert rows(day, earlier(noise(1000), labels, batch))["class shares"].passed
    assert not rows(day, earlier(noise(1000), labels))["class shares"].passed


def test_brightness_that_differs_by_day_is_not_refused() -> None:
    random = np.random.default_rng(0)
    days = [random.normal(120 + shift, 5, (200, 6, 6)).clip(0, 255).astype(np.uint8) for shift in (0, 2, -2, 3, -3, 2)]
    known = np.concatenate(days[:5])
    batch, day = np.repeat(np.arange(5), 200), new(Split(days[5], np.zeros(200, np.uint8)))
    assert rows(day, earlier(known, np.zeros(1000, int), batch))["pixel statistics"].passed
    check = rows(day, earlier(known, np.zeros(1000, int)))["pixel statistics"]
    assert not check.passed
    assert check.sentence.startswith("brightness differs most: median 121.")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_without_weights_the_distance_is_smirnovs(some: list[int], others: list[int]) -> None:
    squared, size = _smirnov(
        np.array(some, float), np.zeros(len(some), int), np.array(others, float), np.zeros(len(others), int)
    )
    assert size == pytest.approx(len(some) * len(others) / (len(some) + len(others)))
    distance = max(abs(np.mean(np.array(some) <= at) - np.mean(np.array(others) <= at)) for at in range(10))
    assert squared == pytest.approx(distance**2 * size, abs=1e-12)


def test_the_tail_is_kolmogorovs_beside_one_batch_and_nearly_beside_very_many() -> None:
    assert _smirnov_p(1.95**2, 1, 1) == pytest.approx(kstwobign.sf(1.95), rel=1e-6)
    assert _smirnov_p(1.95**2, 1, 10**6) == pytest.approx(kstwobign.sf(1.95), rel=0.05)
    assert _smirnov_p(1.95**2, 1, 2) > 0.05
    assert _smirnov_p(0, 1, 1) == _smirnov_p(0, 3, 5) == 1


@pytest.mark.parametrize("batches", [2, 5, 30])
def test_the_more_the_batches_differ_the_stranger_one_must_be(batches: int) -> None:
    ps = [_smirnov_p(4.0, dispersion, batches) for dispersion in (1, 1.5, 3, 10, 100)]
    assert ps == sorted(ps)
    assert _smirnov_p(4.0 * 1e6, 1e6, batches) == pytest.approx(f.sf(4.0 / (np.pi**2 / 12), 1, batches - 1), rel=1e-3)


def test_images_of_one_class_have_usual_pixels() -> None:
    """Bright zeros and dark ones: the class shares tell it, the pixels of each class are as ever."""
    random = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    images = random.normal(np.where(labels, 60, 160)[:, None, None], 20, (1000, 6, 6)).clip(0, 255).astype(np.uint8)
    ones = random.normal(60, 20, (300, 6, 6)).clip(0, 255).astype(np.uint8)
    checks = rows(new(Split(ones, np.ones(300, np.uint8))), earlier(images, labels))
    assert [name for name, check in checks.items() if not check.passed] == ["known classes", "class shares"]


def test_copies_within_the_batch_count_once_in_its_pixels() -> None:
    images = noise(400)
    bright = (noise(1, seed=1) // 2) + 127
    copies = new(Split(np.concatenate([np.repeat(bright, 300, axis=0), noise(20, seed=2)]), np.zeros(320, np.uint8)))
    assert rows(copies, earlier(images, np.zeros(400, int)))["pixel statistics"].passed


def test_labels_are_judged_by_fishers_exact_test_and_the_surest_are_shown_first(here: World) -> None:
    champion = champion_of(here, BATCHES[10].images)
    labels = BATCHES[10].labels.copy()
    labels[:30] = (labels[:30] + 1) % 10
    checks, shown = check_batch(new(Split(BATCHES[10].images, labels)), here.earlier, champion, LIMITS)
    (check,) = (check for check in checks if check.name == "labels")
    sure, before = (each.max(axis=1) >= 0.95 for each in (champion.predicted, champion.test_predicted))
    wrong = sure & (champion.predicted.argmax(axis=1) != labels)
    wrong_before = before & (champion.test_predicted.argmax(axis=1) != champion.test_labels)
    counts = [[wrong.sum(), (sure & ~wrong).sum()], [wrong_before.sum(), (before & ~wrong_before).sum()]]
    table = np.array(counts, np.int64)
    assert check.value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
    assert not check.passed
    assert set(shown["labels"]) <= set(np.flatnonzero(wrong))
    assert (np.diff(champion.predicted.max(axis=1)[shown["labels"]]) <= 0).all()


def test_a_class_that_the_champion_does_not_know_does_not_contradict_it(here: World) -> None:
    batch = NewBatch("monday", *BATCHES[10], tuple("abcdefghij"))
    champion = champion_of(here, BATCHES[10].images)
    check = rows(batch, here.earlier, champion)["labels"]
    assert check.passed
    assert "contradicts 0 of the 0 labels" in check.sentence


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each,
        lambda each: (each.astype(int) + 1).clip(0, 255).astype(np.uint8),
        lambda each: (each * 0.8).astype(np.uint8),
        jpeg,
        lambda each: np.where(np.arange(28 * 28).reshape(28, 28) == 400, each ^ 64, each),
    ],
    ids=["exact", "one level brighter", "less contrast", "jpeg", "one pixel"],
)
def test_test_images_are_found_again(here: World, change: Callable[[Bytes], Bytes]) -> None:
    assert here.tests
    images = BATCHES[10].images.copy()
    images[7:17] = change(here.tests.images[:10])
    checks, shown = check_batch(new(Split(images, BATCHES[10].labels)), here.earlier, None, LIMITS)
    check = next(check for check in checks if check.name == "test images")
    assert check.value == pytest.approx(-10 / 149, abs=1.01 / 149)
    assert len(set(shown["test images"]) & set(range(7, 17))) >= 9


def test_pictures_of_one_scene_are_not_taken_for_its_test_images() -> None:
    scene = noise(1, (20, 20)).astype(int)
    pictures = (scene + np.random.default_rng(1).integers(-8, 9, (700, 20, 20))).clip(0, 255).astype(np.uint8)
    known = earlier(pictures[:600], np.zeros(600, int), tests=100)
    assert _nearest(pictures[600:], known.test_images).min() > 0.99
    assert rows(new(Split(pictures[600:], np.zeros(100, np.uint8))), known)["test images"].passed
    again = pictures[600:].copy()
    again[:20] = pictures[:20] ^ 1
    assert not rows(new(Split(again, np.zeros(100, np.uint8))), known)["test images"].passed


def test_a_sample_stands_for_a_large_batch() -> None:
    images, known = noise(COMPARED * 2, seed=1), earlier(noise(300), np.zeros(300, int), tests=100)
    images[::5] = known.test_images[np.arange(len(images[::5])) % 100] ^ 1
    check = rows(new(Split(images, np.zeros(len(images), np.uint8))), known)["test images"]
    assert check.value == pytest.approx(-0.2, abs=0.03)


def test_the_nearest_of_many_is_found_whatever_their_size_and_colour() -> None:
    others = noise(AT_ONCE + 3, (9, 33, 3))
    nearest = _nearest(others[[5, AT_ONCE + 2]], others)
    assert nearest == pytest.approx([1, 1], abs=1e-5)
    assert _nearest(np.full((1, 9, 33, 3), 7, np.uint8), others) == pytest.approx([0], abs=1e-5)


def test_repeated_images_name_the_batch_they_are_of(here: World) -> None:
    images, known = BATCHES[10].images.copy(), replace(here.earlier, names=tuple(f"day-{n}" for n in range(10)))
    images[3:9] = BATCHES[4].images[:6]
    images[20] = BATCHES[1].images[0]
    checks, shown = check_batch(new(Split(images, BATCHES[10].labels)), known, None, LIMITS)
    check = next(check for check in checks if check.name == "repeated images")
    assert check.value == pytest.approx(-7 / 149)
    assert check.sentence == "7 images of 149 in an earlier batch, most in batch day-4"
    assert list(shown["repeated images"]) == [3, 4, 5, 6, 7, 8, 20]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_the_order_of_the_images_does_not_matter(seed: int, images: int, batches: int) -> None:
    random = np.random.default_rng(seed)
    known = earlier(noise(80, seed=seed), random.integers(0, 5, 80), random.integers(0, batches, 80), tests=9)
    batch = Split(noise(images, seed=seed + 1), random.integers(0, 7, images))
    mixed, others = random.permutation(images), random.permutation(80)
    again = Earlier(known.images[others], known.labels[others], known.batch[others], known.test_images, CLASSES)
    first, second = rows(new(batch), known), rows(new(Split(batch.images[mixed], batch.labels[mixed])), again)
    assert first.keys() == second.keys()
    assert [each.value for each in first.values()] == pytest.approx([each.value for each in second.values()])
