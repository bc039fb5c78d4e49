from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest

from tasks.gate.intervals import ONE_SIDED, TWO_SIDED
from tasks.gate.paired import Counts, count, loss_bounds, lower_bound, mcnemar, score


@st.composite
def counts(draw: st.DrawFn, most: int = 20_000) -> Counts:
    images = draw(st.integers(1, most))
    b = draw(st.integers(0, images))
    return Counts(b, draw(st.integers(0, images - b)), images)


def low(b: int, c: int, n: int) -> float:
    return loss_bounds(Counts(b, c, n), ONE_SIDED)[0]


# The examples of T. Tango (1998), of Agresti and Min (2005, Statistics in Medicine 24:729-740), and of Fagerland,
# Lydersen and Laake (2014, Statistics in Medicine 33:2850-2875: airway reactivity, complete response), 95 % or 90 %.
@pytest.mark.parametrize(
    ("observed", "z", "low", "high", "places"),
    [
        (Counts(9, 3, 32), TWO_SIDED, -0.027, 0.390, 3),
        (Counts(0, 1, 44), ONE_SIDED, -0.096, 0.037, 3),
        (Counts(16, 8, 86), TWO_SIDED, -0.020, 0.207, 3),
        (Counts(1, 7, 21), TWO_SIDED, -0.517, -0.026, 3),
        (Counts(6, 16, 161), TWO_SIDED, -0.1240, -0.0054, 4),
    ],
)
def test_the_published_examples(observed: Counts, z: float, low: float, high: float, places: int) -> None:
    assert loss_bounds(observed, z) == pytest.approx((low, high), abs=0.51 * 10**-places)


# Airway reactivity and complete response again: the exact conditional McNemar test.
@pytest.mark.parametrize(("observed", "p"), [(Counts(1, 7, 21), 0.0703), (Counts(6, 16, 161), 0.052479)])
def test_the_published_p_values(observed: Counts, p: float) -> None:
    assert mcnemar(observed) == pytest.approx(p, abs=5e-5)


def by_brute_force(observed: Counts, loss: float) -> float:
    """The statistic from its definition: the likelihood maximised numerically, then the multinomial's variance."""
    b, c, n = observed.only_champion, observed.only_candidate, observed.images

    def unlikely(q: float) -> float:
        terms = ((b, q + loss), (c, q), (n - b - c, 1 - 2 * q - loss))
        return -sum(number * math.log(max(p, 1e-300)) for number, p in terms if number)

    q = minimize_scalar(
        unlikely, bounds=(max(0.0, -loss), (1 - loss) / 2), method="bounded", options={"xatol": 1e-12}
    ).x
    return float((b - c - n * loss) / math.sqrt(n * (2 * q + loss - loss * loss)))


@settings(deadline=None)  # a search inside a search: slow where the machine has other work
@given(counts(500).filter(lambda observed: observed.only_champion > 0 and observed.only_candidate > 0))
def test_the_bounds_invert_the_score_test_done_by_brute_force(observed: Counts) -> None:
    if observed.only_champion + observed.only_candidate == observed.images:
        return
    lower, upper = loss_bounds(observed, ONE_SIDED)
    assert lower == pytest.approx(
        brentq(lambda x: by_brute_force(observed, x) - ONE_SIDED, -0.9999, observed.loss), abs=1e-5
    )
    assert upper == pytest.approx(
        brentq(lambda x: by_brute_force(observed, x) + ONE_SIDED, observed.loss, 0.9999), abs=1e-5
    )


def test_where_all_images_agree_or_all_differ_one_way_the_bounds_have_a_formula() -> None:
    z2 = ONE_SIDED**2
    for n in (1, 7, 10_000):
        none, all_lost, all_gained = (loss_bounds(Counts(*bc, n), ONE_SIDED) for bc in ((0, 0), (n, 0), (0, n)))
        assert none == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-12)
        assert all_lost == pytest.approx(((n - z2) / (n + z2), 1), abs=1e-12)
        assert all_gained == pytest.approx((-1, (z2 - n) / (n + z2)), abs=1e-12)


@given(counts())
def test_the_observed_loss_is_inside_and_nothing_is_beyond_one(observed: Counts) -> None:
    lower, upper = loss_bounds(observed, ONE_SIDED)
    assert -1 <= lower <= observed.loss <= upper <= 1


@given(counts())
def test_exchanging_the_models_exchanges_everything(observed: Counts) -> None:
    exchanged = Counts(observed.only_candidate, observed.only_champion, observed.images)
    lower, upper = loss_bounds(observed, ONE_SIDED)
    assert loss_bounds(exchanged, ONE_SIDED) == (-upper, -lower)
    assert exchanged.loss == -observed.loss
    assert mcnemar(exchanged) == mcnemar(observed)


