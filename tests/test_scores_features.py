"""ViM, residual, NNGuide and prototypes against the published formulas, restated as OpenOOD has them or in loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestCentroid

from embedstore.errors import NotAvailable, UsageError
from embedstore.scores import NNGuideDetector, PrototypeDetector, ResidualDetector, ViMDetector, vim
from embedstore.scores import features as features_module


@pytest.fixture(scope="module")
def data():
    """Four classes in 10 features: training rows, labels, near and far queries; the linear head of their centres."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(4), 30))
    centres = 3 * rng.standard_normal((4, 10))
    X = centres[y] + rng.standard_normal((120, 10))
    near = centres[rng.integers(0, 4, 60)] + rng.standard_normal((60, 10))
    far = 6 * rng.standard_normal((60, 10))
    head = centres, -np.square(centres).sum(axis=1) / 2  # nearest centre
    return X, y, near, far, head


# ---- ViM and residual ------------------------------------------------------------------------------------------------


def openood_vim(X, weights, offsets, dim, queries):
    """Residual and ViM, as the two post-processors compute them."""
    u = -np.matmul(np.linalg.pinv(weights), offsets)
    covariance = EmpiricalCovariance(assume_centered=True).fit(X - u).covariance_
    values, vectors = np.linalg.eig(covariance)
    null_space = vectors.T[np.argsort(values * -1)[dim:]].T
    virtual = np.linalg.norm((X - u) @ null_space, axis=-1)
    alpha = (X @ weights.T + offsets).max(axis=-1).mean() / virtual.mean()
    residual = np.linalg.norm((queries - u) @ null_space, axis=-1)
    return -residual, logsumexp(queries @ weights.T + offsets, axis=-1) - residual * alpha, alpha


@pytest.mark.parametrize("dim", [0, 3, 9])
@pytest.mark.parametrize("block", [7, 4096])
def test_vim_and_residual_equal_openood(dim, block, data, monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK", block)
    X, _, near, far, (coef, intercept) = data
    queries = np.concatenate([near, far])
    residual, expected, alpha = openood_vim(X, coef, intercept, dim, queries)
    found = ResidualDetector(coef, intercept, dim=dim).fit(X)
    np.testing.assert_allclose(found.score_samples(queries), residual, rtol=1e-9)
    detector = ViMDetector(coef, intercept, dim=dim).fit(X)
    np.testing.assert_allclose(detector.score_samples(queries), expected, rtol=1e-9, atol=1e-9)
    assert detector.alpha_ == pytest.approx(alpha, rel=1e-10)


def test_without_a_head_the_features_are_logits(data):
    X, _, near, _, _ = data
    residual, expected, _ = openood_vim(X, np.eye(10), np.zeros(10), 5, near)
    np.testing.assert_allclose(ResidualDetector().fit(X).score_samples(near), residual, rtol=1e-9)
    np.testing.assert_allclose(ViMDetector().fit(X).score_samples(near), expected, rtol=1e-9)


@pytest.mark.parametrize("detector", [ResidualDetector, ViMDetector])
def test_far_features_score_lower_and_a_rotation_changes_nothing(detector, data):
    X, _, near, far, (coef, intercept) = data
    scores = detector(coef, intercept, 4).fit(X)
    assert np.median(scores.score_samples(near)) > np.median(scores.score_samples(far))
    one_by_one = [scores.score_samples(row[None])[0] for row in near]
    np.testing.assert_allclose(one_by_one, scores.score_samples(near), rtol=1e-10)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))
    turned = detector(coef @ turn, intercept, 4).fit(X @ turn)
    np.testing.assert_allclose(turned.score_samples(near @ turn), scores.score_samples(near), rtol=1e-8)


