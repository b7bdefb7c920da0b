"""Mahalanobis distances against explicit inverses, scikit-learn's covariances and the released formulas restated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.covariance import OAS, EmpiricalCovariance, LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.scores import MahalanobisDetector
from embedstore.scores import features as features_module

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data():
    y = np.repeat(np.arange(4), 30)
    centres = 3 * rng.standard_normal((4, 10))
    X = (centres[y] + rng.standard_normal((120, 10))).astype(np.float32)
    near = (centres[rng.integers(0, 4, 60)] + rng.standard_normal((60, 10))).astype(np.float32)
    far = (6 * rng.standard_normal((60, 10))).astype(np.float32)
    return X, y, near, far


@pytest.fixture
def unequal(data):
    """Classes of 30, 20, 1 and 28 rows, in no order; and queries."""
    X, y, near, far = data
    keep = np.random.default_rng(1).permutation(np.r_[0:30, 30:50, 60:61, 90:118])
    return X[keep].astype(float), y[keep], np.concatenate([near, far]).astype(float)


def naive_mahalanobis(X, y, queries, relative, ridge=0.0):
    """Loops and an explicit inverse."""
    X, queries, width = X.astype(float), queries.astype(float), X.shape[1]
    means = {c: X[y == c].mean(axis=0) for c in np.unique(y)}
    within = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(X, y, strict=True)) / (len(X) - len(means))
    whole = np.cov(X, rowvar=False)
    inverse, inverse_0 = (np.linalg.inv(S + ridge * np.trace(S) / width * np.eye(width)) for S in (within, whole))
    out = []
    for x in queries:
        d = min((x - m) @ inverse @ (x - m) for m in means.values())
        d_0 = (x - X.mean(axis=0)) @ inverse_0 @ (x - X.mean(axis=0)) if relative else 0.0
        out.append(-(d - d_0))
    return np.array(out)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_mahalanobis_equals_the_naive_formula(relative, ridge, offset, data, monkeypatch):
    """Classes of unequal size, one of them a single row, and features far from the origin; in blocks and in one go."""
    X, y, near, far = data
    keep = np.r_[0:30, 30:40, 60:61, 90:118]
    X, y, queries = X[keep].astype(float) + offset, y[keep], np.concatenate([near, far]) + offset
    expected = naive_mahalanobis(X, y, queries, relative, ridge)
    for block in (7, 4096):
        monkeypatch.setattr(features_module, "BLOCK", block)
        detector = MahalanobisDetector(relative, ridge).fit(X, y)
        np.testing.assert_allclose(detector.score_samples(queries), expected, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(detector.means_, [X[y == c].mean(axis=0) for c in range(4)], rtol=1e-12)


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_mahalanobis_does_not_see_an_affine_map(seed):
    """Without the ridge, distances do not change when the features are rotated, stretched and moved."""
    random = np.random.default_rng(seed)
    X, y = random.standard_normal((60, 4)), np.arange(60) % 3
    A, b = random.standard_normal((4, 4)) + 3 * np.eye(4), random.standard_normal(4)
    for relative in (False, True):
        plain = MahalanobisDetector(relative, ridge=0).fit(X, y).score_samples(X)
        mapped = MahalanobisDetector(relative, ridge=0).fit(X @ A + b, y).score_samples(X @ A + b)
        np.testing.assert_allclose(mapped, plain, rtol=1e-6, atol=1e-6)


def test_mahalanobis_predicts_the_nearest_mean(data):
    X, y, near, _ = data
    names = np.array(["w", "x", "y", "z"])
    detector = MahalanobisDetector().fit(X, names[y])
    assert detector.score(X, names[y]) > 0.95
    assert np.array_equal(detector.predict(near), MahalanobisDetector(relative=True).fit(X, names[y]).predict(near))


def test_fewer_rows_than_features_need_the_ridge():
    X, y = rng.standard_normal((20, 50)), np.arange(20) % 2
    scores = MahalanobisDetector().fit(X, y).score_samples(X)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() < 1e8
    with pytest.raises(NotAvailable, match=r"singular.*50 features"):
        MahalanobisDetector(ridge=0).fit(X, y)
    for seed in range(20):  # the factorisation alone lets about half of these through, by the luck of rounding
        X = np.random.default_rng(seed).standard_normal((100, 3))
        X[:, 2] = X[:, 0] + X[:, 1]
        with pytest.raises(NotAvailable, match="singular"):
            MahalanobisDetector(ridge=0).fit(X, np.arange(100) % 2)


def test_mahalanobis_without_spread():
    with pytest.raises(NotAvailable, match="class with two rows: n_samples=3"):
        MahalanobisDetector().fit(np.eye(3), [0, 1, 2])
    with pytest.raises(NotAvailable, match="within the classes is zero"):
        MahalanobisDetector().fit(np.full((6, 3), 0.1), [0, 1] * 3)
    with pytest.raises(UsageError, match="ridge"):
        MahalanobisDetector(ridge=-1).fit(np.eye(3), [0, 0, 1])


# ---- the released formulas, restated ---------------------------------------------------------------------------------


def released(X, y, queries, relative):
    """Adaloglou et al. as released: inverse of the unweighted mean of unbiased class covariances; no singletons."""
    kept = [c for c in np.unique(y) if (y == c).sum() > 1]
    covariance = np.mean([np.cov(X[y == c], rowvar=False) for c in kept], axis=0)
    means = np.array([X[y == c].mean(axis=0) for c in kept])
    d = np.square(cdist(queries, means, "mahalanobis", VI=np.linalg.inv(covariance)))
    if not relative:
        return -d.min(axis=1)
    whole = np.linalg.inv(np.cov(X, rowvar=False))  # singletons included
    d_0 = np.square(cdist(queries, X.mean(axis=0)[None], "mahalanobis", VI=whole))
    return -(d - d_0).min(axis=1)


@pytest.mark.parametrize("relative", [False, True])
def test_class_mean_covariance_is_the_released_formula(relative, unequal):
    X, y, queries = unequal
    detector = MahalanobisDetector(relative, ridge=0, covariance="class-mean").fit(X, y)
    np.testing.assert_allclose(detector.score_samples(queries), released(X, y, queries, relative), rtol=1e-9)
    assert detector.classes_.tolist() == [0, 1, 3]  # class 2 has a single row


def test_class_mean_and_pooled_differ_unless_classes_are_of_equal_size(data, unequal):
    X, y, near, _ = data
    scores = [MahalanobisDetector(covariance=how).fit(X, y).score_samples(near) for how in ("pooled", "class-mean")]
    np.testing.assert_allclose(*scores, rtol=1e-9)
    X, y, queries = unequal
    scores = [MahalanobisDetector(covariance=how).fit(X, y).score_samples(queries) for how in ("pooled", "class-mean")]
    assert np.abs(scores[0] / scores[1] - 1).max() > 0.01


@pytest.mark.parametrize("relative", [False, True])
def test_openood_divides_by_all_rows(relative, unequal):
    """MDS and RMDS of OpenOOD take scikit-learn's EmpiricalCovariance, over N where ours is over N - C and N - 1."""
    X, y, queries = unequal
    apart = np.concatenate([X[y == c] - X[y == c].mean(axis=0) for c in range(4)])
    within, whole = (EmpiricalCovariance().fit(rows).precision_ for rows in (apart, X - X.mean(axis=0)))
    means = np.array([X[y == c].mean(axis=0) for c in range(4)])
    d = np.square(cdist(queries, means, "mahalanobis", VI=within)).min(axis=1)
    d_0 = np.square(cdist(queries, X.mean(axis=0)[None], "mahalanobis", VI=whole))[:, 0]
    n = len(X)
    expected = -d * (n - 4) / n + (d_0 * (n - 1) / n if relative else 0)
    found = MahalanobisDetector(relative, ridge=0).fit(X, y).score_samples(queries)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(("shrinkage", "oracle"), [(None, None), ("oas", OAS), ("ledoit-wolf", LedoitWolf)])
