"""`correlate` against scipy, the textbook's formulas and naive loops."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from embedstore.correlation import by_group, correlate, fit_line
from embedstore.errors import NotAvailable, UsageError

ACCURACY = np.array([0.41, 0.55, 0.58, 0.66, 0.71, 0.72, 0.80, 0.86])
AUROC = np.array([0.60, 0.63, 0.70, 0.69, 0.78, 0.74, 0.83, 0.88])

points = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=3, max_size=12).filter(
    lambda pairs: all(len(set(axis)) > 1 for axis in zip(*pairs, strict=True))
)


def study(n: int, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    return x, x + noise * rng.normal(size=n)


def slope_variance(pairs: list[tuple[int, int]]) -> Fraction:
    """RSS / (N - 2) / Sxx without a rounding."""
    n = len(pairs)
    sx, sy = (Fraction(sum(axis), n) for axis in zip(*pairs, strict=True))
    sxx, sxy = sum((a - sx) ** 2 for a, _ in pairs), sum((a - sx) * (b - sy) for a, b in pairs)
    return sum((b - sy - sxy / sxx * (a - sx)) ** 2 for a, b in pairs) / (n - 2) / sxx


@given(points)
@settings(deadline=None, max_examples=60)
@example([(0, 0), (1, 1), (2, 2), (3, 3)])
@example([(0, 5), (0, 5), (0, 5), (9, 1)])
@example([(0, 1), (0, 1), (1, 16)])
def test_line_and_coefficients_equal_scipy(pairs):
    x, y = np.array(pairs, dtype=float).T
    found = correlate(x, y)
    # Exactly: linregress gives roundings of 1e-7 where all points lie on a line.
    assert found.slope_error == pytest.approx(math.sqrt(slope_variance(pairs)), rel=1e-9, abs=1e-12)
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert found.pearson_p == pytest.approx(stats.pearsonr(x, y).pvalue, rel=1e-6, abs=1e-7)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found.kendall_p == pytest.approx(stats.kendalltau(x, y).pvalue, abs=1e-12)
    fitted = fit_line(x, y)
    assert (found.slope, found.intercept, found.r_squared, found.n) == (
        fitted.slope,
        fitted.intercept,
        fitted.r_squared,
        fitted.n,
    )


@given(points)
@settings(deadline=None, max_examples=60)
def test_leave_one_out_equals_the_naive_loop(pairs):
    x, y = np.array(pairs, dtype=float).T
    found = correlate(x, y)
    design = np.column_stack([np.ones_like(x), x])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    variance = ((y - fitted) ** 2).sum() / (len(x) - 2)
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        if rest.sum() < 3 or len(set(x[rest])) == 1 or len(set(y[rest])) == 1:
            assert found.without[i] is None
        else:
            assert found.without[i] == pytest.approx(stats.pearsonr(x[rest], y[rest]).statistic ** 2, abs=1e-9)
        if len(set(x[rest])) == 1:
            assert found.cook[i] is None
        elif variance > 1e-20:
            # By its meaning: how far all fitted values move when the point is left out, in units of 2 s².
            moved = design @ np.linalg.lstsq(design[rest], y[rest], rcond=None)[0]
            assert found.cook[i] == pytest.approx(((fitted - moved) ** 2).sum() / (2 * variance), rel=1e-6, abs=1e-12)
        else:
            assert found.cook[i] == 0


def test_one_model_can_make_the_whole_r_squared():
    x, y = np.array([0.50, 0.51, 0.49, 0.50, 0.90]), np.array([0.60, 0.59, 0.60, 0.61, 0.95])
    found = correlate(x, y)
    assert found.r_squared > 0.99
    assert found.without[4] < 0.51
    assert np.argmax(found.cook) == 4


def test_the_slopes_error_of_models_that_are_no_integers_is_scipys():
    x, y = study(20)
    assert correlate(x, y).slope_error == pytest.approx(stats.linregress(x, y).stderr, rel=1e-9)


@pytest.mark.parametrize(("n", "seed"), [(4, 0), (5, 1), (10, 2), (40, 3)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_fisher_interval_is_the_square_of_scipys_for_r(n, seed, level):
    x, y = study(n, seed, noise=0.1)
    found = correlate(x, y, level=level)
    low, high = stats.pearsonr(x, y).confidence_interval(level)
    expected = (0.0 if low < 0 < high else min(low**2, high**2), max(low**2, high**2))
    assert found.interval == pytest.approx(expected, abs=1e-12)
    assert correlate(x, -y, level=level).interval == pytest.approx(expected, abs=1e-12)
    assert found.interval[0] <= found.r_squared <= found.interval[1]


def test_an_interval_that_holds_no_correlation_begins_at_zero():
    x, y = np.arange(6.0), np.array([1, -1, 1, -1, 1, -1.2])
    low, high = correlate(x, y).interval
    r = stats.pearsonr(x, y).statistic
    assert low == 0
    assert high == pytest.approx(math.tanh(math.atanh(abs(r)) + stats.norm.ppf(0.975) / math.sqrt(3)) ** 2)


def test_what_three_models_and_a_perfect_line_say():
    three = correlate([0.1, 0.2, 0.4], [0.1, 0.3, 0.4])
    assert three.interval == (0, 1)
    assert three.bootstrap is None
    assert three.without == (None, None, None)
    perfect = correlate([1, 2, 3, 4, 5, 6], [3, 5, 7, 9, 11, 13])
    assert perfect.interval == perfect.bootstrap == (1, 1)
    assert perfect.cook == (0,) * 6
    assert perfect.slope_error == perfect.residual == 0
    # A perfect order of six models is one of 720, or its reverse: not p = 0.
    assert perfect.spearman_p == pytest.approx(2 / 720)
    assert perfect.kendall_p == pytest.approx(2 / 720)


def test_fisher_covers_and_the_bootstrap_covers_less():
    """The docstring's reason for the default, at one size: ten models with a true R² of 0.92."""
    rng = np.random.default_rng(0)
    rho, studies = math.sqrt(0.92), 300
    held = np.zeros(2)
    for _ in range(studies):
        x = rng.normal(size=10)
        found = correlate(x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=10))
        held += [low <= 0.92 <= high for low, high in (found.interval, found.bootstrap)]
    fisher, bootstrap = held / studies
    assert 0.92 < fisher < 0.98
    assert 0.84 < bootstrap < 0.95


