"""Nearest neighbours as a score and as a classifier: naive formulas, leave-one-out, banks that are not in memory."""

from functools import partial

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from embedstore import neighbors as neighbors_module
from embedstore.errors import UnknownName, UsageError
from embedstore.scores import KNNClassifier, KNNDetector
from embedstore.scores import features as features_module
from embedstore.scores import knn as knn_module

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data():
    y = np.repeat(np.arange(4), 30)
    centres = 3 * rng.standard_normal((4, 10))
    X = (centres[y] + rng.standard_normal((120, 10))).astype(np.float32)
    near = (centres[rng.integers(0, 4, 60)] + rng.standard_normal((60, 10))).astype(np.float32)
    far = (6 * rng.standard_normal((60, 10))).astype(np.float32)
    return X, y, near, far


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


@pytest.mark.parametrize("k", [1, 7, 120])
def test_knn_reductions_equal_the_naive_formulas(k, data):
    X, _, near, _ = data
    top = np.sort(cosines(near, X), axis=1)[:, ::-1][:, :k]
    kth = KNNDetector(k, reduce="kth").fit(X).score_samples(near)
    np.testing.assert_allclose(kth, top[:, -1], atol=1e-6)
    released = KNNDetector(k, reduce="exp").fit(X).score_samples(near)
    np.testing.assert_allclose(released, np.exp(top / 0.02).mean(axis=1), rtol=2e-5)  # 1e-7 of a cosine is 5e-6 here
    apart = np.sort(cdist(near.astype(float), X.astype(float)), axis=1)[:, :k]
    for reduce, expected in (("mean", -apart.mean(axis=1)), ("kth", -apart[:, -1])):
        found = KNNDetector(k, "l2", reduce).fit(X).score_samples(near)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_kth_neighbour_on_the_sphere_ranks_by_cosine(data):
    """Sun et al. normalise and take the Euclidean distance to the k-th: the same ranking."""
    X, _, near, _ = (v / np.linalg.norm(v, axis=-1, keepdims=True) if v.ndim == 2 else v for v in data)
    distance = KNNDetector(5, "l2", "kth").fit(X).score_samples(near)
    cosine = KNNDetector(5, reduce="kth").fit(X).score_samples(near)
    np.testing.assert_allclose(np.square(distance), 2 - 2 * cosine, atol=1e-6)


def test_the_exponential_neither_overflows_nor_is_cut_short(data):
    X = data[0]
    warm = KNNDetector(reduce="exp", temperature=0.02).fit(X).score_samples(X[:5])
    np.testing.assert_allclose(warm, np.exp(50.0), rtol=1e-4)  # of itself; beyond float16, at the end of float32
    assert np.isfinite(KNNDetector(reduce="exp", temperature=1 / 700).fit(X).score_samples(X)).all()
    for temperature in (0, 1e-3, np.nan, np.inf):
        with pytest.raises(UsageError, match="overflows"):
            KNNDetector(reduce="exp", temperature=temperature).fit(X)


def test_knn_detector_refuses_what_does_not_exist(data):
    X = data[0]
    with pytest.raises(UnknownName, match=r"unknown metric 'l1'.*Known: cosine, l2"):
        KNNDetector(metric="l1").fit(X)
    with pytest.raises(UnknownName, match="unknown reduction 'max'"):
        KNNDetector(reduce="max").fit(X)
    with pytest.raises(UsageError, match="exponentiated cosines"):
        KNNDetector(metric="l2", reduce="exp").fit(X)