def test_per_class_covariances_equal_scikit_learn(relative, shrinkage, oracle, unequal):
    X, y, queries = unequal
    detector = MahalanobisDetector(relative, ridge=0, covariance="per-class", shrinkage=shrinkage).fit(X, y)

    def precision(rows):
        if oracle is None:
            return np.linalg.inv(np.cov(rows, rowvar=False))
        return np.linalg.inv(oracle().fit(rows).covariance_ * len(rows) / (len(rows) - 1))  # theirs is over N

    ds = [
        np.square(cdist(queries, X[y == c].mean(axis=0)[None], "mahalanobis", VI=precision(X[y == c])))[:, 0]
        for c in (0, 1, 3)
    ]
    d_0 = np.square(cdist(queries, X.mean(axis=0)[None], "mahalanobis", VI=precision(X)))[:, 0]
    expected = -np.min(ds, axis=0) + (d_0 if relative else 0)
    np.testing.assert_allclose(detector.score_samples(queries), expected, rtol=1e-8, atol=1e-8)
    assert np.array_equal(detector.predict(queries), np.array([0, 1, 3])[np.argmin(ds, axis=0)])


@pytest.mark.parametrize(("shrinkage", "oracle"), [("oas", OAS), ("ledoit-wolf", LedoitWolf)])
@pytest.mark.parametrize("rows_per_class", [3, 30])
def test_pooled_shrinkage_equals_scikit_learn(shrinkage, oracle, rows_per_class, data, monkeypatch):
    """Also with fewer rows than features, and however the rows are cut into blocks."""
    X, y, near, _ = data
    keep = np.concatenate([np.flatnonzero(y == c)[:rows_per_class] for c in range(4)])
    X, y = X[keep].astype(float), y[keep]
    apart = np.concatenate([X[y == c] - X[y == c].mean(axis=0) for c in range(4)])
    covariance = oracle(assume_centered=True).fit(apart).covariance_ * len(X) / (len(X) - 4)
    means = np.array([X[y == c].mean(axis=0) for c in range(4)])
    d = np.square(cdist(near, means, "mahalanobis", VI=np.linalg.inv(covariance)))
    for block in (5, 4096):
        monkeypatch.setattr(features_module, "BLOCK", block)
        found = MahalanobisDetector(ridge=0, shrinkage=shrinkage).fit(X, y)
        np.testing.assert_allclose(found.score_samples(near), -d.min(axis=1), rtol=1e-8)


