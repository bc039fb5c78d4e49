"""The rows of a new batch of a source that grows, before a model learns from it: is it like the earlier ones?

Pure, and fails closed: whatever is missing, inconsistent or not a number fails its row. Each p-value is the probability
that a healthy batch looks at least as strange, so a limit of 0.001 refuses one healthy batch in a thousand. Real days
differ by more than chance: where the earlier batches differ among themselves, each compared with all the others, the
statistic of the new one is divided by their dispersion, which is never below 1, and its distribution has the degrees of
freedom of that estimate. A single earlier batch shows no dispersion. How often healthy batches fail, and what is found:
tests/operating/batches.py. Imports neither registry nor store.

Sources: P. McCullagh and J. A. Nelder (1989), Generalized Linear Models, section 4.5, for the dispersion and its F
test; A. N. Kolmogorov (1933) and N. V. Smirnov (1939) for the largest distance between two distributions; L. Kish
(1965), Survey Sampling, for the effective size of a weighted sample; R. A. Fisher (1934) for the exact test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.arrays import Bytes, Labels, Probabilities
from tasks.data.content import digests
from tasks.gate.checks import UNKNOWN, _check
from tasks.settings import BatchLimits
from tasks.values import Check

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Row = tuple[Check, Indices]

# How many offending images are named.
SHOWN = 30

# From which probability on the champion is sure.
SURE = 0.95

# The correlation of two images from which on they are nearly the same. Of 5,000 images of MNIST and 10,000 others none
# reach 0.988, of the digits one in 1,000 does 0.990; the same image with other brightness or contrast, with noise or as
# JPEG of quality 75 has more than 0.994.
NEAR = 0.99

# Pictures are compared in at most this height and width; so many of the batch and half as many earlier training images
# with all test images, so many of these at once.
SIDE, COMPARED, AT_ONCE = 32, 2000, 4096

# Tables drawn for the distribution of chi-squared, in blocks; batches whose pixels tell the dispersion.
BLOCKS, BLOCK, RECENT = 10, 1000, 30

# Kolmogorov's distribution squared has the mean π² / 12, and beyond one in 1,000 nearly the tail of a chi-squared
# distribution with four degrees of freedom and that mean.
KOLMOGOROV_MEAN, KOLMOGOROV_DEGREES = math.pi**2 / 12, 4

PAIR = np.dtype([("high", np.uint64), ("low", np.uint64)])


@dataclass(frozen=True)
class NewBatch:
    """All images of a batch, training and test ones: uint8 (n, h, w) or (n, h, w, 3); labels (n,) index `classes`."""

    name: str
    images: Bytes
    labels: Labels
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Earlier:
    """All images of the earlier batches, at least one: uint8 (N, h, w) or (N, h, w, 3); labels (N,) index `classes`.

    `batch` (N,) is the number of each image's batch, which has the name `names[batch]` where names are given;
    `test_images` (m, …) are the test images among them.
    """

    images: Bytes
    labels: Labels
    batch: NDArray[Any]
    test_images: Bytes
    classes: tuple[str, ...]
    names: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Champion:
    """What the champion predicts: probabilities float32 for the new batch (n, k), and for its own test images (m, k).

    `test_labels` (m,) index `classes`, of which there are k.
    """

    name: str
    predicted: Probabilities
    test_predicted: Probabilities
    test_labels: Labels
    classes: tuple[str, ...]


def check_batch(
    new: NewBatch, earlier: Earlier, champion: Champion | None, limits: BatchLimits
) -> tuple[tuple[Check, ...], dict[str, Indices]]:
    """Compare a batch with the earlier ones.

    Returns the rows, and by the name of each failed row the indices of the images that tell it best, at most 30, the
    most telling first. A batch of images of another kind has only the first row. Without a champion there is no row of
    labels.
    """
    problem = _problem(new, earlier)
    if problem:
        check = _check("image kind", 0.0, 1.0, problem)
        return (check,), {check.name: np.arange(min(len(new.images), SHOWN))}
    labels = _labels_among(new, earlier)
    keys, earlier_keys, test_keys = (
        digests(images).view(PAIR).ravel() for images in (new.images, earlier.images, earlier.test_images)
    )
    rows = [
        (_check("image kind", 1.0, 1.0, f"{_shape(new.images)}, as in the earlier batches"), np.arange(0)),
        _new_classes(new, labels, limits.max_new_classes),
        _known_classes(labels, earlier, limits.min_p_classes),
        _class_shares(labels, earlier, limits.min_p_shares),
        _pixel_statistics(new, labels, keys, earlier, earlier_keys, limits.min_p_pixels),
        *([_labels(new, champion, limits.min_p_labels)] if champion else ()),
        _test_images(new, keys, earlier, earlier_keys, test_keys, limits.max_leaked),
        _repeated(keys, earlier, earlier_keys, limits.max_repeated),
    ]
    return tuple(check for check, _ in rows), {check.name: shown[:SHOWN] for check, shown in rows if not check.passed}


def _problem(new: NewBatch, earlier: Earlier) -> str:
    """Why the batch cannot be compared; "" if it can."""
    if not _consistent(earlier.images, earlier.labels, earlier.classes) or (
        earlier.batch.shape != earlier.labels.shape
        or earlier.test_images.dtype != np.uint8
        or (len(earlier.test_images) and earlier.test_images.shape[1:] != earlier.images.shape[1:])
    ):
        return "cannot be compared: the earlier images, labels and batches do not fit together"
    if not _consistent(new.images, new.labels, new.classes):
        return "cannot be compared: it has no images, or its images, labels and classes do not fit together"
    if new.images.shape[1:] != earlier.images.shape[1:]:
        return f"{_shape(new.images)}, but {_shape(earlier.images)} in the earlier batches"
    return ""


def _consistent(images: Bytes, labels: Labels, classes: Sequence[str]) -> bool:
    return (
        images.dtype == np.uint8
        and images.ndim in (3, 4)
        and images.size > 0
        and _are_labels(labels, len(images), len(classes))
        and len(set(classes)) == len(classes)
    )


def _are_labels(labels: Labels, images: int, classes: int) -> bool:
    return (
        labels.shape == (images,)
        and np.issubdtype(labels.dtype, np.integer)
        and images > 0
        and 0 <= int(labels.min()) <= int(labels.max()) < classes
    )


def _shape(images: Bytes) -> str:
    return f"{' × '.join(map(str, images.shape[1:]))} pixels"


def _labels_among(new: NewBatch, earlier: Earlier) -> Indices:
    """The labels of the batch as indices of the earlier classes; -1 for a class that no earlier image has."""
    present = {earlier.classes[label]: int(label) for label in np.unique(earlier.labels)}
    return np.array([present.get(name, -1) for name in new.classes], np.intp)[new.labels]


def _loss(name: str, value: float, limit: float, sentence: str) -> Check:
    """A row of which less is better."""
    return _check(name, 0.0 - value, 0.0 - limit, sentence).model_copy(update={"loss": True})


def _new_classes(new: NewBatch, labels: Indices, limit: int) -> Row:
    unknown = np.flatnonzero(labels < 0)
    counts = np.bincount(new.labels[unknown].astype(np.intp), minlength=len(new.classes))
    names = [f"{new.classes[label]} ({_images(counts[label])})" for label in np.argsort(-counts) if counts[label]]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    sentence = f"no earlier batch has {', '.join(names[:5])}{more}" if names else "every class is known"
    return _loss("new classes", len(names), limit, sentence), unknown


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _known_classes(labels: Indices, earlier: Earlier, limit: float) -> Row:
    """The smallest probability that a class has no image, times the number of classes (Bonferroni).

    Of n + N images c are of the class: the probability that all of these are among the N earlier ones, hypergeometric.
    The dispersion, the larger one of the class and of all classes together, divides c.
    """
    table = _table(earlier)
    counts = table.sum(axis=0)
    known, images, everything = np.flatnonzero(counts), len(labels), int(counts.sum())
    missing = np.setdiff1d(known, labels)
    if not len(missing):
        sentence = f"each of {len(known)} known classes has an image"
        return _check("known classes", 1.0, limit, sentence), np.arange(0)
    cells = _cells(table, counts - table) / (1 - counts / everything).clip(1e-9)
    together = _cells(table, counts - table).sum(axis=1) / max(len(known) - 1, 1)
    spread = [_dispersion(np.maximum(cells[:, label], 0), table, images) for label in missing]
    dispersion = np.maximum(spread, _dispersion(together, table, images))
    probabilities = [_none_of(count, images, everything) for count in counts[missing] / dispersion]
    rarest = int(np.argmin(probabilities))
    p = min(1.0, len(known) * probabilities[rarest])
    expected = counts[missing[rarest]] / everything * images
    others = f" ({len(missing)} classes have none)" if len(missing) > 1 else ""
    name = earlier.classes[missing[rarest]]
    sentence = f"class {name} has no image where {expected:.1f} are expected{others}, p = {p:.2g}"
    return _check("known classes", p, limit, sentence), np.arange(0)


def _none_of(count: float, images: int, everything: int) -> float:
    """The probability that a class with so many images among all has none among the new ones."""
    both = everything + images
    logarithms = math.lgamma(everything + 1), math.lgamma(both - count + 1)
    return math.exp(sum(logarithms) - math.lgamma(everything - count + 1) - math.lgamma(both + 1))


def _table(earlier: Earlier) -> Floats:
    """Images per earlier batch and class."""
    batches, number = np.unique(earlier.batch, return_inverse=True)
    classes = len(earlier.classes)
    counts = np.bincount(number * classes + earlier.labels.astype(np.intp), minlength=len(batches) * classes)
    return counts.reshape(len(batches), classes).astype(np.float64)


def _cells(some: Floats, others: Floats) -> Floats:
    """What each class adds to the chi-squared statistic of two rows of counts, both (…, classes)."""
    n, m = some.sum(axis=-1, keepdims=True).clip(1), others.sum(axis=-1, keepdims=True).clip(1)
    cells: Floats = (some * np.sqrt(m / n) - others * np.sqrt(n / m)) ** 2 / (some + others).clip(1)
    return cells


def _dispersion(ratios: Floats, table: Floats, images: int) -> float:
    """How much more the earlier batches differ than by chance, at least 1, for a batch of so many images.

    `ratios` has of each batch, compared with the others, the statistic divided by its expectation. What is beyond
    chance does not shrink as a batch grows, so it weighs more in a larger one.
    """
    if len(table) < 2:
        return 1.0
    sizes = table.sum(axis=1)
    usual = (sizes * (sizes.sum() - sizes) / sizes.sum()).mean()
    beyond = max(0.0, float(ratios.mean()) - 1)
    return 1 + beyond * max(1.0, float(images * sizes.sum() / (images + sizes.sum()) / usual))


def _class_shares(labels: Indices, earlier: Earlier, limit: float) -> Row:
    """Chi-squared test of homogeneity with the earlier batches, over the classes that they have."""
    table = _table(earlier)
    counts = table.sum(axis=0)
    known = counts > 0
    table, counts = table[:, known], counts[known]
    new = np.bincount(labels[labels >= 0], minlength=len(known))[known].astype(np.float64)
    degrees = len(counts) - 1
    if not degrees or not new.sum():
        return _check("class shares", 1.0, limit, "one class, nothing to compare"), np.arange(0)
    cells = _cells(new, counts)
    dispersion = _dispersion(_cells(table, counts - table).sum(axis=1) / degrees, table, int(new.sum()))
    p = _chi_squared_p(float(cells.sum()) / dispersion, new, counts, (len(table) - 1) * degrees)
    oddest = int(np.argmax(cells))
    label = int(np.flatnonzero(known)[oddest])
    expected = counts[oddest] / counts.sum() * new.sum()
    sentence = (
        f"class {earlier.classes[label]} differs most: {_images(int(new[oddest]))} of {int(new.sum()):,} where "
        f"{expected:.1f} are expected; p = {p:.2g} (chi-squared{_among(dispersion)})"
    )
    more = np.argmax(np.where(new / new.sum() > counts / counts.sum(), cells, -1))
    return _check("class shares", p, limit, sentence), np.flatnonzero(labels == np.flatnonzero(known)[more])


def _among(dispersion: float) -> str:
    return f", dispersion {dispersion:.1f} among the earlier batches" if dispersion > 1 else ""


def _chi_squared_p(statistic: float, new: Floats, counts: Floats, degrees: int) -> float:
    """The p-value of chi-squared, divided by a dispersion with so many degrees of freedom; 0 for one that is known.

    From tables with the same sums, drawn at random, as counts may be too small for the asymptotic distribution; beyond
    all tables from that.
    """
    from scipy.stats import chi2, f

    random, both = np.random.default_rng(0), (new + counts).astype(np.int64)
    reached = 0
    for _ in range(BLOCKS):
        drawn = random.multivariate_hypergeometric(both, int(new.sum()), BLOCK, method="marginals").astype(np.float64)
        divisor = random.chisquare(degrees, BLOCK) / degrees if degrees else 1.0
        reached += int((_cells(drawn, both - drawn).sum(axis=1) / divisor >= statistic * (1 - 1e-9)).sum())
    tables, own = BLOCKS * BLOCK, len(counts) - 1
    if reached:
        return min(1.0, (1 + reached) / tables)
    tail = f.sf(statistic / own, own, degrees) if degrees else chi2.sf(statistic, own)
    return min(1 / tables, float(tail))


def _pixel_statistics(
    new: NewBatch, labels: Indices, keys: NDArray[Any], earlier: Earlier, earlier_keys: NDArray[Any], limit: float
) -> Row:
    """Smirnov's two-sample test of the images' brightness and contrast, twice the smaller p-value.

    Each content counts once. The earlier images are weighted to the class shares of the batch, whose own row tells
    whether these are strange.
    """
    distinct, others = (np.unique(each, return_index=True)[1] for each in (keys, earlier_keys))
    distinct = distinct[labels[distinct] >= 0]
    theirs, batch = earlier.labels[others].astype(np.intp), earlier.batch[others]
    batches = np.unique(batch)[-RECENT:]
    measured, before = _brightness_and_contrast(new.images), _brightness_and_contrast(earlier.images)[others]
    found: list[tuple[float, int, float]] = []
    for number in range(2):
        reference = before[:, number]
        squared, size = _smirnov(measured[distinct, number], labels[distinct], reference, theirs)
        dispersion = 1.0
        if len(batches) > 1:
            each = [(batch == one, batch != one) for one in batches]
            pairs = [_smirnov(reference[one], theirs[one], reference[rest], theirs[rest]) for one, rest in each]
            beyond = max(0.0, float(np.mean([pair[0] for pair in pairs])) / KOLMOGOROV_MEAN - 1)
            dispersion = 1 + beyond * max(1.0, size / max(float(np.mean([pair[1] for pair in pairs])), 1.0))
        found.append((_smirnov_p(squared, dispersion, len(batches)), number, dispersion))
    smallest, number, dispersion = min(found)
    p, name = min(1.0, 2 * smallest), ("brightness", "contrast")[number]
    middle, usual = np.median(measured[:, number]), np.median(before[:, number])
    sentence = (
        f"{name} differs most: median {middle:.1f}, {usual:.1f} in the earlier batches; "
        f"p = {p:.2g} (Kolmogorov-Smirnov{_among(dispersion)})"
    )
    oddest = np.argsort(-np.abs(measured[:, number] - usual), kind="stable")
    return _check("pixel statistics", p, limit, sentence), oddest


def _brightness_and_contrast(images: Bytes) -> Floats:
    """Mean and standard deviation of each image's pixels, (n, 2)."""
    result = np.empty((len(images), 2))
    for start in range(0, len(images), AT_ONCE):
        pixels = images[start : start + AT_ONCE].reshape(len(images[start : start + AT_ONCE]), -1).astype(np.float32)
        result[start : start + AT_ONCE] = np.stack([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)
    return result


def _smirnov(values: Floats, labels: Indices, others: Floats, their_labels: Indices) -> tuple[float, float]:
    """The largest distance of two empirical distributions, squared, times the effective size n m / (n + m); that size.

    The others are weighted to the shares of the labels, with Kish's effective m; values whose label none of the others
    has do not count.
    """
    classes = max(int(labels.max(initial=0)), int(their_labels.max(initial=0))) + 1
    theirs = np.bincount(their_labels, minlength=classes)
    kept = theirs[labels] > 0
    if not kept.any():
        return 0.0, 0.0
    values, labels = values[kept], labels[kept]
    weights = (np.bincount(labels, minlength=classes) / theirs.clip(1))[their_labels]
    n, m = len(values), weights.sum() ** 2 / (weights**2).sum()
    together = np.concatenate([values, others])
    order = np.argsort(together, kind="stable")
    steps = np.cumsum(np.concatenate([np.full(n, 1 / n), -weights / weights.sum()])[order])
    ends = np.append(np.diff(together[order]) > 0, True)  # equal values step at once
    size = n * m / (n + m)
    return float(np.abs(steps[ends]).max() ** 2 * size), float(size)


def _smirnov_p(squared: float, dispersion: float, batches: int) -> float:
    """Kolmogorov's tail, 2 exp(-2 x²); beside several earlier batches the F test.

    What is beyond chance is one number of a batch, such as the lamp of its day, and so one degree of freedom.
    """
    from scipy.stats import f

    if batches < 2:
        return min(1.0, 2 * math.exp(-2 * squared))
    degrees = 1 + (KOLMOGOROV_DEGREES - 1) / dispersion
    return float(f.sf(squared / KOLMOGOROV_MEAN / dispersion, degrees, degrees * (batches - 1)))


def _labels(new: NewBatch, champion: Champion, limit: float) -> Row:
    """Fisher's exact test, one-sided: does the champion contradict these labels more often than its test images'?

    Only where it is sure: images of a new writer may be harder than those before, and are right all the same.
    """
    from scipy.stats import hypergeom

    classes = len(champion.classes)
    if not (
        _are_labels(champion.test_labels, len(champion.test_predicted), classes)
        and _are_probabilities(champion.test_predicted, len(champion.test_labels), classes)
        and _are_probabilities(champion.predicted, len(new.labels), classes)
    ):
        return _check("labels", UNKNOWN, limit, f"cannot be compared: predictions of {champion.name}"), np.arange(0)
    numbers = {name: number for number, name in enumerate(champion.classes)}
    labels = np.array([numbers.get(name, -1) for name in new.classes], np.intp)[new.labels]
    confidence = champion.predicted.max(axis=1)
    sure = (confidence >= SURE) & (labels >= 0)
    wrong = sure & (champion.predicted.argmax(axis=1) != labels)
    before = champion.test_predicted.max(axis=1) >= SURE
    wrong_before = before & (champion.test_predicted.argmax(axis=1) != champion.test_labels)
    a, n, b, m = (int(each.sum()) for each in (wrong, sure, wrong_before, before))
    p = float(hypergeom.sf(a - 1, n + m, a + b, n)) if a else 1.0
    sentence = (
        f"{champion.name} contradicts {a:,} of the {n:,} labels where it is sure, {b:,} of {m:,} of its test images; "
        f"p = {p:.2g} (Fisher)"
    )
    shown = np.flatnonzero(wrong)
    return _check("labels", p, limit, sentence), shown[np.argsort(-confidence[shown], kind="stable")]


def _are_probabilities(array: NDArray[Any], images: int, classes: int) -> bool:
    return (
        array.shape == (images, classes)
        and np.issubdtype(array.dtype, np.floating)
        and bool((array >= 0).all() and (array <= 1.001).all())  # false for NaN
    )


def _test_images(
    new: NewBatch,
    keys: NDArray[Any],
    earlier: Earlier,
    earlier_keys: NDArray[Any],
    test_keys: NDArray[Any],
    limit: float,
) -> Row:
    """The share of images that are test images of earlier batches, pixel for pixel or nearly so.

    Two images are nearly the same if their correlation is at least `NEAR`, and above what all but one in 1,000 earlier
    training images reach: pictures of one scene are all alike. So many as `COMPARED` stand for a larger batch.
    """
    name, random = "test images", np.random.default_rng(0)
    exact = np.isin(keys, test_keys)
    if not len(test_keys):
        return _loss(name, 0.0, limit, "the earlier batches have no test images"), np.arange(0)
    rows = _sample(np.arange(len(keys)), COMPARED, random)
    training = _sample(np.flatnonzero(~np.isin(earlier_keys, test_keys)), COMPARED // 2, random)
    nearest = _nearest(np.concatenate([new.images[rows], earlier.images[training]]), earlier.test_images)
    limit_near = max(NEAR, float(np.quantile(nearest[len(rows) :], 0.999))) if len(training) else NEAR
    likeness = exact.astype(np.float64) + 1  # exact ones first
    likeness[rows] += nearest[: len(rows)]
    near = exact.copy()
    near[rows] |= nearest[: len(rows)] >= limit_near
    share = max(float(exact.mean()), float(near[rows].mean()))
    of = f"of {len(rows):,} compared" if len(rows) < len(keys) else f"of {len(keys):,}"
    nearly = int((near & ~exact).sum())
    sentence = f"{_images(int(exact.sum()))} exactly and {nearly:,} {of} nearly an earlier test image"
    shown = np.flatnonzero(near)
    return _loss(name, share, limit, sentence), shown[np.argsort(-likeness[shown], kind="stable")]


def _sample(rows: Indices, most: int, random: np.random.Generator) -> Indices:
    return rows if len(rows) <= most else np.sort(random.choice(rows, most, replace=False))


def _nearest(images: Bytes, others: Bytes) -> NDArray[np.float32]:
    """The largest correlation of each image with any of the others."""
    ours, largest = _standardized(images), np.full(len(images), -1, np.float32)
    for start in range(0, len(others), AT_ONCE):
        theirs = _standardized(others[start : start + AT_ONCE])
        np.maximum(largest, (ours @ theirs.T).max(axis=1), out=largest)
    return largest


def _standardized(images: Bytes) -> NDArray[np.float32]:
    """Grey thumbnails of mean 0 and length 1, (n, pixels): their products are correlations. 0 for one of one colour."""
    n, height, width = images.shape[:3]
    down, across = -(-height // SIDE), -(-width // SIDE)
    cut = images[:, : height // down * down, : width // across * across]
    blocks = cut.reshape(n, height // down, down, width // across, across, -1)
    rows: NDArray[np.float32] = blocks.mean(axis=(2, 4, 5), dtype=np.float32).reshape(n, -1)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-3)
    return rows


def _repeated(keys: NDArray[Any], earlier: Earlier, earlier_keys: NDArray[Any], limit: float) -> Row:
    """The share of images that an earlier batch has, pixel for pixel."""
    repeated = np.flatnonzero(np.isin(keys, earlier_keys))
    sentence = "no image stands in an earlier batch"
    if len(repeated):
        batches, counts = np.unique(earlier.batch[np.isin(earlier_keys, keys)], return_counts=True)
        most = int(batches[counts.argmax()])
        name = earlier.names[most] if 0 <= most < len(earlier.names) else f"number {most}"
        sentence = f"{_images(len(repeated))} of {len(keys):,} in an earlier batch, most in batch {name}"
    return _loss("repeated images", len(repeated) / len(keys), limit, sentence), repeated
