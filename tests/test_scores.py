"""Scores of logits and features: independent oracles, scikit-learn's contract, and the laws of a score."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedstore.errors import NotAvailable, UsageError
from embedstore.scores import LOGIT_SCORES, KNNClassifier, KNNDetector, MahalanobisDetector, energy, max_logit, msp
from embedstore.scores import mahalanobis as mahalanobis_module

rng = np.random.default_rng(0)
logits = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.floats(-50, 50))
temperatures = st.sampled_from([0.01, 0.5, 1.0, 10.0])


# ---- logits ----------------------------------------------------------------------------------------------------------


@given(logits, temperatures)
@settings(deadline=None)
def test_logit_scores_equal_scipy(z, t):
    np.testing.assert_allclose(msp(z, t), scipy.special.softmax(z / t, axis=1).max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(energy(z, t), t * scipy.special.logsumexp(z / t, axis=1), rtol=1e-12, atol=1e-12)
    assert np.array_equal(max_logit(z), z.max(axis=1))


@given(logits, st.floats(-100, 100))
@settings(deadline=None)
def test_shifting_a_row(z, shift):
    np.testing.assert_allclose(msp(z + shift), msp(z), rtol=1e-10)
    np.testing.assert_allclose(energy(z + shift), energy(z) + shift, atol=1e-10)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_each_row_is_scored_by_itself_bit_for_bit(name):
    z = rng.standard_normal((50, 13)).astype(np.float32)
    score = LOGIT_SCORES[name]
    whole, order = score(z), rng.permutation(50)
    assert whole.dtype == np.float64
    assert whole.shape == (50,)
    assert np.array_equal(score(z[order]), whole[order])
    assert np.array_equal(np.concatenate([score(row[None]) for row in z]), whole)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_a_row_without_logits_has_no_score_and_the_others_do(name):
    z = np.array([[1.0, 2.0], [np.nan, np.nan]])
    found = LOGIT_SCORES[name](z)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_logits_too_large_for_exp():
    z = np.array([[1e5, 0.0], [-1e5, -1e5], [6e4, 6e4]])
    np.testing.assert_allclose(msp(z), [1, 0.5, 0.5])
    np.testing.assert_allclose(energy(z), [1e5, -1e5 + np.log(2), 6e4 + np.log(2)])
    assert np.isfinite(energy(np.full((1, 3), 6e4, np.float16), temperature=0.01)).all()


def test_the_input_is_not_written_to():
    z = rng.standard_normal((3, 4))
    before = z.copy()
    for score in LOGIT_SCORES.values():
        score(z)
    assert np.array_equal(z, before)


@pytest.mark.parametrize("name", LOGIT_SCORES)
@pytest.mark.parametrize("bad", [np.ones(3), np.empty((3, 0)), np.array([["a"]])])
def test_what_is_not_a_matrix_of_logits(name, bad):
    with pytest.raises(UsageError, match=r"\(N, C\)"):
        LOGIT_SCORES[name](bad)


@pytest.mark.parametrize("temperature", [0, -1, np.nan])
def test_temperature_must_be_positive(temperature):
    for score in (msp, energy):
        with pytest.raises(UsageError, match="temperature"):
            score(np.ones((1, 2)), temperature)


# ---- estimators: what all of them promise ----------------------------------------------------------------------------

ESTIMATORS = [KNNDetector(), KNNClassifier(), MahalanobisDetector(), MahalanobisDetector(relative=True)]
# check_array_api_input and the pandas check skip themselves where their optional dependency is missing.


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


DETECTORS = [KNNDetector(), KNNDetector(k=5), MahalanobisDetector(), MahalanobisDetector(relative=True)]


@pytest.fixture(scope="module")
def data():
    y = np.repeat(np.arange(4), 30)
    centres = 3 * rng.standard_normal((4, 10))
    X = (centres[y] + rng.standard_normal((120, 10))).astype(np.float32)
    near = (centres[rng.integers(0, 4, 60)] + rng.standard_normal((60, 10))).astype(np.float32)
    far = (6 * rng.standard_normal((60, 10))).astype(np.float32)
    return X, y, near, far


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_scores_are_higher_in_distribution_and_ignore_the_batch(detector, data):
    X, y, near, far = data
    fitted = clone(detector).fit(X, y)
    s = fitted.score_samples(near)
    assert s.dtype == np.float64
    assert s.shape == (60,)
    assert np.median(s) > np.median(fitted.score_samples(far))
    order = rng.permutation(60)
    np.testing.assert_allclose(fitted.score_samples(near[order]), s[order], rtol=1e-6, atol=1e-6)
    one_by_one = np.concatenate([fitted.score_samples(row[None]) for row in near])
    np.testing.assert_allclose(one_by_one, s, rtol=1e-6, atol=1e-6)
    again = fitted.fit(X[::-1], y[::-1]).fit(X, y).score_samples(near)
    assert np.array_equal(again, s)


# ---- nearest neighbours ----------------------------------------------------------------------------------------------


def cosines(a, b):
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a.astype(float), b.astype(float)))
    return a @ b.T


@pytest.mark.parametrize("k", [1, 7, 120])
def test_knn_score_is_the_mean_of_the_largest_cosines(k, data):
    X, _, near, _ = data
    expected = np.sort(cosines(near, X), axis=1)[:, -k:].mean(axis=1)
    np.testing.assert_allclose(KNNDetector(k).fit(X).score_samples(near), expected, atol=1e-6)


def test_one_nearest_ranks_as_the_exponentiated_similarity(data):
    X, _, near, _ = data
    ours = KNNDetector().fit(X).score_samples(near)
    assert np.array_equal(np.argsort(ours), np.argsort(np.exp(cosines(near, X).max(axis=1) / 0.02)))


@pytest.mark.parametrize("k", [0, 121])
def test_knn_detector_refuses_a_k_that_the_bank_cannot_give(k, data):
    with pytest.raises(UsageError, match=f"k={k} .*n_samples=120"):
        KNNDetector(k).fit(data[0])


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.02), (20, 0.02), (20, 1.0), (500, 0.1)])
def test_knn_classifier_equals_the_naive_vote(k, temperature):
    names = np.array(["b", "a", "c"])
    X, y, queries = rng.standard_normal((90, 5)), names[rng.integers(0, 3, 90)], rng.standard_normal((60, 5))
    similarity = cosines(queries, X)
    for row, found in zip(similarity, KNNClassifier(k, temperature).fit(X, y).predict(queries), strict=True):
        votes = dict.fromkeys("abc", 0.0)
        for i in np.argsort(-row)[:k]:
            votes[y[i]] += np.exp(row[i] / temperature)
        assert found == max(votes, key=votes.get)


def test_knn_votes_do_not_overflow():
    X = np.eye(3, dtype=np.float32)
    assert KNNClassifier(k=3, temperature=1e-4).fit(X, [2, 1, 0]).predict(X).tolist() == [2, 1, 0]


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0}])
def test_knn_classifier_refuses_what_cannot_vote(bad):
    with pytest.raises(UsageError, match="must be positive"):
        KNNClassifier(**bad).fit(np.eye(3), [0, 1, 2])


# ---- Mahalanobis -----------------------------------------------------------------------------------------------------


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
        monkeypatch.setattr(mahalanobis_module, "_BLOCK", block)
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


def test_importing_the_scores_and_probes_wakes_no_heavy_library():
    program = """
import sys, embedstore.scores, embedstore.probes, embedstore.labels, embedstore.metrics, embedstore.correlation
assert not {"torch", "faiss", "sklearn.linear_model", "sklearn.metrics"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
