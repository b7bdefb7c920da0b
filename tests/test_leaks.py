"""Duplicates against naive loops over all pairs."""

import hashlib
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import leaks
from embedstore.errors import UsageError
from embedstore.leaks import THRESHOLD, Leak, exact_duplicates, near_duplicates, same_bytes


def features(n: int, seed: int, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def cosine(p: np.ndarray, q: np.ndarray) -> float:
    p, q = p.astype(np.float64), q.astype(np.float64)
    return float(p @ q / np.sqrt((p @ p) * (q @ q)))


def naive(a: np.ndarray, b: np.ndarray | None, threshold: float) -> dict[tuple[int, int], float]:
    pairs = combinations(range(len(a)), 2) if b is None else product(range(len(a)), range(len(b)))
    other = a if b is None else b
    found = {(i, j): cosine(a[i], other[j]) for i, j in pairs}
    return {pair: value for pair, value in found.items() if value >= threshold}


def by_pair(found: list[Leak]) -> dict[tuple[int, int], float]:
    assert [(leak.a, leak.b) for leak in found] == sorted({(leak.a, leak.b) for leak in found})
    return {(leak.a, leak.b): leak.cosine for leak in found}


@pytest.fixture(params=[5, 4096])
def block(request, monkeypatch):
    monkeypatch.setattr(leaks, "_BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("within", [False, True])
def test_near_duplicates_are_those_of_the_naive_loop(threshold, within):
    a, b = features(23, 0), features(31, 1)
    b[7], b[30], a[22] = 3 * a[2], a[2] + 0.05, a[4] + 0.1
    bank = None if within else b
    found, expected = by_pair(near_duplicates(a, bank, threshold)), naive(a, bank, threshold)
    assert expected
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.usefixtures("block")
def test_what_is_exact_and_what_is_near():
    a, b = features(11, 0), features(13, 1)
    b[12], b[3], b[9] = a[10], 2 * a[10], a[10] * np.where(np.arange(12) == 0, 1.05, 1)
    found = near_duplicates(a, b)
    assert [(leak.a, leak.b, leak.exact) for leak in found] == [(10, 3, False), (10, 9, False), (10, 12, True)]
    assert [leak.cosine for leak in found] == pytest.approx([1, cosine(a[10], b[9]), 1], abs=1e-15)
    assert near_duplicates(a, b, threshold=1.0)[-1] == Leak(10, 12, 1.0, exact=True)
    assert exact_duplicates(a, b) == [Leak(10, 12, 1.0, exact=True)]


def test_the_threshold_is_exact_beyond_float32():
    below = 0
    for seed in range(20):
        a = features(1, seed, width=200)
        b = a + 0.3 * features(1, seed + 100, width=200)
        at = near_duplicates(a, b, 0.5)[0].cosine
        assert at == pytest.approx(cosine(a[0], b[0]), abs=1e-14)
        assert near_duplicates(a, b, at)
        assert not near_duplicates(a, b, at + 1e-9)
        below += bool(leaks.unit(a) @ leaks.unit(b).T < np.float32(at))
    assert below, "float32 alone would lose some of them"


rows = st.lists(st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0]), min_size=2, max_size=2), min_size=1, max_size=12)


@given(rows, rows)
@settings(deadline=None)
def test_exact_duplicates_are_those_of_the_naive_loop(a, b):
    x, y = np.array(a, dtype=np.float16), np.array(b, dtype=np.float32)
    assert [(leak.a, leak.b) for leak in exact_duplicates(x, y)] == [
        (i, j) for i, j in product(range(len(a)), range(len(b))) if (x[i] == y[j]).all()
    ]
    assert [(leak.a, leak.b) for leak in exact_duplicates(x)] == [
        (i, j) for i, j in combinations(range(len(a)), 2) if (x[i] == x[j]).all()
    ]