@pytest.mark.parametrize(
    ("late", "message"),
    [({"reduce": "max"}, "reduction 'max'"), ({"metric": "dot"}, "metric 'dot'"), ({"temperature": 0}, "overflows")],
)
def test_parameters_set_after_the_fit_are_checked_too(late, message, data):
    X = data[0]
    detector = KNNDetector(reduce="exp").fit(X).set_params(**late)
    for score in (detector.score_left_out, lambda: detector.score_samples(X)):
        with pytest.raises(UsageError, match=message):
            score()
    with pytest.raises(UsageError, match="must be positive"):
        KNNClassifier().fit(X, data[1]).set_params(temperature=0).predict(X)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_bank_is_kept_not_copied(dtype, tmp_path, data):
    file = tmp_path / "bank"
    data[0].astype(dtype).tofile(file)
    bank = np.memmap(file, dtype, "r", shape=data[0].shape)
    detector = KNNDetector(3).fit(bank)
    assert np.shares_memory(detector.bank_, bank)
    expected = KNNDetector(3).fit(np.array(bank)).score_samples(data[2])
    assert np.array_equal(detector.score_samples(data[2]), expected)


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


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0}, {"temperature": np.inf}])
def test_knn_classifier_refuses_what_cannot_vote(bad):
    with pytest.raises(UsageError, match="must be positive"):
        KNNClassifier(**bad).fit(np.eye(3), [0, 1, 2])


# ---- scikit-learn as the oracle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_knn_detector_equals_scikit_learn(metric, data):
    X, _, near, far = data
    queries = np.concatenate([near, far])
    oracle = NearestNeighbors(n_neighbors=4, metric={"l2": "euclidean"}.get(metric, metric), algorithm="brute")
    apart, _ = oracle.fit(X.astype(float)).kneighbors(queries.astype(float))
    values = 1 - apart if metric == "cosine" else -apart  # its "cosine" is a distance
    for reduce, expected in (("mean", values.mean(axis=1)), ("kth", values[:, -1])):
        found = KNNDetector(4, metric, reduce).fit(X).score_samples(queries)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_knn_classifier_equals_scikit_learn(data):
    X, y, near, far = data
    queries = np.concatenate([near, far]).astype(float)
    oracle = KNeighborsClassifier(20, metric="cosine", weights=lambda apart: np.exp((1 - apart) / 0.02))
    assert np.array_equal(KNNClassifier().fit(X, y).predict(queries), oracle.fit(X.astype(float), y).predict(queries))