def test_a_line_has_the_interval_and_the_band_of_its_correlation():
    """What a report shows costs no resampling: both come from the same formulas as :func:`correlate`'s."""
    x, y = study(9, noise=0.1)
    line = fit_line(x, y)
    for level in (0.8, 0.95):
        whole = correlate(x, y, level=level)
        assert line.r_squared_interval(level) == whole.interval
        for mine, theirs in zip(line.band(x, level), whole.band(x), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    assert line.residual == pytest.approx(math.sqrt(rest @ rest / 7), rel=1e-9)
    assert line.x_spread == pytest.approx(math.sqrt(8 * np.var(x, ddof=1)), rel=1e-9)


def test_bootstrap_equals_a_naive_one():
    x, y = ACCURACY, AUROC
    rng, values = np.random.default_rng(7), []
    while len(values) < 6000:
        rows = rng.integers(0, 8, 8)
        if len(set(rows)) >= 3:
            values.append(stats.pearsonr(x[rows], y[rows]).statistic ** 2)
    assert correlate(x, y).bootstrap == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
    assert correlate(x, y, seed=3) == correlate(x, y, seed=3)
    assert correlate(x, y, seed=3).bootstrap != correlate(x, y, seed=4).bootstrap


def test_bootstrap_draws_again_what_has_no_line():
    # Most resamples of these hold one value of x or of y alone.
    low, high = correlate([0, 0, 0, 0, 1], [1, 0, 0, 0, 0]).bootstrap
    assert 0 <= low <= high <= 1
    # Two distinct models always give R² = 1; if they counted, the upper end would be 1 here.
    x, y = np.array([0, 1, 2, 3, 4.0]), np.array([0, 1, 0, 1, 0.5])
    assert correlate(x, y).bootstrap[1] < 1


@pytest.mark.parametrize("y", [[1, 2, 3, 4, 5], [2, 1, 4, 3, 5], [1, 1, 2, 3, 3], [5, 5, 5, 1, 5]])
def test_spearman_p_of_few_models_counts_all_orders(y):
    x = [1, 2, 3, 3, 5]
    observed = abs(stats.spearmanr(x, y).statistic)
    orders = [abs(stats.spearmanr(x, order).statistic) for order in itertools.permutations(y)]
    assert correlate(x, y).spearman_p == pytest.approx(np.mean(np.array(orders) >= observed - 1e-12))


def test_spearman_p_of_many_models_is_scipys():
    x, y = study(30)
    assert correlate(x, y).spearman_p == pytest.approx(stats.spearmanr(x, y).pvalue)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_band_is_the_textbooks(level):
    x, y = study(12, noise=0.05)
    at = np.array([-1, 0.3, x.mean(), 2])
    low, high = correlate(x, y, level=level).band(at)
    slope, intercept = np.polyfit(x, y, 1)
    s = math.sqrt(((y - slope * x - intercept) ** 2).sum() / 10)
    half = s * np.sqrt(1 / 12 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()) * stats.t.ppf((1 + level) / 2, 10)
    np.testing.assert_allclose((low + high) / 2, slope * at + intercept, rtol=1e-9)
    np.testing.assert_allclose((high - low) / 2, half, rtol=1e-9)


@given(points, st.floats(0.01, 100), st.floats(-10, 10))
@settings(deadline=None, max_examples=30)
def test_laws(pairs, factor, shift):
    x, y = np.array(pairs, dtype=float).T
    one, other = correlate(x, y), correlate(factor * x + shift, -y)
    assert other.interval == pytest.approx(one.interval, abs=1e-9)
    assert other.pearson == pytest.approx(-one.pearson, abs=1e-9)
    assert other.slope_error == pytest.approx(one.slope_error / factor, rel=1e-6, abs=1e-9)
    backwards = correlate(x[::-1], y[::-1])
    assert backwards.spearman_p == pytest.approx(one.spearman_p)
    assert backwards.without[::-1] == pytest.approx(one.without, abs=1e-9)


def test_sizes_whose_squares_leave_the_floats():
    reference = correlate(ACCURACY, AUROC)
    for size in (1e-200, 1e200):
        found = correlate(size * ACCURACY, size * AUROC)
        assert found.slope_error == pytest.approx(reference.slope_error)
        assert found.cook == pytest.approx(reference.cook)
        assert found.pearson_p == pytest.approx(reference.pearson_p)
        assert found.bootstrap == pytest.approx(reference.bootstrap)
        for mine, theirs in zip(found.band(size * ACCURACY), reference.band(ACCURACY), strict=True):
            np.testing.assert_allclose(mine / size, theirs)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_that_is_none(level):
    with pytest.raises(UsageError, match="level must lie in"):
        correlate(ACCURACY, AUROC, level=level)
    with pytest.raises(UsageError, match="level must lie in"):
        fit_line(ACCURACY, AUROC).r_squared_interval(level)
    with pytest.raises(UsageError, match="level must lie in"):
        fit_line(ACCURACY, AUROC).band(ACCURACY, level)


def test_what_has_no_line_has_no_correlation():
    with pytest.raises(NotAvailable, match="at least 3"):
        correlate([1, 2], [1, 2])
    with pytest.raises(NotAvailable, match="values of y are 1"):
        correlate([1, 2, 3], [1, 1, 1])
    with pytest.raises(UsageError, match="finite"):
        correlate([1, 2, np.nan], [1, 2, 3])


def test_groups_say_which_are_too_small():
    x, y = np.r_[ACCURACY, 0.5, 0.6, 0.1, 0.2, 0.3], np.r_[AUROC, 0.5, 0.6, 0.7, 0.7, 0.7]
    names = ["CLIP"] * 8 + ["DINO"] * 2 + ["ViT"] * 3
    order = np.array([12, 0, 8, 1, 2, 3, 9, 4, 5, 6, 10, 7, 11])
    found = by_group(x[order], y[order], [names[i] for i in order], level=0.9)
    assert list(found) == ["ViT", "CLIP", "DINO"]
    assert found["CLIP"].correlation == correlate(ACCURACY, AUROC, level=0.9)
    assert found["CLIP"].rows == (1, 3, 4, 5, 7, 8, 9, 11)
    assert found["DINO"].correlation is None
    assert "at least 3 points, there are 2" in found["DINO"].reason
    assert "values of y are 0.7" in found["ViT"].reason
    with pytest.raises(UsageError, match="N names"):
        by_group(x, y, names[1:])
    with pytest.raises(UsageError, match="finite"):
        by_group([1, 2, np.inf], [1, 2, 3], ["a", "a", "a"])