@given(counts(), st.floats(1, 4))
def test_more_confidence_widens_the_interval(observed: Counts, z: float) -> None:
    narrow, wide = loss_bounds(observed, z), loss_bounds(observed, z + 0.1)
    assert wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]


@given(counts())
def test_one_more_right_answer_of_the_candidate_never_worsens_its_bounds(observed: Counts) -> None:
    b, c, n = observed.only_champion, observed.only_candidate, observed.images
    before = loss_bounds(observed, ONE_SIDED)
    better = [Counts(b - 1, c, n)] if b else []  # now both are right
    better += [Counts(b, c + 1, n)] if b + c < n else []  # both were wrong
    for after in (loss_bounds(mended, ONE_SIDED) for mended in better):
        assert after[0] <= before[0] + 1e-15
        assert after[1] <= before[1] + 1e-15


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 40])
def test_monotone_for_every_count_there_is(n: int) -> None:
    b, c = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    bounds = np.where(b + c <= n, lower_bound(b, c, n, ONE_SIDED), np.nan)
    assert np.nanmin(np.diff(bounds, axis=0)) >= 0
    assert np.nanmax(np.diff(bounds, axis=1)) <= 0


@given(counts(), st.floats(-0.999, 0.999))
def test_the_bound_exceeds_a_loss_exactly_when_the_score_refutes_it(observed: Counts, loss: float) -> None:
    b, c = np.float64(observed.only_champion), np.float64(observed.only_candidate)
    lower, _ = loss_bounds(observed, ONE_SIDED)
    if abs(lower - loss) > 1e-9:
        assert (lower > loss) == bool(score(b, c, observed.images, loss) > ONE_SIDED)


@given(counts().filter(lambda observed: observed.only_champion + observed.only_candidate > 0))
def test_at_no_loss_the_score_is_mcnemars(observed: Counts) -> None:
    b, c = observed.only_champion, observed.only_candidate
    assert score(np.float64(b), np.float64(c), observed.images, 0.0) == pytest.approx((b - c) / math.sqrt(b + c))


@given(counts())
def test_mcnemar_is_the_binomial_test_of_a_fair_coin(observed: Counts) -> None:
    b, discordant = observed.only_champion, observed.only_champion + observed.only_candidate
    expected = binomtest(b, discordant).pvalue if discordant else 1.0
    assert mcnemar(observed) == pytest.approx(expected, rel=1e-9, abs=1e-250)  # binomtest gives up at 1e-294


@given(counts(300))
def test_mcnemar_counts_the_tosses_of_a_fair_coin(observed: Counts) -> None:
    discordant = observed.only_champion + observed.only_candidate
    tail = sum(math.comb(discordant, k) for k in range(min(observed.only_champion, observed.only_candidate) + 1))
    assert mcnemar(observed) == pytest.approx(min(1.0, 2 * tail / 2**discordant), rel=1e-10, abs=0)


@pytest.mark.parametrize("impossible", [(-1, 0, 5), (0, -1, 5), (0, 0, 0), (3, 3, 5), (0, 0, -1)])
def test_impossible_counts_are_refused(impossible: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"counts below zero|more images differ"):
        Counts(*impossible)


predictions = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 9), min_size=n, max_size=n)] * 3)
)


@given(predictions, st.randoms(use_true_random=False))
def test_counts_are_those_of_a_loop_and_the_order_of_the_images_changes_nothing(
    rows: tuple[list[int], list[int], list[int]], random: np.random.RandomState
) -> None:
    images = list(zip(*rows, strict=True))
    expected = Counts(
        sum(champion == label != candidate for label, champion, candidate in images),
        sum(candidate == label != champion for label, champion, candidate in images),
        len(images),
    )
    shuffled = sorted(images, key=lambda _: random.random())
    for order in (images, shuffled):
        assert count(*(np.array(column, np.uint8) for column in zip(*order, strict=True))) == expected


@pytest.mark.parametrize(
    ("labels", "champion", "candidate"),
    [((0,), (0,), (0,)), ((3,), (3,), (2,)), ((3,), (4,), (3,)), ((3, 1), (3, 1), (3, 1)), ((3,), (3, 1), (3,))],
)
def test_predictions_that_are_not_of_the_same_images_are_refused(
    labels: tuple[int, ...], champion: tuple[int, ...], candidate: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"not the same images|no images"):
        count(*(np.zeros(shape, np.uint8) for shape in (labels, champion, candidate)))