def test_predictions_equal_linear_discriminant_analysis(data):
    X, y, near, far = data
    queries = np.concatenate([near, far])
    oracle = LinearDiscriminantAnalysis(priors=[0.25] * 4).fit(X.astype(float), y)
    assert np.array_equal(MahalanobisDetector(ridge=0).fit(X, y).predict(queries), oracle.predict(queries))


# ---- laws and degenerate input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["pooled", "class-mean", "per-class"])
@pytest.mark.parametrize("relative", [False, True])
def test_normalised_distances_do_not_see_the_length_of_rows(covariance, relative, data):
    X, y, near, _ = data
    stretch = np.random.default_rng(3).uniform(0.1, 10, (180, 1))
    how = {"relative": relative, "covariance": covariance, "normalize": True, "ridge": 1e-3}
    plain = MahalanobisDetector(**how).fit(X.astype(float), y).score_samples(near.astype(float))
    stretched = MahalanobisDetector(**how).fit(X * stretch[:120], y).score_samples(near * stretch[120:])
    np.testing.assert_allclose(stretched, plain, rtol=1e-6, atol=1e-6)
    by_hand, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X.astype(float), near.astype(float)))
    unscaled = MahalanobisDetector(**{**how, "normalize": False}).fit(by_hand, y).score_samples(queries)
    np.testing.assert_allclose(plain, unscaled, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("covariance", ["pooled", "class-mean", "per-class"])
def test_one_class_has_no_relative_distance(covariance, data):
    X, _, near, _ = data
    y = np.zeros(len(X), int)
    alone = MahalanobisDetector(covariance=covariance).fit(X, y)
    inverse = np.linalg.inv(np.cov(X.astype(float), rowvar=False))
    apart = near - X.astype(float).mean(axis=0)
    np.testing.assert_allclose(alone.score_samples(near), -np.einsum("nd,de,ne->n", apart, inverse, apart), rtol=1e-4)
    relative = MahalanobisDetector(True, covariance=covariance).fit(X, y).score_samples(near)
    np.testing.assert_allclose(relative, 0, atol=1e-7)


@pytest.mark.parametrize("covariance", ["pooled", "class-mean", "per-class"])
def test_a_constant_feature_is_held_by_the_ridge_and_speaks_when_it_changes(covariance, data):
    X, y, near, _ = data
    X, near = (np.column_stack([v, np.full(len(v), 0.3)]) for v in (X, near))
    detector = MahalanobisDetector(covariance=covariance).fit(X, y)
    moved = near.copy()
    moved[:, -1] += 1
    assert np.isfinite(detector.score_samples(near)).all()
    assert (detector.score_samples(moved) < detector.score_samples(near) - 1e3).all()
    with pytest.raises(NotAvailable, match="singular"):
        MahalanobisDetector(ridge=0, covariance=covariance).fit(X, y)


@pytest.mark.parametrize("covariance", ["pooled", "class-mean", "per-class"])
def test_a_large_constant_feature_does_not_hide_that_small_ones_vary(covariance, data):
    X, y, near, _ = data
    small, queries = (1e-7 * v.astype(float) for v in (X, near))
    beside = [np.column_stack([v, np.full(len(v), 1e6)]) for v in (small, queries)]
    how = {"covariance": covariance, "relative": True, "shrinkage": "oas"}
    found = MahalanobisDetector(**how).fit(beside[0], y).predict(beside[1])
    assert np.array_equal(found, MahalanobisDetector(**how).fit(small, y).predict(queries))
    with pytest.raises(NotAvailable, match="is zero: the features do not vary there"):
        MahalanobisDetector(**how).fit(np.full((120, 3), [1e6, 0.1, 0]) + 1e6 * y[:, None], y)


def test_a_tie_goes_to_the_first_class():
    X = np.array([[-2.0, 1], [-2, -1], [2, 1], [2, -1]])
    assert MahalanobisDetector().fit(X, ["a", "a", "b", "b"]).predict([[0.0, 0.0]]).tolist() == ["a"]


@pytest.mark.parametrize("bad", [{"covariance": "tied"}, {"shrinkage": "lw"}])
def test_unknown_estimates_are_named(bad):
    with pytest.raises(UnknownName, match="Known: "):
        MahalanobisDetector(**bad).fit(np.eye(4), [0, 0, 1, 1])