def test_a_standardised_head_moves_into_the_weights(data):
    """What the docstring says of heads trained on (x - mean) / scale; PCA aside, the energy is the head's own."""
    X, _, near, _, (coef, intercept) = data
    mean, scale = X.mean(axis=0), X.std(axis=0)
    raw = coef / scale, intercept - (coef / scale) @ mean
    detector = ViMDetector(*raw, dim=4).fit(X)
    virtual = detector.alpha_ * ResidualDetector(*raw, dim=4).fit(X).score_samples(near)
    energies = logsumexp((near - mean) / scale @ coef.T + intercept, axis=1)
    np.testing.assert_allclose(detector.score_samples(near) - virtual, energies, rtol=1e-9)


@pytest.mark.parametrize(("width", "dim"), [(10, 5), (767, 383), (768, 512), (2047, 512), (2048, 1000)])
def test_the_dimension_is_that_of_the_authors_code_where_it_fits(width, dim):
    assert vim._default_dim(width) == dim


def test_rows_within_the_principal_space_have_no_residual():
    X = np.random.default_rng(0).standard_normal((50, 3)) @ np.random.default_rng(1).standard_normal((3, 8))
    np.testing.assert_allclose(ResidualDetector(dim=3).fit(X).score_samples(X), 0, atol=1e-9)
    with pytest.raises(NotAvailable, match="the 50 rows have no residual outside 3 directions"):
        ViMDetector(dim=3).fit(X)


def test_a_constant_feature_costs_nothing(data):
    X, _, near, _, _ = data
    wider = [np.column_stack([v, np.zeros(len(v))]) for v in (X, near)]
    scores = ResidualDetector(dim=4).fit(wider[0]).score_samples(wider[1])
    np.testing.assert_allclose(scores, ResidualDetector(dim=4).fit(X).score_samples(near), rtol=1e-9)


@pytest.mark.parametrize("detector", [ResidualDetector, ViMDetector])
@pytest.mark.parametrize("dim", [-1, 10])
def test_dimensions_that_are_not_there(detector, dim, data):
    with pytest.raises(UsageError, match=f"dim={dim} principal directions of 10 features"):
        detector(dim=dim).fit(data[0])


@pytest.mark.parametrize("detector", [ResidualDetector, ViMDetector, NNGuideDetector])
@pytest.mark.parametrize(
    ("coef", "intercept", "message"),
    [
        (np.ones((4, 9)), None, r"\(C, 10\).*\(4, 9\)"),
        (np.ones(10), None, r"\(C, 10\)"),
        (np.empty((0, 10)), None, r"\(0, 10\)"),
        (np.ones((4, 10)), np.ones(3), r"\(4,\).*\(3,\)"),
        (np.full((4, 10), np.nan), None, "finite"),
    ],
)
def test_heads_that_do_not_fit(detector, coef, intercept, message, data):
    with pytest.raises(UsageError, match=message):
        detector(coef, intercept).fit(data[0])


# ---- NNGuide ---------------------------------------------------------------------------------------------------------


def naive_nnguide(X, weights, offsets, k, queries):
    """One query and one row at a time."""
    out = []
    for x in queries:
        products = []
        for r in X:
            energy = np.log(sum(np.exp(w @ r + b) for w, b in zip(weights, offsets, strict=True)))
            products.append(energy * (r @ x) / (np.linalg.norm(r) * np.linalg.norm(x)))
        energy = np.log(sum(np.exp(w @ x + b) for w, b in zip(weights, offsets, strict=True)))
        out.append(energy * np.mean(sorted(products)[-k:]))
    return np.array(out)


@pytest.mark.parametrize("k", [1, 10, 120])
def test_nnguide_equals_the_naive_formula(k, data):
    X, _, near, far, (coef, intercept) = data
    queries = np.concatenate([near[:8], far[:8]])
    expected = naive_nnguide(X, coef, intercept, k, queries)
    found = NNGuideDetector(coef, intercept, k).fit(X).score_samples(queries)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_guidance_does_not_see_the_length_of_a_query(seed):
    """Score over energy is the guidance: a mean of products with the direction of the query alone."""
    rng = np.random.default_rng(seed)
    X, queries, coef = rng.standard_normal((30, 5)), rng.standard_normal((6, 5)), rng.standard_normal((3, 5))
    detector = NNGuideDetector(coef, np.full(3, 9.0), k=4).fit(X)

    def guidance(rows):
        return detector.score_samples(rows) / logsumexp(rows @ coef.T + 9, axis=1)

    np.testing.assert_allclose(guidance(0.01 * queries), guidance(queries), rtol=1e-5, atol=1e-5)


