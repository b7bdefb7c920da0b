"""Exact nearest neighbours against the full similarity matrix."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import bsr_array, csr_array
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from embedstore import neighbors
from embedstore.errors import UnknownName, UsageError
from embedstore.neighbors import METRICS, nearest, sliceable, unit

rng = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_unit_rows_have_length_one_and_keep_their_direction(dtype):
    X = (rng.standard_normal((50, 17)) * 100).astype(dtype)
    found = unit(X)
    assert found.dtype == np.float32
    expected = X.astype(float) / np.linalg.norm(X.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_unit_of_zero_huge_and_tiny_rows():
    X = np.array([[0, 0], [3e38, -3e38], [1e-40, 0]], np.float32)
    np.testing.assert_allclose(unit(X), [[0, 0], [0.5**0.5, -(0.5**0.5)], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(unit(np.full((1, 4), 6e4, np.float16)), np.full((1, 4), 0.5))


def test_unit_of_a_row_ignores_the_other_rows_bit_for_bit(monkeypatch):
    X = rng.standard_normal((40, 33)).astype(np.float32)
    for dtype in (np.float32, np.float64):
        whole = unit(X.astype(dtype), dtype)
        assert np.array_equal(unit(np.asfortranarray(X.astype(dtype)), dtype), whole)
        with monkeypatch.context() as patched:
            patched.setattr(neighbors, "_BLOCK", 7)
            assert np.array_equal(unit(X.astype(dtype), dtype), whole)
        assert np.array_equal(np.concatenate([unit(row[None].astype(dtype), dtype) for row in X]), whole)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 30), st.data())
@settings(max_examples=40, deadline=None)
def test_equal_to_the_full_matrix(n, m, width, data):
    k = data.draw(st.integers(1, m))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    queries, bank = random.standard_normal((n, width)), random.standard_normal((m, width))
    similarities, indices = nearest(queries, bank, k)
    full = unit(queries, np.float64) @ unit(bank, np.float64).T
    assert similarities.dtype == np.float32
    assert indices.dtype == np.int64
    assert (np.diff(similarities, axis=1) <= 0).all()
    np.testing.assert_allclose(similarities, -np.sort(-full, axis=1)[:, :k], atol=1e-6)
    # The indices are right where they point at rows with those similarities, and none twice (ties may be any).
    np.testing.assert_allclose(np.take_along_axis(full, indices, axis=1), similarities, atol=1e-6)
    assert all(len(set(row)) == k for row in indices)


def test_blocks_of_queries_and_unit_rows_change_nothing(monkeypatch):
    queries, bank = rng.standard_normal((100, 24)), rng.standard_normal((300, 24))
    similarities, indices = nearest(queries, bank, 5)
    monkeypatch.setattr(neighbors, "_BLOCK", 13)
    for again in (nearest(queries, bank, 5), nearest(queries, unit(bank), 5)):
        np.testing.assert_allclose(again[0], similarities, atol=1e-6)
        assert np.array_equal(again[1], indices)


def test_no_queries_give_no_neighbours():
    similarities, indices = nearest(np.empty((0, 3)), np.eye(3), 2)
    assert similarities.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_beyond_the_bank(k):
    with pytest.raises(UsageError, match=f"{k} nearest rows of a bank that has 3"):
        nearest(np.eye(3), np.eye(3), k)


def test_shapes_and_values_that_cannot_be_right():
    with pytest.raises(UsageError, match=r"\(3, 4\) do not fit a bank of shape \(3, 3\)"):
        nearest(np.ones((3, 4)), np.eye(3), 1)
    with pytest.raises(UsageError, match=r"\(3,\)"):
        unit(np.ones(3))
    with pytest.raises(UsageError, match="row 1 of 2"):
        unit([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(UsageError, match="row 0 of 1"):
        unit(np.array([[np.inf, 0]], np.float32))


# ---- the three metrics -----------------------------------------------------------------------------------------------


def everything(queries, bank, metric):
    """All values, in float64, and how they are sorted: nearest first."""
    a, b = queries.astype(float), bank.astype(float)
    if metric == "l2":
        return cdist(a, b)
    return -(a @ b.T if metric == "dot" else 1 - cdist(a, b, "cosine"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_rows", [1, 7, 50, 32768])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_values_and_order_equal_the_full_matrix(metric, block_rows, k):
    random = np.random.default_rng(k)
    queries, bank = random.standard_normal((20, 6)), random.standard_normal((50, 6))
    full = everything(queries, bank, metric)
    values, indices = nearest(queries, bank, k, metric, block_rows=block_rows)
    expected = np.sort(full, axis=1)[:, :k] * (1 if metric == "l2" else -1)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=2e-6)
    assert np.array_equal(indices, np.argsort(full, axis=1)[:, :k])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_equal_to_scikit_learn(metric):
    random = np.random.default_rng(0)
    queries, bank = random.standard_normal((30, 12)), random.standard_normal((400, 12))
    oracle = NearestNeighbors(n_neighbors=9, metric={"l2": "euclidean"}.get(metric, metric), algorithm="brute").fit(
        bank
    )
    apart, places = oracle.kneighbors(queries)
    values, indices = nearest(queries, bank, 9, metric, block_rows=64)
    assert np.array_equal(indices, places)
    np.testing.assert_allclose(values if metric == "l2" else 1 - values, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_distances_far_from_the_origin_keep_their_digits(dtype):
    """Squares of the lengths are 1e7 times those of the differences: in float32 they would cancel to nothing."""
    random = np.random.default_rng(1)
    spread = 300 if np.dtype(dtype).kind == "i" else 1
    offset = 20_000 if dtype != np.float16 else 1_000
    X = (offset + spread * random.standard_normal((80, 10))).astype(dtype)
    values, indices = nearest(X, X, 4, "l2", block_rows=33)
    full = cdist(X.astype(float), X.astype(float))
    np.testing.assert_allclose(values, np.sort(full, axis=1)[:, :4], rtol=1e-5, atol=1e-6 * spread)
    assert (values[:, 0] == 0).all()
    np.testing.assert_allclose(np.take_along_axis(full, indices, axis=1), values, rtol=1e-5, atol=1e-6 * spread)


@pytest.mark.parametrize("width", [1e-2, 1.0, 100.0])
def test_tight_clusters_far_apart_keep_what_the_docstring_promises(width):
    """Differences below a thousandth of the spread drown in float32 when rows are chosen, not in their distances."""
    random = np.random.default_rng(0)
    X = np.repeat([[1000.0], [-1000.0]], 100, axis=0) + width * random.standard_normal((200, 768))
    X, spread = X.astype(np.float32), 1000 * 768**0.5
    values, indices = nearest(X, X, 3, "l2")
    full = cdist(X.astype(float), X.astype(float))
    named = np.take_along_axis(full, indices, axis=1)
    np.testing.assert_allclose(values, named, rtol=1e-4, atol=3e-8 * spread)
    np.testing.assert_allclose(np.square(values), np.square(np.sort(full)[:, :3]), atol=4e-6 * spread**2)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_all_found_and_none_twice(metric):
    bank = np.repeat(np.array([[1.0, 0], [0, 1]]), 10, axis=0)
    for block_rows in (3, 32768):
        values, indices = nearest(np.array([[1.0, 0.1]]), bank, 12, metric, block_rows=block_rows)
        assert set(indices[0, :10]) == set(range(10))
        assert len(set(indices[0])) == 12
        assert len(set(values[0])) == 2


@pytest.mark.parametrize("metric", METRICS)
@given(st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_the_order_of_the_bank_changes_places_only(metric, seed):
    random = np.random.default_rng(seed)
    queries, bank, order = random.standard_normal((5, 4)), random.standard_normal((30, 4)), random.permutation(30)
    values, indices = nearest(queries, bank, 3, metric)
    again, places = nearest(queries, bank[order], 3, metric, block_rows=8)
    np.testing.assert_allclose(again, values, rtol=1e-5, atol=2e-6)
    assert np.array_equal(order[places], indices)


# ---- banks that are not in memory ------------------------------------------------------------------------------------


class Streamed:
    """A bank that exists only slice by slice, as a Zarr array does: no len(), no array operations."""

    def __init__(self, rows):
        self._rows, self.shape, self.dtype, self.read = rows, rows.shape, rows.dtype, []

    def __getitem__(self, place):
        assert isinstance(place, slice)
        part = self._rows[place]
        self.read.append(len(part))
        return part


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_streamed_bank_is_read_once_block_by_block(metric, dtype, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((1000, 8)).astype(dtype)
    queries, bank = Streamed(rows[:90]), Streamed(rows)
    monkeypatch.setattr(neighbors, "_BLOCK", 20)
    monkeypatch.setattr(neighbors, "_ORIGIN_ROWS", 100)
    values, indices = nearest(queries, bank, 6, metric, block_rows=128)
    assert max(bank.read) <= 128
    assert max(queries.read) <= 20
    assert sum(bank.read) == 1000 + (100 if metric == "l2" else 0)
    again = nearest(rows[:90], rows, 6, metric, block_rows=128)
    assert np.array_equal(values, again[0])
    assert np.array_equal(indices, again[1])


def test_neither_numpy_nor_faiss_holds_more_than_some_blocks(monkeypatch):
    """FAISS holds one block; numpy's peak stays the same for a bank eight times as large."""
    held = []
    index_of = neighbors._index

    def watched(*args):
        index = index_of(*args)
        add = index.add
        index.add = lambda part: (add(part), held.append(index.ntotal))
        return index

    monkeypatch.setattr(neighbors, "_index", watched)
    queries, peaks = np.ones((10, 64), np.float32), []
    for blocks in (2, 16):
        # Rows are all one: a broadcast view takes no memory itself.
        bank = Streamed(np.broadcast_to(np.ones(64, np.float16), (blocks * 4096, 64)))
        tracemalloc.start()
        nearest(queries, bank, 3, block_rows=4096)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert set(held) == {4096}
    assert peaks[1] < 1.2 * peaks[0]


