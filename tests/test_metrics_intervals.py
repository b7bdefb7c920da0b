"""Intervals and paired tests against naive DeLong, exact enumeration, the naive bootstrap, and what they promise."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from embedstore.errors import UsageError
from embedstore.metrics import (
    Interval,
    aupr_in,
    auroc,
    auroc_difference,
    bootstrap_interval,
    delong_interval,
    fpr95,
    fpr_at_tpr,
    fpr_interval,
    paired_bootstrap,
)
from embedstore.metrics.bootstrap import resampled_fpr
from embedstore.metrics.ranking import rank

tied = st.lists(st.integers(-2, 2).map(float), min_size=2, max_size=12)
anything = st.lists(st.floats(-100, 100), min_size=2, max_size=12)
scores = st.one_of(tied, anything)


def structural_components(s_id, s_ood):
    """By their definition, one pair at a time."""
    psi = np.array([[(x > y) + (x == y) / 2 for y in s_ood] for x in s_id])
    return psi.mean(axis=1), psi.mean(axis=0)


def covariance(a, b):
    """DeLong's 2 x 2 covariance matrix of two methods' AUROCs, each given as (s_id, s_ood)."""
    (va, wa), (vb, wb) = structural_components(*a), structural_components(*b)
    return np.cov(np.stack([va, vb])) / len(va) + np.cov(np.stack([wa, wb])) / len(wa)


def bound(n):
    return 0.025 ** (1 / n)


@given(scores, scores, st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None)
def test_delong_equals_the_structural_components(a, b, level):
    found = delong_interval(a, b, level)
    area, variance = auroc(a, b), covariance((a, b), (a, b))[0, 0]
    assert 0 <= found.low <= area <= found.high <= 1
    assert found.level == level
    if variance > 1e-20:
        centre, width = math.log(area / (1 - area)), math.sqrt(variance) / (area * (1 - area))
        ends = centre + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2]) * width
        np.testing.assert_allclose([found.low, found.high], 1 / (1 + np.exp(-ends)), atol=1e-9)
    else:
        assert area in (0, 0.5, 1)


def test_delong_where_its_variance_says_nothing():
    assert delong_interval([1.0], [0.0, 0.1]) == delong_interval([1.0, 2.0], [0.0]) == Interval(0.0, 1.0, 0.95)
    perfect = delong_interval(np.arange(100, 200), np.arange(50))
    # All of 50 independent trials succeeded: scipy's exact interval.
    exact = stats.binomtest(50, 50).proportion_ci(0.95, method="exact")
    assert (perfect.low, perfect.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert perfect.high == 1.0
    worst = delong_interval(np.arange(50), np.arange(100, 200))
    assert (worst.low, worst.high) == (0.0, pytest.approx(1 - perfect.low))
    constant = delong_interval([3.0] * 50, [3.0] * 60)
    assert (constant.low, constant.high) == pytest.approx((0.5 * bound(50), 1 - 0.5 * bound(50)))
    nearly = delong_interval(np.r_[np.arange(1, 5000), -1], np.r_[np.zeros(3000)])
    assert 0.99 < nearly.low < nearly.high < 1


@given(scores, scores, st.data())
@settings(deadline=None)
def test_paired_delong_equals_the_contrast_of_the_covariance_matrix(a_id, a_ood, data):
    same = {"min_size": len(a_id), "max_size": len(a_id)}, {"min_size": len(a_ood), "max_size": len(a_ood)}
    b_id, b_ood = (data.draw(st.lists(st.integers(-3, 3).map(float), **size)) for size in same)
    found = auroc_difference(a_id, a_ood, b_id, b_ood)
    c = covariance((a_id, a_ood), (b_id, b_ood))
    variance = c[0, 0] + c[1, 1] - 2 * c[0, 1]
    assert found.difference == pytest.approx(auroc(a_id, a_ood) - auroc(b_id, b_ood), abs=1e-12)
    assert -1 <= found.interval.low <= found.difference <= found.interval.high <= 1
    if variance > 1e-9:
        z = found.difference / math.sqrt(variance)
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=1e-9)
        reach = 1.959963984540054 * math.sqrt(variance)
        assert found.interval.low == pytest.approx(max(found.difference - reach, -1), abs=1e-7)
        assert found.interval.high == pytest.approx(min(found.difference + reach, 1), abs=1e-7)
    swapped = auroc_difference(b_id, b_ood, a_id, a_ood)
    assert swapped.difference == -found.difference
    assert swapped.p_value == found.p_value


def test_paired_delong_where_its_variance_says_nothing():
    s_id, s_ood = np.arange(30.0), np.arange(-10.0, 20.0)
    same = auroc_difference(s_id, s_ood, s_id, s_ood)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert (same.interval.low, same.interval.high) == pytest.approx((bound(30) - 1, 1 - bound(30)))
    assert auroc_difference(s_id, s_ood, np.exp(s_id), np.exp(s_ood)) == same, "only the order counts"
    # Perfect against exactly wrong on two images each: no evidence to speak of, whatever the variance.
    two = auroc_difference([2, 3], [0, 1], [0, 1], [2, 3])
    assert (two.difference, two.p_value) == (1.0, 0.5)
    assert (two.interval.low, two.interval.high) == pytest.approx((2 * math.sqrt(0.025) - 1, 1.0))
    many = auroc_difference(s_id + 99, s_ood, s_id * 0, s_ood * 0)
    assert (many.difference, many.p_value) == (0.5, pytest.approx(2 / 1.5**30))
    one = auroc_difference([1.0], [0.0, 2.0], [3.0], [0.0, 2.0])
    assert (one.difference, one.p_value, one.interval) == (-0.5, 1.0, Interval(-1.0, 1.0, 0.95))


def test_a_paired_test_sees_what_separate_intervals_do_not():
    rng = np.random.default_rng(3)
    s_id, s_ood = rng.normal(1, 1, 400), rng.normal(0, 1, 400)
    better_id, better_ood = s_id + 0.1 + rng.normal(0, 0.05, 400), s_ood + rng.normal(0, 0.05, 400)
    a, b = delong_interval(s_id, s_ood), delong_interval(better_id, better_ood)
    assert a.high > b.low
    assert auroc_difference(better_id, better_ood, s_id, s_ood).p_value < 1e-6


def test_coverage_and_false_alarms():
    """Of 500 simulated studies about 95 % of the intervals hold the truth, and 5 % of the tests cry wolf."""
    rng = np.random.default_rng(0)
    truth, fpr_truth = stats.norm.cdf(1.5 / math.sqrt(2)), stats.norm.sf(stats.norm.ppf(0.05, 1.5))
    held, fpr_held, cried = 0, 0, 0
    for _ in range(500):
        base_id, base_ood = rng.normal(1.5, 1, 150), rng.normal(0, 1, 120)
        interval = delong_interval(base_id, base_ood)
        held += interval.low <= truth <= interval.high
        interval = fpr_interval(base_id, base_ood, repeats=1000)
        fpr_held += interval.low <= fpr_truth <= interval.high
        noisy = [s + rng.normal(0, 1, len(s)) for s in (base_id, base_ood, base_id, base_ood)]
        cried += auroc_difference(*noisy).p_value < 0.05
    assert 0.92 <= held / 500 <= 0.98
    assert 0.90 <= fpr_held / 500 <= 0.99
    assert 0.02 <= cried / 500 <= 0.08


@pytest.mark.parametrize("tpr", [0.3, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(
    ("s_id", "s_ood"), [([0.0, 1.0, 2.0, 3.0], [0.5, 1.5, 1.5]), ([0.0, 1.0, 1.0, 4.0], [1.0, 1.0, 2.0])]
)
def test_resampled_fpr_has_the_exact_law_of_the_bootstrap(s_id, s_ood, tpr):
    """All 4^4 x 3^3 resamples, each as likely as any other."""
    law = Counter(
        fpr_at_tpr(i, o, tpr) for i in itertools.product(s_id, repeat=4) for o in itertools.product(s_ood, repeat=3)
    )
    draws = Counter(resampled_fpr(rank(s_id, s_ood), tpr, 200_000, np.random.default_rng(0)).tolist())
    for value in law | draws:
        assert draws[value] / 200_000 == pytest.approx(law[value] / (4**4 * 3**3), abs=0.005), value


def test_resampled_fpr_against_the_naive_bootstrap():
    rng = np.random.default_rng(1)
    s_id, s_ood = rng.normal(1.5, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    naive = [fpr95(rng.choice(s_id, 300), rng.choice(s_ood, 200)) for _ in range(3000)]
    quick = resampled_fpr(rank(s_id, s_ood), 0.95, 3000, rng)
    assert stats.ks_2samp(naive, quick).pvalue > 0.01
    shifted = resampled_fpr(rank(s_id, s_ood), 0.94, 3000, rng)
    assert stats.ks_2samp(naive, shifted).pvalue < 1e-6, "the comparison can fail"
    ends = bootstrap_interval(fpr95, s_id, s_ood, repeats=3000)
    found = fpr_interval(s_id, s_ood)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.02)


def test_fpr_interval_where_every_draw_says_the_same():
    none = fpr_interval(np.arange(100, 200), np.arange(50))
    exact = stats.binomtest(0, 50).proportion_ci(0.95, method="exact")
    assert (none.low, none.high) == (0.0, pytest.approx(exact.high, abs=1e-12))
    every = fpr_interval(np.arange(50), np.arange(100, 150))
    assert (every.low, every.high) == (pytest.approx(1 - exact.high, abs=1e-12), 1.0)
    assert fpr_interval([0.0], [1.0, -1.0]) == Interval(0.0, 1.0, 0.95)
    single = fpr_interval(np.arange(40), [20.0])
    assert (single.low, single.high) == (pytest.approx(0.025), 1.0)


@given(scores, scores, st.integers(1, 20))
@settings(deadline=None)
def test_fpr_interval_holds_the_fpr(a, b, twentieths):
    found = fpr_interval(a, b, twentieths / 20, repeats=50)
    assert 0 <= found.low <= fpr_at_tpr(a, b, twentieths / 20) <= found.high <= 1


def test_bootstrap_of_a_metric_with_a_known_law():
    """The mean of the ID scores: resampled by the normal law, its standard error known."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 400), np.zeros(3)
    found = bootstrap_interval(lambda s_id, s_ood: float(np.mean(s_id)), a, b, level=0.9, repeats=4000)
    ends = a.mean() + stats.norm.ppf([0.05, 0.95]) * a.std() / 20
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.006)
    assert found.level == 0.9


