"""Exact nearest neighbours against the full similarity matrix."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import neighbors
from embedstore.errors import UsageError
from embedstore.neighbors import nearest, unit

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
    whole = unit(X)
    monkeypatch.setattr(neighbors, "_BLOCK", 7)
    assert np.array_equal(unit(X), whole)
    assert np.array_equal(np.concatenate([unit(row[None]) for row in X]), whole)


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


def test_blocks_of_queries_and_a_prepared_bank_change_nothing(monkeypatch):
    queries, bank = rng.standard_normal((100, 24)), rng.standard_normal((300, 24))
    similarities, indices = nearest(queries, bank, 5)
    monkeypatch.setattr(neighbors, "_BLOCK", 13)
    for again in (nearest(queries, bank, 5), nearest(queries, unit(bank), 5, unit_bank=True)):
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
