"""k-means clusters as classes: against scikit-learn's k-means and explicit inverses."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from embedstore.errors import NotAvailable, UsageError
from embedstore.scores import KMeansMahalanobisDetector, MahalanobisDetector
from embedstore.scores import features as features_module


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(4), 40))
    centres = 5 * rng.standard_normal((4, 6))
    X, queries = centres[y] + rng.standard_normal((160, 6)), 4 * rng.standard_normal((50, 6))
    return X, y, queries


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("covariance", ["pooled", "per-class"])
def test_distances_equal_the_naive_formula_over_scikit_learns_clusters(relative, covariance, data):
    X, _, queries = data
    y = KMeans(6, n_init=1, random_state=3).fit(X.astype(np.float32)).labels_
    present = [c for c in range(6) if (y == c).sum() > 1]
    apart = np.concatenate([X[y == c] - X[y == c].mean(axis=0) for c in range(6)])
    pooled = apart.T @ apart / (len(X) - len(np.unique(y)))
    own = {c: pooled if covariance == "pooled" else np.cov(X[y == c], rowvar=False) for c in present}

    def d(mean, inverse):
        return np.square(cdist(queries, mean[None], "mahalanobis", VI=inverse))[:, 0]

    ridges = {c: S + 1e-3 * np.trace(S) / 6 * np.eye(6) for c, S in own.items()}
    expected = -np.min([d(X[y == c].mean(axis=0), np.linalg.inv(ridges[c])) for c in present], axis=0)
    if relative:
        whole = np.cov(X, rowvar=False)
        expected += d(X.mean(axis=0), np.linalg.inv(whole + 1e-3 * np.trace(whole) / 6 * np.eye(6)))
    detector = KMeansMahalanobisDetector(6, relative, 1e-3, covariance, seed=3).fit(X)
    np.testing.assert_allclose(detector.score_samples(queries), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_clusters_that_stand_apart_are_the_classes(normalize, dtype, data):
    X, y, queries = data
    X = X.astype(dtype)
    detector = KMeansMahalanobisDetector(4, normalize=normalize).fit(X)
    labelled = MahalanobisDetector(normalize=normalize).fit(X, y)
    np.testing.assert_allclose(detector.score_samples(queries), labelled.score_samples(queries), rtol=1e-9)


def test_one_cluster_is_the_distance_to_the_mean(data):
    X, _, queries = data
    S = np.cov(X, rowvar=False)
    inverse = np.linalg.inv(S + 1e-6 * np.trace(S) / 6 * np.eye(6))
    expected = -np.square(cdist(queries, X.mean(axis=0)[None], "mahalanobis", VI=inverse))[:, 0]
    found = KMeansMahalanobisDetector(1).fit(X).score_samples(queries)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_sample_of_the_rows_finds_the_clusters_of_all(data, monkeypatch):
    """k-means sees some rows, every row counts in the covariances; and blocks change nothing."""
    X, y, queries = data
    labelled = MahalanobisDetector().fit(X, y).score_samples(queries)
    for block in (13, 4096):
        monkeypatch.setattr(features_module, "BLOCK", block)
        found = KMeansMahalanobisDetector(4, max_rows=60).fit(X)
        np.testing.assert_allclose(found.score_samples(queries), labelled, rtol=1e-9)


def test_a_seed_gives_the_same_scores_again(data):
    X, _, queries = data
    scores = [KMeansMahalanobisDetector(9, seed=seed).fit(X).score_samples(queries) for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_normalised_clusters_do_not_see_the_length_of_rows(data):
    """Clusters that overlap, and so have means of many lengths: it matters which rows are assigned to them."""
    queries, random = data[2], np.random.default_rng(1)
    X, stretch = random.standard_normal((300, 6)), random.uniform(0.1, 10, (300, 1))
    plain, stretched = (
        KMeansMahalanobisDetector(9, ridge=1e-3, normalize=True).fit(rows).score_samples(queries)
        for rows in (X, X * stretch)
    )
    np.testing.assert_allclose(stretched, plain, rtol=1e-4)


@pytest.mark.parametrize("bad", [{"n_clusters": 0}, {"n_clusters": 161}, {"n_clusters": 51, "max_rows": 50}])
def test_more_clusters_than_rows(bad, data):
    with pytest.raises(UsageError, match=r"n_clusters=\d+ clusters of \d+ rows"):
        KMeansMahalanobisDetector(**bad).fit(data[0])


def test_every_row_its_own_cluster_has_no_covariance(data):
    with pytest.raises(NotAvailable, match="class with two rows"):
        KMeansMahalanobisDetector(20).fit(data[0][:20])


@pytest.mark.parametrize("seen", [40_000, 39_999])
def test_k_means_works_on_two_copies_and_leaves_the_features_alone(seen):
    X = np.random.default_rng(0).standard_normal((40_000, 64)).astype(np.float32)
    X.setflags(write=False)
    KMeansMahalanobisDetector(2).fit(X[:500])  # what scikit-learn needs once
    drawn = X if seen == len(X) else X[np.sort(np.random.default_rng(0).choice(len(X), seen, replace=False))]
    expected = KMeans(2, n_init=1, random_state=0).fit(drawn).cluster_centers_
    tracemalloc.start()
    found = KMeansMahalanobisDetector(2, max_rows=seen).fit(X).centres_
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert peak < 2.3 * X.nbytes  # two copies, and per row some numbers in float64
