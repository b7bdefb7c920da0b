"""Metrics against scikit-learn, against naive loops, and against the laws they must obey."""

import itertools
import math
import statistics
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from embedstore import metrics
from embedstore.errors import NotAvailable, UsageError
from embedstore.metrics import (
    METRIC_SETS,
    accuracy,
    aupr_in,
    aupr_out,
    aurc,
    auroc,
    detection_error,
    fpr95,
    fpr_at_tpr,
    ood_metrics,
    spread,
)

# Few distinct values, so that ties are the rule; and arbitrary floats.
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40)
anything = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
scores = st.one_of(tied, anything)
METRICS = sorted(
    {metric for functions in METRIC_SETS.values() for metric in functions.values()}, key=lambda m: m.__name__
)


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
def test_detection_error_equals_the_threshold_scan(a, b):
    thresholds = [*a, *b, math.inf]
    worst = min((sum(x < t for x in a) / len(a) + sum(y >= t for y in b) / len(b)) / 2 for t in thresholds)
    assert detection_error(a, b) == pytest.approx(min(worst, 0.5), abs=1e-12)


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
        for preset in METRIC_SETS:
            assert ood_metrics(increasing(a), increasing(b), preset) == ood_metrics(a, b, preset)


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
    found = ood_metrics([2, 3, 4], [0, 1])
    assert found == {
        "auroc": 1.0, "auroc_low": pytest.approx(math.sqrt(0.025)), "auroc_high": 1.0,
        "fpr95": 0.0, "fpr95_low": 0.0, "fpr95_high": pytest.approx(1 - math.sqrt(0.025)), "fpr95_ood_positive": 0.0,
        "aupr_in": 1.0, "aupr_out": 1.0, "detection_error": 0.0, "n_id": 3, "n_ood": 2,
    }  # fmt: skip
    assert {type(value) for name, value in found.items() if name[:2] != "n_"} == {float}
    assert type(found["n_id"]) is type(found["n_ood"]) is int
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert fpr95([1, 1], [1, 1, 1]) == 1.0
    assert aupr_in([1, 1], [1, 1, 1]) == 0.4
    assert auroc([0], [1]) == 0.0
    assert detection_error([0, 0], [1]) == 0.5, "accepting nothing is wrong about half of them"
    assert detection_error([2, 3, 0, 0], [1, 1]) == 0.25


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


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=7), st.randoms())
@settings(deadline=None, max_examples=60)
def test_aurc_is_the_mean_over_every_order_of_equally_confident_images(rows, random):
    def area(order):
        return sum(sum(not right for _, right in order[:k]) / k for k in range(1, len(order) + 1)) / len(order)

    orders = [o for o in itertools.permutations(rows) if all(x[0] >= y[0] for x, y in itertools.pairwise(o))]
    confidence, correct = zip(*rows, strict=True)
    found = aurc(confidence, correct)
    assert found == pytest.approx(sum(map(area, orders)) / len(orders), abs=1e-12)
    assert type(found) is float
    random.shuffle(rows)
    assert aurc(*zip(*rows, strict=True)) == found, "the order of the rows changes no bit"


def test_known_aurc():
    assert aurc([3, 2, 1], [True, True, True]) == 0.0
    assert aurc([3, 2, 1], [False, False, False]) == 1.0
    assert aurc([np.inf, 0.5, -np.inf], [True, False, True]) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert aurc(np.zeros(50), np.arange(50) < 30) == pytest.approx(0.4, abs=1e-12)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "confidences must be a non-empty"),
        ([1.0, math.nan], [True, False], "1 of 2"),
        ([1.0, 2.0], [True], r"correct must be \(2,\) bool, got shape \(1,\)"),
        ([1.0, 2.0], [1, 0], "dtype int64"),
    ],
)
def test_what_aurc_refuses(confidence, correct, message):
    with pytest.raises(UsageError, match=message):
        aurc(confidence, correct)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
@settings(deadline=None)
def test_spread_over_seeds(values):
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)
    assert found.n == len(values)


def test_spread_of_equal_values_and_of_one():
    assert np.std([0.1] * 3, ddof=1) > 0, "the usual formula rounds"
    assert spread([0.1] * 3).std == 0.0
    assert spread([0.7]) == metrics.Spread(0.7, None, 1)
    assert spread([0.5, 0.9]).std == statistics.stdev([0.5, 0.9])
    for bad in ([], [[1.0]], [1.0, math.nan], [1.0, math.inf], ["a"]):
        with pytest.raises(UsageError, match=r"^values must"):
            spread(bad)


def test_public_names_exist_once():
    assert len(set(metrics.__all__)) == len(metrics.__all__)
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_everything_at_once_sorts_each_side_once_and_is_quicker_than_scikit_learn(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 50_000), rng.normal(0, 1, 10_000)
    y, s = pooled(a, b)

    def seconds(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    theirs = lambda: (roc_auc_score(y, s), roc_curve(y, s), average_precision_score(y, s))  # noqa: E731
    pairs = [(seconds(lambda: ood_metrics(a, b)), seconds(theirs)) for _ in range(5)]
    assert min(ours for ours, _ in pairs) < min(other for _, other in pairs)

    sorted_sizes = []
    sort = np.sort
    monkeypatch.setattr(np, "sort", lambda array: sorted_sizes.append(len(array)) or sort(array))
    monkeypatch.delattr(np, "argsort")
    ood_metrics(a, b)
    assert sorted_sizes == [50_000, 10_000]
