"""Each published program's metrics, restated from its formulas, against ours: to 1e-12, ties and all."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from embedstore import metrics
from embedstore.errors import UnknownName, UsageError
from embedstore.metrics import METRIC_SETS, ood_metrics

CLOSE = pytest.approx
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=45)
anything = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=45)
twenties = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.integers(0, 30).map(float), min_size=20 * n, max_size=20 * n)
)
scores = st.one_of(tied, anything, twenties)

# Every kind in every step alike: the vertices between lie on one straight line.
STAIRS = [float(step) for step in range(40)]
# 20 ID scores, the last of them far below, and OOD scores in the gap: the plateau at a TPR of exactly 0.95.
PLATEAU = [*map(float, range(10, 29)), 0.0]
adversarial = [
    (STAIRS, STAIRS),
    (STAIRS, [*STAIRS, 40.0]),
    ([*STAIRS, 39.0], STAIRS),
    (STAIRS, [*STAIRS, 0.5]),
    ([s for s in STAIRS for _ in range(2)], STAIRS),
    (PLATEAU, [1.0, 2.0, 3.0, -1.0, -2.0]),
    (PLATEAU, [0.0, 0.0, 10.0]),
    ([1.0] * 20, [1.0] * 7),
    ([1.0] * 20, [2.0] * 7),
    ([2.0] * 20, [1.0] * 7),
    ([1.0], [1.0]),
    ([0.0], [1.0]),
    (list(map(float, range(10))), [0.5, 8.5]),
]


def cases(test):
    for a, b in adversarial:
        test = example(a, b)(test)
    return settings(deadline=None, max_examples=150)(given(scores, scores)(test))


def pooled(s_id, s_ood):
    return np.r_[np.ones(len(s_id)), np.zeros(len(s_ood))], np.r_[s_id, s_ood]


def official_fpr(s_id, s_ood, tpr):
    """The curve, then numpy's interpolation."""
    x, y, _ = roc_curve(*pooled(s_id, s_ood))
    return np.interp(tpr, y, x)


def mcm_fpr(s_id, s_ood, tpr):
    """Thresholds from the highest that accepts all ID images upwards; the first of those with the nearest recall."""
    thresholds = sorted({*s_id, *s_ood})
    start = max(t for t in thresholds if t <= min(s_id))
    vertices = [
        (sum(x >= t for x in s_id) / len(s_id), sum(y >= t for y in s_ood) / len(s_ood))
        for t in thresholds
        if t >= start
    ]
    return min(vertices, key=lambda vertex: abs(vertex[0] - tpr))[1]


def openood(s_id, s_ood, tpr):
    """OOD is the positive class of the negated scores."""
    y, s = pooled(s_id, s_ood)
    x, recall, _ = roc_curve(1 - y, -s)
    p_in, r_in, _ = precision_recall_curve(y, s)
    p_out, r_out, _ = precision_recall_curve(1 - y, -s)
    return {
        "auroc": auc(x, recall),
        "fpr95": x[np.argmax(recall >= tpr)],
        "aupr_in": auc(r_in, p_in),
        "aupr_out": auc(r_out, p_out),
    }


@cases
def test_official(a, b):
    y, s = pooled(a, b)
    found = ood_metrics(a, b, "official")
    assert found["auroc"] == CLOSE(roc_auc_score(y, s), abs=1e-12)
    assert found["fpr95"] == CLOSE(official_fpr(a, b, 0.95), abs=1e-12)


@cases
def test_mcm(a, b):
    y, s = pooled(a, b)
    found = ood_metrics(a, b, "mcm")
    assert found["auroc"] == CLOSE(roc_auc_score(y, s), abs=1e-12)
    assert found["aupr_in"] == CLOSE(average_precision_score(y, s), abs=1e-12)
    assert found["fpr95"] == CLOSE(mcm_fpr(a, b, 0.95), abs=1e-12)


@cases
def test_openood(a, b):
    found = ood_metrics(a, b, "openood")
    for name, value in openood(a, b, 0.95).items():
        assert found[name] == CLOSE(value, abs=1e-12), name


@cases
def test_ood_positive_is_the_first_vertex_of_the_whole_curve(a, b):
    y, s = pooled(a, b)
    x, recall, _ = roc_curve(1 - y, -s, drop_intermediate=False)
    assert metrics.fpr95_ood_positive(a, b) == CLOSE(x[np.argmax(recall >= 0.95)], abs=1e-12)


@given(scores, scores, st.integers(1, 20))
@example([0.0, 1.0], [0.0, 1.0], 10)  # scikit-learn never drops the first vertex
@settings(deadline=None)
def test_at_any_tpr(a, b, twentieths):
    tpr = twentieths / 20
    assert metrics.fpr_at_tpr_interpolated(a, b, tpr) == CLOSE(official_fpr(a, b, tpr), abs=1e-12)
    assert metrics.fpr_at_tpr_nearest(a, b, tpr) == CLOSE(mcm_fpr(a, b, tpr), abs=1e-12)
    assert metrics.fpr_at_tpr_openood(a, b, tpr) == CLOSE(openood(a, b, tpr)["fpr95"], abs=1e-12)
    mirrored = metrics.fpr_at_tpr(-np.array(b), -np.array(a), tpr)
    assert metrics.fpr_at_tpr_ood_positive(a, b, tpr) == mirrored


