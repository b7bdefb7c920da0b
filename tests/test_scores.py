"""What every detector promises: scikit-learn's contract, the laws of a score, and light imports."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedstore.scores import (
    KMeansMahalanobisDetector,
    KNNClassifier,
    KNNDetector,
    MahalanobisDetector,
    NNGuideDetector,
    PrototypeDetector,
    ResidualDetector,
    StandardizedSum,
    ViMDetector,
)

rng = np.random.default_rng(0)

ESTIMATORS = [
    KNNDetector(),
    KNNClassifier(),
    MahalanobisDetector(),
    MahalanobisDetector(relative=True, covariance="class-mean", shrinkage="oas"),
    MahalanobisDetector(covariance="per-class", shrinkage="ledoit-wolf", normalize=True),
    KMeansMahalanobisDetector(n_clusters=2),
    NNGuideDetector(k=2),
    PrototypeDetector(),
    ResidualDetector(),
    StandardizedSum(),
    StandardizedSum(scale="rank"),
    ViMDetector(),
]


def expected_failures(estimator):
    if not getattr(estimator, "normalize", False):
        return {}
    return {"check_fit2d_1feature": "one feature of length 1 is its sign: no variance is left, and that is refused"}


# check_array_api_input and the pandas check skip themselves where their optional dependency is missing.


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


DETECTORS = [
    KNNDetector(),
    KNNDetector(k=5),
    KNNDetector(k=5, reduce="kth"),
    KNNDetector(k=5, reduce="exp", temperature=0.1),
    KNNDetector(k=5, metric="l2"),
    MahalanobisDetector(),
    MahalanobisDetector(relative=True),
    MahalanobisDetector(covariance="class-mean"),
    MahalanobisDetector(covariance="per-class", shrinkage="oas"),
    MahalanobisDetector(normalize=True, shrinkage="ledoit-wolf"),
    KMeansMahalanobisDetector(n_clusters=4),
    KMeansMahalanobisDetector(n_clusters=4, max_rows=50, covariance="per-class", shrinkage="oas", normalize=True),
    NNGuideDetector(k=3),
    PrototypeDetector(),
    ResidualDetector(dim=4),
]


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


def test_importing_the_scores_and_probes_wakes_no_heavy_library():
    program = """
import sys, embedstore.scores, embedstore.probes, embedstore.labels, embedstore.metrics, embedstore.correlation
heavy = {"torch", "faiss", "sklearn.linear_model", "sklearn.metrics", "sklearn.cluster", "sklearn.covariance"}
assert not heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
