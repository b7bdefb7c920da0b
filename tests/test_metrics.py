"""Metrics against scikit-learn, against naive loops, and against the laws they must obey."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from embedstore.errors import NotAvailable, UsageError
from embedstore.metrics import accuracy, aupr_in, aupr_out, auroc, fpr95, fpr_at_tpr, ood_metrics

# Few distinct values, so that ties are the rule; and arbitrary floats.
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40)
anything = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
scores = st.one_of(tied, anything)
METRICS = (auroc, fpr95, aupr_in, aupr_out)


def pooled(s_id, s_ood):
    return np.r_[np.ones(len(s_id)), np.zeros(len(s_ood))], np.r_[s_id, s_ood]


def naive_fpr(s_id, s_ood, numerator, denominator):
    """Try every score as a threshold, strictest first; accept when TPR >= numerator / denominator, in integers."""
    for t in sorted({*s_id, *s_ood}, reverse=True):
        if sum(s >= t for s in s_id) * denominator >= numerator * len(s_id):
            return sum(s >= t for s in s_ood) / len(s_ood)
    raise AssertionError


@given(scores, scores)
@settings(deadline=None)
def test_auroc_equals_the_double_loop(a, b):
    wins = sum((x > y) + (x == y) / 2 for x in a for y in b)
    assert auroc(a, b) == wins / (len(a) * len(b))


@given(scores, scores)
@settings(deadline=None)
def test_equal_to_scikit_learn(a, b):
    y, s = pooled(a, b)
    assert auroc(a, b) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert aupr_in(a, b) == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert aupr_out(a, b) == pytest.approx(average_precision_score(1 - y, -s), abs=1e-12)
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    first = np.flatnonzero(np.rint(tpr * len(a)) * 20 >= 19 * len(a))[0]
    assert fpr95(a, b) == pytest.approx(fpr[first], abs=1e-12)


@given(scores, scores, st.integers(1, 20))
@settings(deadline=None)
def test_fpr_equals_the_threshold_scan(a, b, twentieths):
    assert fpr_at_tpr(a, b, twentieths / 20) == naive_fpr(a, b, twentieths, 20)


@given(scores, scores)
@settings(deadline=None)
def test_swapping_id_and_ood(a, b):
    assert abs(auroc(a, b) - (1 - auroc(b, a))) <= np.spacing(1.0)
    assert aupr_out(a, b) == aupr_in(-np.array(b), -np.array(a))


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.lists(st.integers(-50, 50), min_size=1, max_size=30))
@settings(deadline=None)
def test_any_increasing_map_changes_no_bit(a, b):
    a, b = np.array(a, float), np.array(b, float)
    for increasing in (lambda s: 3 * s - 7, np.arctan, lambda s: s**3, lambda s: np.exp(s / 0.2)):
        for metric in METRICS:
            assert metric(increasing(a), increasing(b)) == metric(a, b)


@given(scores, scores)
@settings(max_examples=30, deadline=None)
def test_every_metric_is_a_float_in_the_unit_interval(a, b):
    for metric in METRICS:
        value = metric(a, b)
        assert type(value) is float
        assert 0 <= value <= 1


@given(scores, scores, st.randoms())
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(a, b, random):
    found = ood_metrics(a, b)
    random.shuffle(a)
    random.shuffle(b)
    assert ood_metrics(a, b) == found


def test_known_cases():
    assert ood_metrics([2, 3, 4], [0, 1]) == {
        "auroc": 1.0, "fpr95": 0.0, "aupr_in": 1.0, "aupr_out": 1.0, "n_id": 3, "n_ood": 2,
    }  # fmt: skip
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert fpr95([1, 1], [1, 1, 1]) == 1.0
    assert aupr_in([1, 1], [1, 1, 1]) == 0.4
    assert auroc([0], [1]) == 0.0


@pytest.mark.parametrize("n", [20, 40, 1000, 10_000])
def test_multiples_of_twenty_hit_the_threshold_exactly(n):
    """Exactly 95 % of the ID scores are >= the threshold; an OOD score just below it must not count."""
    s_id = np.arange(n, dtype=float)
    threshold = n // 20
    assert fpr95(s_id, [threshold - 0.5]) == 0.0
    assert fpr95(s_id, [threshold]) == 1.0


def test_the_threshold_is_the_first_vertex_not_the_last():
    """At TPR exactly 0.95 three OOD scores lie between two ID scores: an interpolated curve would count them."""
    s_id = np.r_[np.arange(10, 29), 0.0]
    s_ood = [1, 2, 3, -1, -2]
    assert fpr95(s_id, s_ood) == 0.0
    y, s = pooled(s_id, s_ood)
    fpr, tpr, _ = roc_curve(y, s)
    assert np.interp(0.95, tpr, fpr) == 0.6


def test_infinite_scores_are_ordered_like_any_other():
    assert auroc([np.inf, 0], [-np.inf, 0]) == 0.875
    assert aupr_in([np.inf], [-np.inf]) == 1.0
    assert fpr95([np.inf], [np.inf]) == 1.0


@pytest.mark.parametrize("metric", [*METRICS, ood_metrics])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "non-empty"),
        ([[1.0]], r"shape \(1, 1\)"),
        (1.0, r"shape \(\)"),
        ([1.0, math.nan, math.nan], "2 of 3"),
        (["a"], "real numbers"),
        ([1j], "complex"),
    ],
)
def test_what_is_not_a_score_is_refused_by_name(metric, bad, message):
    with pytest.raises(UsageError, match=f"^ID scores.*{message}"):
        metric(bad, [1.0])
    with pytest.raises(UsageError, match=f"^OOD scores.*{message}"):
        metric([1.0], bad)


@pytest.mark.parametrize("tpr", [0, -0.1, 1.1, math.nan])
def test_tpr_outside_its_range(tpr):
    with pytest.raises(UsageError, match="tpr"):
        fpr_at_tpr([1], [0], tpr)


def test_accuracy_leaves_out_unknown_labels():
    assert accuracy([0, 1, 2, -1], [0, 1, 1, -1]) == 2 / 3
    assert accuracy(np.array([3], np.int32), np.array([3])) == 1.0
    with pytest.raises(NotAvailable, match="none of the 2 rows"):
        accuracy([0, 1], [-1, -1])
    with pytest.raises(NotAvailable):
        accuracy([], [])
    with pytest.raises(UsageError, match=r"\(2,\) and \(1,\)"):
        accuracy([0, 1], [0])