# ---- laws ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.sampled_from(["mean", "kth", "exp"]))
@settings(deadline=None, max_examples=25)
def test_cosines_see_neither_the_length_of_rows_nor_the_order_of_the_bank(seed, reduce):
    random = np.random.default_rng(seed)
    X, queries = random.standard_normal((40, 6)), random.standard_normal((9, 6))
    scores = KNNDetector(3, reduce=reduce, temperature=0.5).fit(X).score_samples(queries)
    stretched = X[random.permutation(40)] * random.uniform(0.01, 100, (40, 1))
    again = KNNDetector(3, reduce=reduce, temperature=0.5).fit(stretched)
    np.testing.assert_allclose(again.score_samples(7 * queries), scores, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_larger_bank_scores_no_lower(metric, data):
    X, _, near, _ = data
    small, large = (KNNDetector(2, metric).fit(bank).score_samples(near) for bank in (X[:60], X))
    assert (large >= small - 1e-6).all()


# ---- leave-one-out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", ["mean", "kth", "exp"])
@pytest.mark.parametrize("k", [1, 5, 29])
def test_left_out_scores_equal_a_bank_without_the_row(k, reduce):
    X = np.random.default_rng(k).standard_normal((30, 4))
    X[7] = X[3]  # a copy is another row
    detector = KNNDetector(k, reduce=reduce, temperature=0.2).fit(X)
    expected = []
    for row in range(30):
        others = KNNDetector(k, reduce=reduce, temperature=0.2).fit(np.delete(X, row, axis=0))
        expected.append(others.score_samples(X[row : row + 1])[0])
    np.testing.assert_allclose(detector.score_left_out(), expected, rtol=1e-5)
    np.testing.assert_allclose(detector.score_left_out(slice(2, None, 7)), expected[2::7], rtol=1e-5)


def test_left_out_distances_equal_the_naive_formula(data):
    X = data[0]
    apart = cdist(X.astype(float), X.astype(float))
    np.fill_diagonal(
        apart, np.inf
    )  # in one matrix; the released code fills it chunk by chunk, right in the first alone
    found = KNNDetector(3, "l2").fit(X).score_left_out()
    np.testing.assert_allclose(found, -np.sort(apart, axis=1)[:, :3].mean(axis=1), rtol=1e-6)


def test_a_bank_of_copies_scores_itself_left_out():
    copies = np.tile([[3.0, 4.0]], (9, 1))
    np.testing.assert_allclose(KNNDetector(2).fit(copies).score_left_out(), 1, atol=1e-6)
    np.testing.assert_allclose(KNNDetector(2, "l2").fit(copies).score_left_out(), 0)


def test_left_out_scores_look_like_those_of_new_rows_and_the_bank_of_its_own_does_not():
    random = np.random.default_rng(8)
    X, new = random.standard_normal((2, 2000, 16))
    detector = KNNDetector().fit(X)
    left_out, unseen, seen = detector.score_left_out(), detector.score_samples(new), detector.score_samples(X)
    assert abs(left_out.mean() - unseen.mean()) < 0.01
    np.testing.assert_allclose(seen, 1, atol=1e-6)
    assert unseen.mean() < 0.9


def test_a_row_has_fewer_others_than_the_bank_has_rows():
    with pytest.raises(UsageError, match="k=3 nearest others of a row in a bank of 3 rows"):
        KNNDetector(3).fit(np.eye(3)).score_left_out()


# ---- banks that are not in memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_zarr_bank_stays_one_and_scores_the_same(dtype, data):
    held = data[0].astype(dtype)
    bank = zarr.array(held, chunks=(50, 10))
    lazy, eager = KNNDetector(3).fit(bank), KNNDetector(3).fit(held)
    assert lazy.bank_ is bank
    queries = zarr.array(data[2], chunks=(7, 10))
    assert np.array_equal(lazy.score_samples(queries), eager.score_samples(data[2]))
    assert np.array_equal(lazy.score_left_out(), eager.score_left_out())
    assert np.array_equal(lazy.score_left_out(slice(1, None, 9)), eager.score_left_out(slice(1, None, 9)))


class Streamed:
    """A bank of which no more than some rows may be read at a time."""

    def __init__(self, rows, most):
        self._rows, self._most, self.shape, self.dtype = rows, most, rows.shape, rows.dtype

    def __getitem__(self, place):
        part = self._rows[place]
        assert len(part) <= self._most
        return part


def test_a_streamed_bank_is_never_read_as_a_whole(monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK", 512)
    monkeypatch.setattr(neighbors_module, "_BLOCK", 512)
    rows = np.random.default_rng(0).standard_normal((40_000, 3)).astype(np.float32)
    detector = KNNDetector(2).fit(Streamed(rows, 32_768))  # the default block of the search
    assert np.array_equal(detector.score_samples(rows[:9]), KNNDetector(2).fit(rows).score_samples(rows[:9]))
    monkeypatch.setattr(knn_module, "nearest", partial(neighbors_module.nearest, block_rows=600))
    some = rows[:2000]
    left_out = KNNDetector(2).fit(Streamed(some, 600)).score_left_out()
    assert np.array_equal(left_out, KNNDetector(2).fit(some).score_left_out())


def test_a_lazy_bank_is_checked_like_any():
    gaps = np.ones((5, 3), np.float32)
    gaps[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3 of 5"):
        KNNDetector().fit(zarr.array(gaps))
    with pytest.raises(ValueError, match="1 is required"):
        KNNDetector().fit(zarr.zeros((0, 3)))
    detector = KNNDetector().fit(zarr.ones((5, 3)))
    assert detector.n_features_in_ == 3
    with pytest.raises(ValueError, match="4 features"):
        detector.score_samples(zarr.ones((2, 4)))
    with pytest.raises(ValueError, match="2D array"):
        KNNDetector().fit(zarr.ones(5))