def test_what_can_be_read_block_by_block(tmp_path):
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(4, 2))
    assert all(sliceable(X) for X in (np.eye(2), mapped, Streamed(np.eye(2))))
    assert not any(sliceable(X) for X in ([[1.0]], "rows", csr_array(np.eye(2)), bsr_array(np.eye(2)), np.float64(1)))
    with pytest.raises(UsageError, match=r"real numbers, got shape \(\)"):
        nearest(np.eye(2), csr_array(np.eye(2)), 1)


# ---- requests that cannot be right -----------------------------------------------------------------------------------


def test_requests_that_cannot_be_right():
    eye = np.eye(3)
    with pytest.raises(UnknownName, match=r"unknown metric 'euclid'.*Known: cosine, dot, l2"):
        nearest(eye, eye, 1, "euclid")
    with pytest.raises(UnknownName, match=r"unknown device 'tpu'.*Known: cpu, cuda"):
        nearest(eye, eye, 1, device="tpu")
    with pytest.raises(UsageError, match="block_rows must be positive, got 0"):
        nearest(eye, eye, 1, block_rows=0)
    with pytest.raises(UsageError, match="complex"):
        nearest(eye.astype(complex), eye, 1)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_with_gaps_are_named_by_their_place_in_the_whole(metric, monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK", 4)
    for gap in (np.nan, np.inf, -np.inf):
        bank = np.ones((30, 2), np.float32)
        bank[23, 1] = gap
        with pytest.raises(UsageError, match="row 23 of 30"):
            nearest(np.ones((1, 2)), bank, 1, metric, block_rows=10)
        with pytest.raises(UsageError, match="row 23 of 30"):
            nearest(bank, np.ones((2, 2)), 1, metric)


@pytest.mark.parametrize("k", [1, 3])
def test_products_too_large_for_float32_are_refused(k):
    bank = np.array([[1e25, 1e25], [-1e25, 1e25], [1e25, -1e25]])
    for queries in (bank, -bank, bank[:, ::-1] * [1, -1]):
        with pytest.raises(UsageError, match="overflow float32"):
            nearest(queries, bank, k, "dot")
    with pytest.raises(UsageError, match="overflow float32"):  # a row of its own that float32 cannot hold
        nearest(np.ones((1, 2)), np.array([[1e39, -1e39], [1, 1]]), 1, "dot")
    np.testing.assert_allclose(nearest(bank, bank, 1)[0], 1, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e25, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_distances_have_no_unit(size, offset):
    """Their squares would be 0, or infinite, in float32."""
    random = np.random.default_rng(0)
    queries, bank = random.standard_normal((5, 8)) + offset, random.standard_normal((40, 8)) + offset
    full = cdist(queries, bank)
    values, indices = nearest(size * queries, size * bank, 40, "l2", block_rows=13)
    np.testing.assert_allclose(values / size, np.sort(full, axis=1), rtol=1e-5)
    assert np.array_equal(indices, np.argsort(full, axis=1))


def test_distances_from_rows_that_vary_by_rounding_alone():
    bank = np.concatenate([np.full((1024, 3), 0.1), 1e6 * np.eye(3)])
    values, indices = nearest(1e6 * np.eye(3), bank, 2, "l2")
    np.testing.assert_allclose(values, [[0, 1e6 - 0.1]] * 3, rtol=1e-6)
    assert indices[:, 0].tolist() == [1024, 1025, 1026]
    np.testing.assert_allclose(nearest(np.ones((1, 3)), np.zeros((4, 3)), 1, "l2")[0], 3**0.5, rtol=1e-6)
    for far, near in ((1e30, 1e-30), (1e300, 1.0)):
        with pytest.raises(UsageError, match="overflow float32"):
            nearest(np.full((1, 3), far), near * np.eye(3), 1, "l2")


# ---- GPU -------------------------------------------------------------------------------------------------------------


def test_a_gpu_that_is_not_there(monkeypatch):
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(UsageError, match="FAISS sees no GPU"):
        nearest(np.eye(2), np.eye(2), 1, device="cuda")


def test_more_neighbours_than_faiss_gives_on_a_gpu(monkeypatch):
    """A stand-in for the GPU that, like it, refuses a k beyond its limit: smaller blocks, merged, give any k."""
    index_of = neighbors._index

    def limited(width, metric, device):
        assert device == "cuda"
        index = index_of(width, metric, "cpu")
        search = index.search

        def refusing(queries, k):
            assert k <= 8
            return search(queries, k)

        index.search = refusing
        return index

    random = np.random.default_rng(0)
    queries, bank = random.standard_normal((9, 5)), random.standard_normal((70, 5))
    expected = nearest(queries, bank, 20)
    monkeypatch.setattr(neighbors, "_MOST_ON_GPU", 8)
    monkeypatch.setattr(neighbors, "_index", limited)
    found = nearest(queries, bank, 20, device="cuda")
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 3000])
def test_a_gpu_finds_what_the_cpu_finds(metric, k):
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        pytest.skip("FAISS sees no GPU here")
    random = np.random.default_rng(0)
    queries, bank = random.standard_normal((64, 32)), random.standard_normal((5000, 32))
    on_cpu = nearest(queries, bank, k, metric)
    on_gpu = nearest(queries, bank, k, metric, device="cuda", block_rows=1500)
    np.testing.assert_allclose(on_gpu[0], on_cpu[0], rtol=1e-4, atol=1e-4)
    full = everything(queries, bank, metric) * (1 if metric == "l2" else -1)
    np.testing.assert_allclose(np.take_along_axis(full, on_gpu[1], axis=1), on_cpu[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [("torch", "faiss"), ("faiss", "torch")])
def test_faiss_and_torch_live_in_one_process(order):
    """Both bring an OpenMP runtime of their own, a combination that has crashed or hung with other builds."""
    program = f"""
import {order[0]}, {order[1]}, numpy as np
from embedstore.neighbors import nearest
X = np.random.default_rng(0).standard_normal((500, 64)).astype("f4")
torch.ones(300, 300) @ torch.ones(300, 300)
_, found = nearest(X, X, 1)
torch.ones(300, 300) @ torch.ones(300, 300)
assert (found[:, 0] == np.arange(500)).all()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