@given(rows, rows)
@settings(deadline=None)
def test_near_duplicates_at_one_are_the_exact_ones_and_multiples(a, b):
    x, y = np.array(a), np.array(b)
    near = near_duplicates(x, y)
    assert {(leak.a, leak.b) for leak in near if leak.exact} == {
        (leak.a, leak.b) for leak in exact_duplicates(x, y) if x[leak.a].any()
    }
    assert all(leak.cosine <= 1 for leak in near)


digests = st.lists(st.sampled_from([None, "a", "b", "c", b"a"]), max_size=10)


@given(digests, digests)
def test_same_bytes_are_those_of_the_naive_loop(a, b):
    assert same_bytes(iter(a), iter(b)) == [
        Leak(i, j, None, exact=True) for i, p in enumerate(a) for j, q in enumerate(b) if p is not None and p == q
    ]
    assert same_bytes(a) == [
        Leak(i, j, None, exact=True)
        for (i, p), (j, q) in combinations(list(enumerate(a)), 2)
        if p is not None and p == q
    ]


def test_same_bytes_of_images():
    images = [b"one", b"two", b"one", b"three"]
    found = same_bytes((hashlib.sha256(image).hexdigest() for image in images), [hashlib.sha256(b"two").hexdigest()])
    assert found == [Leak(1, 0, None, exact=True)]


class Sliced:
    """Rows that can be had by slices alone, as those of a Zarr array."""

    def __init__(self, rows: np.ndarray, most: int) -> None:
        self._rows, self._most, self.shape, self.dtype = rows, most, rows.shape, rows.dtype

    def __getitem__(self, places: slice) -> np.ndarray:
        assert places.stop - places.start <= self._most
        return self._rows[places]

    def __array__(self, *args: object) -> np.ndarray:
        raise AssertionError("read whole")


def test_sets_are_read_block_by_block(monkeypatch):
    monkeypatch.setattr(leaks, "_BLOCK", 6)
    a, b = features(20, 0), features(15, 1)
    b[14] = a[19]
    assert near_duplicates(Sliced(a, 6), Sliced(b, 6)) == near_duplicates(a, b) != []
    assert exact_duplicates(Sliced(a, 6), Sliced(b, 6)) == exact_duplicates(a, b) != []


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("find", [near_duplicates, exact_duplicates])
def test_what_cannot_be_compared(find):
    a, b = features(9, 0), features(9, 1)
    with pytest.raises(UsageError, match=r"shapes \(9, 12\) and \(9, 11\) come from different models"):
        find(a, b[:, :11])
    with pytest.raises(UsageError, match=r"\(N, D\)"):
        find(a[0], b)
    with pytest.raises(UsageError, match="dtype <U1"):
        find(np.array([["a", "b"]]))
    for bad in (np.nan, np.inf):
        b[8, 3] = bad
        with pytest.raises(UsageError, match="row 8 of 9"):
            find(a, b)
        with pytest.raises(UsageError, match="row 8 of 9"):
            find(b)


def test_empty_sets_share_nothing():
    for find in (near_duplicates, exact_duplicates):
        assert find(np.empty((0, 12)), features(3, 0)) == find(features(3, 0), np.empty((0, 12))) == []
    assert same_bytes([], ["a"]) == []


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_a_threshold_that_is_none(threshold):
    with pytest.raises(UsageError, match="threshold must lie in"):
        near_duplicates(features(3, 0), threshold=threshold)


def test_sets_of_one_image_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(leaks, "_MOST", 1000)
    same = np.ones((40, 2))
    for find in (near_duplicates, exact_duplicates):
        with pytest.raises(UsageError, match="pairs of duplicates or more"):
            find(same, same)
        assert len(find(same[:30], same[:30])) == 900
    with pytest.raises(UsageError, match="one image fills"):
        same_bytes(["a"] * 50)


def test_features_of_one_scene_are_no_duplicates_by_default():
    assert THRESHOLD == 0.95
    x = features(200, 0, width=512) + 0.7 * features(1, 1, width=512)
    assert naive(x[:20], None, 0.2)
    assert near_duplicates(x) == []