def test_bootstrap_keeps_each_kind_to_itself():
    seen = set()

    def watch(s_id, s_ood):
        assert (len(s_id), len(s_ood)) == (5, 3)
        assert set(s_id) <= {10, 11, 12, 13, 14}
        assert set(s_ood) <= {0, 1, 2}
        seen.add((tuple(s_id), tuple(s_ood)))
        return 0.5

    assert bootstrap_interval(watch, range(10, 15), range(3), repeats=50) == Interval(0.5, 0.5, 0.95)
    assert len(seen) > 45


def test_bootstrap_agrees_with_delong_and_repeats_itself():
    rng = np.random.default_rng(5)
    a, b = rng.normal(1, 1, 200), rng.normal(0, 1, 150)
    found, known = bootstrap_interval(auroc, a, b), delong_interval(a, b)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.015)
    assert found == bootstrap_interval(auroc, a, b, seed=0)
    assert found != bootstrap_interval(auroc, a, b, seed=1)
    assert fpr_interval(a, b) == fpr_interval(a, b, seed=0)


def test_paired_bootstrap():
    rng = np.random.default_rng(6)
    a, b = rng.normal(1, 1, 150), rng.normal(0, 1, 120)
    noisy = a + rng.normal(0, 0.7, 150), b + rng.normal(0, 0.7, 120)
    found, known = paired_bootstrap(auroc, a, b, *noisy, repeats=2000), auroc_difference(a, b, *noisy)
    assert found.difference == auroc(a, b) - auroc(*noisy)
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (known.interval.low, known.interval.high), abs=0.01
    )
    assert found.p_value == pytest.approx(known.p_value, abs=0.03)
    same = paired_bootstrap(aupr_in, a, b, a, b, repeats=100)
    assert (same.difference, same.interval, same.p_value) == (0.0, Interval(0.0, 0.0, 0.95), 1.0)
    apart = paired_bootstrap(auroc, a + 99, b, b[0] * np.ones(150), b, repeats=99)
    assert apart.p_value == pytest.approx(2 / 100), "never 0: as small as the repeats can show"