@pytest.mark.parametrize("n", [1000, 1001, 5000])
@pytest.mark.parametrize("decimals", [1, 3, 17])
def test_at_the_sizes_of_real_test_sets(n, decimals):
    rng = np.random.default_rng(n + decimals)
    a, b = rng.normal(1.5, 1, n).round(decimals), rng.normal(0, 1, n // 2).round(decimals)
    assert metrics.fpr95_interpolated(a, b) == CLOSE(official_fpr(a, b, 0.95), abs=1e-12)
    for name, value in openood(a, b, 0.95).items():
        assert ood_metrics(a, b, "openood")[name] == CLOSE(value, abs=1e-12)
    values = {metrics.fpr95(a, b), metrics.fpr95_interpolated(a, b), metrics.fpr95_nearest(a, b)}
    # Coarse scores step far; otherwise the three conventions are close.
    assert max(values) - min(values) < (0.1 if decimals == 1 else 0.03)


def test_conventions_differ_where_the_protocol_says_so():
    toy = PLATEAU, [1.0, 2.0, 3.0, -1.0, -2.0]
    assert metrics.fpr95(*toy) == 0.0
    assert metrics.fpr95_interpolated(*toy) == metrics.fpr95_nearest(*toy) == 0.6
    # Ten ID images: in floating point 0.9 is nearer to 0.95 than 1 is.
    ten = list(map(float, range(10))), [0.5, 8.5]
    assert (metrics.fpr95(*ten), metrics.fpr95_nearest(*ten)) == (1.0, 1.0)
    assert (metrics.fpr95(ten[0], [0.0]), metrics.fpr95_nearest(ten[0], [0.0])) == (1.0, 0.0)
    # scikit-learn drops every vertex of a straight curve, so OpenOOD's first one past 0.95 is its end.
    assert (metrics.fpr95_ood_positive(STAIRS, STAIRS), metrics.fpr95_openood(STAIRS, STAIRS)) == (0.95, 1.0)


@cases
def test_everything_at_once_is_each_function_to_the_last_bit(a, b):
    for preset, functions in METRIC_SETS.items():
        found = ood_metrics(a, b, preset)
        for name, metric in functions.items():
            assert found[name] == metric(a, b), (preset, name)
            assert type(found[name]) is float
            assert 0 <= found[name] <= 1
        assert found["auroc_low"] <= found["auroc"] <= found["auroc_high"]
        assert ("fpr95_low" in found) == ("fpr95_high" in found) == (preset == "default")
        if preset == "default":
            interval = metrics.fpr_interval(a, b)
            assert (found["fpr95_low"], found["fpr95_high"]) == (interval.low, interval.high)
            assert interval.low <= found["fpr95"] <= interval.high


def test_presets_name_the_same_results():
    common = {"auroc", "fpr95", "aupr_in", "aupr_out", "detection_error"}
    assert set(METRIC_SETS) == {"default", "official", "mcm", "openood"}
    assert {preset: set(functions) - common for preset, functions in METRIC_SETS.items()} == {
        "default": {"fpr95_ood_positive"}, "official": set(), "mcm": set(), "openood": set(),
    }  # fmt: skip
    assert [METRIC_SETS[preset]["fpr95"] for preset in METRIC_SETS] == [
        metrics.fpr95, metrics.fpr95_interpolated, metrics.fpr95_nearest, metrics.fpr95_openood,
    ]  # fmt: skip
    with pytest.raises(TypeError):
        METRIC_SETS["default"]["auroc"] = None
    with pytest.raises(UnknownName, match=r"unknown metric preset 'offical'. Did you mean 'official'\?"):
        ood_metrics([1], [0], "offical")


@pytest.mark.parametrize("name", ["interpolated", "nearest", "ood_positive", "openood"])
@pytest.mark.parametrize("tpr", [0, -0.1, 1.1, np.nan])
def test_tpr_outside_its_range(name, tpr):
    with pytest.raises(UsageError, match="tpr"):
        getattr(metrics, f"fpr_at_tpr_{name}")([1], [0], tpr)


def test_infinite_scores():
    a, b = [np.inf, np.inf, 1.0, -np.inf], [np.inf, 0.0, -np.inf]
    order = {np.inf: 3.0, 1.0: 2.0, 0.0: 1.0, -np.inf: 0.0}
    for preset in METRIC_SETS:
        finite = ood_metrics([order[s] for s in a], [order[s] for s in b], preset)
        assert ood_metrics(a, b, preset) == finite
