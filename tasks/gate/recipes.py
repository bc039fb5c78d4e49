"""Two recipes on the same test images, each trained with one seed or several: is the candidate's worse?

Multi-reader multi-case (MRMC) analysis: seeds are the readers, images the cases. The images are paired, as all models
answer the same ones; the seeds of two recipes are not. A difference of mean accuracies then has a variance from seeds,
σ² (1/K + 1/J) for K and J seeds, and one from images, of what the recipes differ in beyond their seeds:

- the two sources of variance and their estimates: Gallas, and Gallas et al. (one shot), here for binary scores, where
  they are those of a two-way analysis of variance (Dorfman, Berbaum and Metz; Obuchowski and Rockette);
- one σ² for both recipes, pooled over K + J - 2 degrees of freedom, as these models have it: it lets a recipe with one
  seed be compared at all;
- the degrees of freedom of the sum, by Satterthwaite's formula: Hillis. Those of the images are taken as infinite.

A verdict looks at the evidence up to three times, with 1, 3 and 5 seeds (`LOOKS`). At an early look it ends if the
interval, at the alphas of `ALPHA`, leaves out the limit. At the last look the estimate decides: a loss of 0 and one of
twice the limit are then judged wrongly equally often. How often, all looks together: tests/operating/looks.py, which
chose the alphas.

Sources: D. D. Dorfman, K. S. Berbaum, C. E. Metz (1992), Receiver operating characteristic rating analysis:
generalization to the population of readers and patients with the jackknife method, Investigative Radiology 27:723-731.
N. A. Obuchowski, H. E. Rockette (1995), Hypothesis testing of diagnostic accuracy for multiple readers and multiple
tests: an ANOVA approach with dependent observations, Communications in Statistics - Simulation and Computation
24:285-308. B. D. Gallas (2006), One-shot estimate of MRMC variance: AUC, Academic Radiology 13:353-362. B. D. Gallas,
A. Bandos, F. W. Samuelson, R. F. Wagner (2009), A framework for random-effects ROC analysis: biases with the bootstrap
and other variance estimators, Communications in Statistics - Theory and Methods 38:2586-2603. S. L. Hillis (2007), A
comparison of denominator degrees of freedom methods for multiple observer ROC analysis, Statistics in Medicine
26:596-619. C. Jennison, B. W. Turnbull (2000), Group sequential methods with applications to clinical trials.

Pure NumPy and SciPy; called by `tasks.gate.checks` and `flows.seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Right = NDArray[np.bool_]

# How many seeds of the candidate are trained at each look.
LOOKS = (1, 3, 5)

# The two errors that an early look may make where the true loss is at the limit, by its number of seeds.
ALPHA: dict[int, dict[str, float]] = {
    1: {"publish": 0.15, "reject": 0.02},
    3: {"publish": 0.20, "reject": 0.10},
}

# One seed against one says nothing of how far seeds differ. What is assumed: the variance between seeds is this times
# the variance of one seed's answer to one image. No recipe with seeds in tests/operating reaches it; the digits come
# closest, with 0.0032. It counts as much as a baseline of five seeds.
SEEDS_TO_ANSWERS = 0.004
PRIOR_DEGREES = 4

# The reference is pinned for years: its own luck counts in every verdict, so it has more seeds than a champion. After a
# rejection the limit against it is this share of the limit, until something is published (tests/operating/lives.py).
REFERENCE_SEEDS = 20
TIGHTENED = 1 / 3

Step = Literal["publish", "reject", "more"]


@dataclass(frozen=True)
class RecipeComparison:
    """How much accuracy the candidate's recipe loses to the baseline's: the mean over its seeds minus the candidate's.

    Attributes:
        loss: The estimate, in [-1, 1]; negative for a gain.
        seed_variance: Of the accuracy of one seed; that of `loss` is it times (1/K + 1/J).
        image_variance: Of `loss`, from the choice of images.
        degrees_of_freedom: Of the variance of `loss`.
        candidate_seeds: K, at least 1.
        baseline_seeds: J, at least 1.
        images: Test images, at least 2.
    """

    loss: float
    seed_variance: float
    image_variance: float
    degrees_of_freedom: float
    candidate_seeds: int
    baseline_seeds: int
    images: int

    @property
    def standard_error(self) -> float:
        """Of the loss; above 0."""
        seeds = 1 / self.candidate_seeds + 1 / self.baseline_seeds
        return math.sqrt(self.seed_variance * seeds + self.image_variance)

    def lower(self, alpha: float) -> float:
        """The loss that the true one exceeds with confidence 1 - alpha; in [-1, 1]."""
        return max(-1.0, self.loss - self._reach(alpha))

    def upper(self, alpha: float) -> float:
        """The loss that the true one is below with confidence 1 - alpha; in [-1, 1]."""
        return min(1.0, self.loss + self._reach(alpha))

    def _reach(self, alpha: float) -> float:
        return float(quantile(alpha, np.float64(self.degrees_of_freedom))) * self.standard_error


def compare_recipes(candidate: Right, baseline: Right) -> RecipeComparison:
    """Compare two recipes.

    Args:
        candidate: Which test images the model of each seed gets right, bool (K, n).
        baseline: The same of the baseline, bool (J, n): the same images in the same order.

    Neither the order of the seeds nor that of the images matters. No seed variance is below that of one image, 1 / n²:
    seeds that never differ are no proof of certainty.

    Raises:
        ValueError: Not boolean, not two-dimensional, other images, no seed, or fewer than two images.
    """
    for right in (candidate, baseline):
        if right.dtype != np.bool_ or right.ndim != 2 or right.shape[0] < 1 or right.shape[1] < 2:
            raise ValueError(f"not the right answers of seeds to at least two images: {right.dtype} {right.shape}")
    if candidate.shape[1] != baseline.shape[1]:
        raise ValueError(f"not the same images: {candidate.shape[1]} and {baseline.shape[1]}")
    ours, theirs = candidate.sum(axis=0).astype(float), baseline.sum(axis=0).astype(float)
    found = components(_sums(candidate), _sums(baseline), ours @ theirs, candidate.shape[1])
    return RecipeComparison(
        loss=float(found.loss),
        seed_variance=float(found.seed_variance),
        image_variance=float(found.image_variance),
        degrees_of_freedom=float(found.degrees_of_freedom),
        candidate_seeds=len(candidate),
        baseline_seeds=len(baseline),
        images=candidate.shape[1],
    )


class Sums(NamedTuple):
    """What the comparison needs of a recipe: its number of seeds, and sums of right answers.

    `right` is over all seeds and images, `seeds` the sum over seeds of the square of a seed's, `images` the sum over
    images of the square of an image's. Numbers, or arrays of one shape.
    """

    number: int
    right: Floats | np.float64
    seeds: Floats | np.float64
    images: Floats | np.float64


def _sums(right: Right) -> Sums:
    by_seed, by_image = right.sum(axis=1).astype(float), right.sum(axis=0).astype(float)
    return Sums(len(right), by_seed.sum(), (by_seed**2).sum(), (by_image**2).sum())


class Components(NamedTuple):
    """The first fields of `RecipeComparison`: numbers, or arrays of one shape."""

    loss: Floats | np.float64
    seed_variance: Floats | np.float64
    image_variance: Floats | np.float64
    degrees_of_freedom: Floats | np.float64


def components(candidate: Sums, baseline: Sums, both: Floats | np.float64, n: int) -> Components:
    """The estimates, for one comparison or for arrays of them.

    Args:
        candidate: The candidate's sums.
        baseline: The baseline's.
        both: The sum over images of the product of both recipes' right answers.
        n: The number of images.

    Mean squares of a two-way analysis of variance (seeds, images) give the variance between seeds and that of one
    answer. The images' variance of the mean difference includes that of the answers, which is taken off: the seeds'
    variance has it already. What remains is at least 0.
    """
    recipes, k, j = (candidate, baseline), candidate.number, baseline.number
    degrees, weight = k + j - 2, 1 / k + 1 / j
    loss = baseline.right / (j * n) - candidate.right / (k * n)
    squares = candidate.images / k**2 + baseline.images / j**2 - 2 * both / (k * j)
    images = np.maximum(squares - n * loss**2, 0) / (n - 1) / n
    if degrees:
        between = sum(each.seeds / n**2 - each.right**2 / (each.number * n**2) for each in recipes)
        answers = sum(
            each.right - each.seeds / n - each.images / each.number + each.right**2 / (each.number * n)
            for each in recipes
        )
        seed_variance = between / degrees
        images = np.maximum(images - answers / (degrees * (n - 1) * n) * weight, 0)
    else:
        degrees, seed_variance = PRIOR_DEGREES, SEEDS_TO_ANSWERS * images * n / weight
    seed_variance = np.maximum(seed_variance, 1 / n**2)
    from_seeds = seed_variance * weight
    return Components(loss, seed_variance, images, degrees * ((from_seeds + images) / from_seeds) ** 2)


def quantile(alpha: float, degrees: Floats | np.float64) -> Floats:
    """Student's t, the value that is exceeded with probability alpha.

    Raises:
        ValueError: No probability of at least 1e-9 and at most 1/2.
    """
    from scipy.special import stdtrit

    if not 1e-9 <= alpha <= 0.5:
        raise ValueError(f"no alpha: {alpha}")
    result: Floats = -stdtrit(np.minimum(degrees, 1e9), alpha)
    return result


def loss_step(comparison: RecipeComparison, limit: float, seeds_left: bool) -> Step:
    """What a row of loss says at one look: the loss is within the limit, above it, or not known well enough.

    Args:
        comparison: With as many seeds of the candidate as were trained so far.
        limit: The largest loss: `max_regression`, or `reference_limit`.
        seeds_left: Whether more seeds may be trained. If not, the estimate decides, and the step is never "more".
    """
    if not seeds_left:
        return "publish" if comparison.loss <= limit else "reject"
    alpha = _alphas(comparison)
    if comparison.upper(alpha["publish"]) <= limit:
        return "publish"
    return "reject" if comparison.lower(alpha["reject"]) > limit else "more"


def next_look(losses: Iterable[Step], rows_pass: bool, seeds_left: bool) -> Step:
    """What a verdict does after a look.

    Args:
        losses: What each row of loss says (champion, reference); none before the first champion.
        rows_pass: Whether all other rows pass, judged on the model that would be published, the median seed's.
        seeds_left: As for `loss_step`.

    One row that rejects is enough. A median model that misses another row is no reason to reject while seeds are left:
    the median of more seeds is judged then.
    """
    steps = set(losses)
    if "reject" in steps:
        return "reject"
    if rows_pass and steps <= {"publish"}:
        return "publish"
    return "more" if seeds_left else "reject"


def stages(seeds: str) -> tuple[int, ...]:
    """The numbers of seeds after which a verdict looks, by the setting: "1..5" gives (1, 3, 5), "7" gives (7,)."""
    first, _, last = seeds.partition("..")
    return tuple(look for look in LOOKS if int(first) <= look <= int(last)) if last else (int(first),)


def deciding_loss(comparison: RecipeComparison, limit: float, seeds_left: bool) -> tuple[float, str]:
    """The loss that `loss_step` compares with the limit, and which one it is; "" for the estimate.

    An early step is decided by the end of the interval; the last one, and a look that says "more", by the estimate.
    """
    step = loss_step(comparison, limit, seeds_left)
    if not seeds_left or step == "more":
        return comparison.loss, ""
    alpha = _alphas(comparison)[step]
    bound, end = (comparison.upper, "at most") if step == "publish" else (comparison.lower, "at least")
    return bound(alpha), f"a loss of {end} {bound(alpha):.4f} with {100 * (1 - alpha):.0f} % confidence"


def _alphas(comparison: RecipeComparison) -> dict[str, float]:
    return ALPHA[max(look for look in ALPHA if look <= comparison.candidate_seeds)]


def reference_limit(limit: float, retries: int) -> float:
    """The limit of the loss to the pinned reference: tightened after a rejection, until something is published.

    Args:
        limit: `max_regression`.
        retries: How many verdicts on this test set have rejected since the last one that published.

    Whoever retrains a bad recipe week after week looks at one test set again and again, and would pass once by luck. So
    the error of publishing it is spent over the life of the reference: e₀ by the first verdict after a publication, and
    a much smaller e₁ by each of the r retries, e₀ + r e₁ in all. For loss d and normal means, e₀ = Φ((limit - d) / s)
    and e₁ = Φ((limit · TIGHTENED - d) / s), with s = σ √(1/5 + 1/REFERENCE_SEEDS). Acceptance sampling calls it
    tightened inspection (ISO 2859-1, switching rules).

    Raises:
        ValueError: Fewer than no retries.
    """
    if retries < 0:
        raise ValueError(f"fewer than no retries: {retries}")
    return limit if not retries else TIGHTENED * limit