@given(st.lists(st.integers(-9, 9), min_size=3, max_size=20), st.lists(st.integers(-9, 9), min_size=3, max_size=20))
@settings(deadline=None, max_examples=30)
def test_no_interval_changes_a_bit_under_an_increasing_map(a, b):
    a, b = np.array(a, float), np.array(b, float)
    for increasing in (lambda s: 3 * s - 7, np.arctan, lambda s: s**3):
        fa, fb = increasing(a), increasing(b)
        assert delong_interval(fa, fb) == delong_interval(a, b)
        assert fpr_interval(fa, fb, repeats=50) == fpr_interval(a, b, repeats=50)
        assert auroc_difference(fa, fb, -a, -b) == auroc_difference(a, b, -a, -b)
        assert bootstrap_interval(auroc, fa, fb, repeats=5) == bootstrap_interval(auroc, a, b, repeats=5)


@pytest.mark.parametrize("level", [0, 1, -0.1, 95, math.nan])
def test_levels_outside_their_range(level):
    for call in (
        lambda: delong_interval([1, 2], [0, 3], level),
        lambda: auroc_difference([1, 2], [0, 3], [1, 2], [0, 3], level),
        lambda: bootstrap_interval(auroc, [1, 2], [0, 3], level),
        lambda: paired_bootstrap(auroc, [1, 2], [0, 3], [1, 2], [0, 3], level),
        lambda: fpr_interval([1, 2], [0, 3], 0.95, level),
    ):
        with pytest.raises(UsageError, match="level must lie in"):
            call()


def test_requests_that_cannot_be_right():
    with pytest.raises(UsageError, match="repeats must be at least 1, got 0"):
        bootstrap_interval(auroc, [1], [0], repeats=0)
    with pytest.raises(UsageError, match="repeats"):
        fpr_interval([1], [0], repeats=0)
    with pytest.raises(UsageError, match="the metric gave nan"):
        bootstrap_interval(lambda s_id, s_ood: math.nan, [1], [0])
    for compare in (auroc_difference, lambda *s: paired_bootstrap(auroc, *s)):
        with pytest.raises(UsageError, match="a has 2 ID scores and b has 1"):
            compare([1, 2], [0], [1], [0])
        with pytest.raises(UsageError, match="a has 1 OOD scores and b has 2"):
            compare([1, 2], [0], [1, 2], [0, 0])
        with pytest.raises(UsageError, match=r"^b's OOD scores must not be NaN, but 1 of 1"):
            compare([1], [0], [1], [math.nan])
    for interval in (delong_interval, fpr_interval, lambda *s: bootstrap_interval(auroc, *s)):
        with pytest.raises(UsageError, match=r"^OOD scores must be a non-empty"):
            interval([1], [])
