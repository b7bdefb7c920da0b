"""Text and image scores on one scale: plain formulas, scipy, and the use that it is made for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, percentileofscore, zscore

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.metrics import auroc
from embedstore.scores import KNNDetector, StandardizedSum, msp


@pytest.fixture(scope="module")
def scores():
    """Two scores of 80 rows with units of their own, and ties; and of 30 new rows."""
    rng = np.random.default_rng(0)
    fitted = np.column_stack([1e-3 + 1e-5 * rng.standard_normal(80), np.round(300 * rng.standard_normal(80), -2)])
    new = np.column_stack([1e-3 + 2e-5 * rng.standard_normal(30), np.round(600 * rng.standard_normal(30), -2)])
    return fitted, new


def test_fitted_rows_get_scipys_z_scores(scores):
    fitted, _ = scores
    expected = zscore(fitted, axis=0, ddof=1).mean(axis=1)
    np.testing.assert_allclose(StandardizedSum().fit(fitted).score_samples(fitted), expected, rtol=1e-9, atol=1e-9)


def test_ranks_equal_scipys_percentiles(scores):
    fitted, new = scores
    expected = [
        np.mean([percentileofscore(column, s, kind="mean") / 100 for column, s in zip(fitted.T, row, strict=True)])
        for row in new
    ]
    np.testing.assert_allclose(StandardizedSum(scale="rank").fit(fitted).score_samples(new), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", ["z", "rank"])
def test_weights_are_those_of_the_sum(scale, scores):
    fitted, new = scores
    alone = [StandardizedSum([1, 0], scale), StandardizedSum([0, 1], scale)]
    first, second = (part.fit(fitted).score_samples(new) for part in alone)
    both = StandardizedSum([0.5, 2], scale).fit(fitted).score_samples(new)
    np.testing.assert_allclose(both, 0.5 * first + 2 * second, rtol=1e-12, atol=1e-12)
    equal = StandardizedSum(scale=scale).fit(fitted).score_samples(new)
    np.testing.assert_allclose(equal, (first + second) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", ["z", "rank"])
@given(unit=st.floats(1e-3, 1e3), origin=st.floats(-100, 100))
@settings(deadline=None, max_examples=25)
def test_a_score_in_another_unit_adds_the_same(scale, unit, origin):
    rng = np.random.default_rng(0)
    fitted, new = rng.standard_normal((50, 2)), rng.standard_normal((20, 2))
    plain = StandardizedSum(scale=scale).fit(fitted).score_samples(new)
    stretch, move = np.array([unit, 1]), np.array([origin, 0])
    again = StandardizedSum(scale=scale).fit(fitted * stretch + move).score_samples(new * stretch + move)
    np.testing.assert_allclose(again, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", ["z", "rank"])
def test_no_score_falls_when_a_part_rises(scale, scores):
    fitted, new = scores
    detector = StandardizedSum(scale=scale).fit(fitted)
    assert (detector.score_samples(new + np.array([1e-6, 50])) >= detector.score_samples(new)).all()


def test_ranks_lie_between_nothing_and_everything(scores):
    fitted, _ = scores
    extremes = StandardizedSum(scale="rank").fit(fitted).score_samples([[-9e9, -9e9], [9e9, 9e9]])
    assert extremes.tolist() == [0.0, 1.0]


def test_a_score_without_spread_has_no_scale(scores):
    fitted = scores[0].copy()
    fitted[:, 1] = 7
    with pytest.raises(NotAvailable, match="score 1 of 2 is the same for all rows"):
        StandardizedSum().fit(fitted)


def test_a_score_whose_variance_underflows_has_no_scale():
    with pytest.raises(NotAvailable, match="score 1 of 2 moves by so little that its variance underflows"):
        StandardizedSum().fit([[1.0, 1e-170], [2.0, 2e-170]])
    assert StandardizedSum(scale="rank").fit([[1e-170], [2e-170]]).score_samples([[3e-170]]).tolist() == [1.0]


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, -1], [0, 0], [1, np.nan]])
def test_weights_that_cannot_be(weights, scores):
    with pytest.raises(UsageError, match="weights must be 2 numbers"):
        StandardizedSum(weights).fit(scores[0])


def test_an_unknown_scale_is_named(scores):
    with pytest.raises(UnknownName, match="Known: rank, z"):
        StandardizedSum(scale="minmax").fit(scores[0])


def test_two_independent_scores_add_as_the_theory_of_signal_detection_says():
    """Each separates by one standard deviation, so AUROC is Phi(1 / sqrt 2); their sum by sqrt 2, so it is Phi(1)."""
    rng = np.random.default_rng(0)
    inside, outside = rng.standard_normal((20_000, 2)) + 1, rng.standard_normal((20_000, 2))
    units = np.array([1e-4, 300.0])
    detector = StandardizedSum().fit(units * (rng.standard_normal((20_000, 2)) + 1))
    found = auroc(detector.score_samples(units * inside), detector.score_samples(units * outside))
    assert found == pytest.approx(norm.cdf(1), abs=0.01)
    assert auroc(inside[:, 0], outside[:, 0]) == pytest.approx(norm.cdf(0.5**0.5), abs=0.01)


@pytest.mark.parametrize(("scale", "middle"), [("z", 0.0), ("rank", 0.5)])
def test_a_bank_scored_by_leave_one_out_sets_the_scale_of_new_rows(scale, middle):
    """Text scores and image scores of training rows; scored as test rows are, the bank would find itself."""
    rng = np.random.default_rng(3)
    prompts = rng.standard_normal((5, 20))
    train, new = (prompts[rng.integers(0, 5, 2000)] + rng.standard_normal((2000, 20)) for _ in range(2))
    bank = KNNDetector(3, "l2").fit(train)
    columns = {
        name: np.column_stack([msp(train @ prompts.T, 10.0), image])
        for name, image in (("left out", bank.score_left_out()), ("seen", bank.score_samples(train)))
    }
    asked = np.column_stack([msp(new @ prompts.T, 10.0), bank.score_samples(new)])
    means = {
        name: StandardizedSum(None, scale).fit(fitted).score_samples(asked).mean() for name, fitted in columns.items()
    }
    assert means["left out"] == pytest.approx(middle, abs=0.05)
    assert means["seen"] < middle - 0.2
