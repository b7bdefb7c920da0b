"""The least-squares line against scipy and numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress

from embedstore.correlation import Line, fit_line, r_squared
from embedstore.errors import NotAvailable, UsageError

points = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=30).filter(
    lambda pairs: all(len(set(axis)) > 1 for axis in zip(*pairs, strict=True))
)


@given(points)
@settings(deadline=None)
def test_equal_to_scipy_and_numpy(pairs):
    x, y = np.array(pairs).T / 1000
    found, expected = fit_line(x, y), linregress(x, y)
    assert found.slope == pytest.approx(expected.slope, abs=1e-9)
    assert found.intercept == pytest.approx(expected.intercept, abs=1e-9)
    assert found.r_squared == pytest.approx(expected.rvalue**2, abs=1e-9)
    assert (found.slope, found.intercept) == pytest.approx(tuple(np.polyfit(x, y, 1)), abs=1e-9)
    assert found.n == len(pairs)


@given(points, st.floats(0.1, 100), st.floats(-10, 10))
@settings(deadline=None)
def test_laws(pairs, factor, shift):
    x, y = np.array(pairs).T / 1000
    value = r_squared(x, y)
    assert 0 <= value <= 1
    assert r_squared(y, x) == pytest.approx(value, abs=1e-12)
    assert r_squared(factor * x + shift, y) == pytest.approx(value, abs=1e-9)
    assert r_squared(x, -y) == pytest.approx(value, abs=1e-12)


def test_a_line_is_found_exactly():
    spread = math.sqrt(2)
    assert fit_line([0, 1, 2], [1, 3, 5]) == Line(2.0, 1.0, 1.0, 3, x_mean=1.0, x_spread=spread, residual=0.0)
    assert r_squared([1, 2, 3, 4], [1, -1, -1, 1]) == 0.0


def test_sizes_whose_squares_leave_the_floats():
    x = np.array([1, 2, 4.0])
    for size in (1e-200, 1e200):
        assert fit_line(size * x, size * x).slope == pytest.approx(1)
        assert r_squared(size * x, size * x) == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "at least 3 points, there are 2"),
        ([], [], "there are 0"),
        ([1, 1, 1], [1, 2, 3], "values of x are 1"),
        ([1, 2, 3], [0, 0, 0], "values of y are 0"),
        ([0.1 + 0.2, 0.3, 0.3], [1, 2, 3], "values of x are 0.3"),  # they differ by one rounding error
    ],
)
def test_what_has_no_line(x, y, message):
    with pytest.raises(NotAvailable, match=message):
        fit_line(x, y)


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2]), ([[1, 2, 3]], [[1, 2, 3]]), ([1, 2, np.nan], [1, 2, 3])])
def test_what_is_not_a_set_of_points(x, y):
    with pytest.raises(UsageError):
        fit_line(x, y)