def test_nnguide_of_a_zero_row_and_of_too_few_rows(data):
    X, _, _, _, (coef, intercept) = data
    detector = NNGuideDetector(coef, intercept).fit(X)
    assert detector.score_samples(np.zeros((1, 10))).tolist() == [0.0]
    with pytest.raises(UsageError, match="k=121 nearest of a bank with n_samples=120"):
        NNGuideDetector(k=121).fit(X)


# ---- prototypes ------------------------------------------------------------------------------------------------------


def test_prototypes_equal_the_naive_formula(data):
    X, y, near, far, _ = data
    queries = np.concatenate([near, far])
    best, names = [], np.array(["w", "x", "y", "z"])
    for x in queries:
        cosines = []
        for c in range(4):
            mean = sum(r / np.linalg.norm(r) for r in X[y == c]) / (y == c).sum()
            cosines.append(mean @ x / np.linalg.norm(mean) / np.linalg.norm(x))
        best.append((max(cosines), names[np.argmax(cosines)]))
    detector = PrototypeDetector().fit(X, names[y])
    np.testing.assert_allclose(detector.score_samples(queries), [cosine for cosine, _ in best], rtol=1e-10)
    assert detector.predict(queries).tolist() == [name for _, name in best]


def test_prototypes_predict_as_the_nearest_centroid_on_the_sphere(data):
    X, y, near, far, _ = data
    queries = np.concatenate([near, far])
    detector = PrototypeDetector().fit(X, y)
    # Two rows about each prototype, because it wants a spread within classes.
    about = np.concatenate([detector.prototypes_ + 0.1, detector.prototypes_ - 0.1])
    centroids = NearestCentroid().fit(about, np.tile(np.arange(4), 2))
    sphere = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert np.array_equal(detector.predict(queries), centroids.predict(sphere))
    assert np.median(detector.score_samples(near)) > np.median(detector.score_samples(far))


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_prototypes_do_not_see_the_length_of_rows(seed):
    rng = np.random.default_rng(seed)
    X, y, queries = rng.standard_normal((30, 5)), np.arange(30) % 3, rng.standard_normal((9, 5))
    plain = PrototypeDetector().fit(X, y).score_samples(queries)
    stretched = PrototypeDetector().fit(X * rng.uniform(0.01, 100, (30, 1)), y).score_samples(queries * 5)
    np.testing.assert_allclose(stretched, plain, rtol=1e-9, atol=1e-12)


def test_a_class_of_one_row_and_one_that_cancels_out():
    X = np.array([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]])
    detector = PrototypeDetector().fit(X, ["one", "two", "two"])
    np.testing.assert_allclose(detector.prototypes_, [[0.6, 0.8], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(detector.score_samples([[0.0, 2.0], [-1.0, 0.0]]), [0.8, 0], atol=1e-15)
    assert detector.predict([[0.0, 2.0], [-1.0, 0.0]]).tolist() == ["one", "two"]
    assert PrototypeDetector().fit(X, [0, 0, 0]).predict(X).tolist() == [0, 0, 0]


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.1])
def test_rows_that_cancel_out_but_for_rounding_are_no_prototype(turn):
    angles = turn + 2 * np.pi / 3 * np.arange(3)
    star = np.column_stack([np.cos(angles), np.sin(angles)])
    detector = PrototypeDetector().fit(np.concatenate([star, [[3.0, 4.0]]]), [1, 1, 1, 0])
    np.testing.assert_allclose(detector.prototypes_, [[0.6, 0.8], [0, 0]], atol=1e-15)
    assert detector.score_samples(star).max() <= 1
