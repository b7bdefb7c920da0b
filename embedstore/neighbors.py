"""Exact nearest neighbours by cosine similarity, inner product or Euclidean distance, with FAISS."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from embedstore.errors import UnknownName, UsageError
from embedstore.records import FloatArray

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

METRICS = ("cosine", "dot", "l2")

# Rows handled at once: with 1,280 features a block is 42 MB in float64, and large enough to keep the BLAS busy.
_BLOCK = 4096
_ORIGIN_ROWS = 1024  # whose mean Euclidean distances are taken from
_PAIRS = 1 << 22  # numbers in float64 held at once while distances are recomputed: 34 MB
_MOST_ON_GPU = 2048  # neighbours: FAISS refuses to search for more on a GPU


def unit(X: npt.ArrayLike, dtype: type[np.floating[Any]] = np.float32) -> FloatArray:
    """Scale every row to length 1; rows of zeros stay zero.

    Lengths are taken in float64, because the squares of float16 features overflow in their own precision. Each row's
    result depends on that row alone, bit for bit. Peak memory: the result and one block of 4,096 rows in float64.

    Parameters
    ----------
    X : (N, D) real
    dtype : numpy floating type
        Of the result.

    Returns
    -------
    (N, D) of ``dtype``

    Raises
    ------
    UsageError
        Not a matrix of real numbers, or some row is not finite (an image that was not embedded holds NaN).
    """
    rows = np.asarray(X)
    _matrix(rows)
    out = np.empty(rows.shape, dtype=dtype)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        # Rows in memory one after the other, whatever they came as: a sum over strides is taken in another order.
        out[block] = _scaled(rows[block].astype(np.float64, order="C"), start, len(rows))
    return out


def nearest(
    queries: npt.ArrayLike,
    bank: npt.ArrayLike,
    k: int,
    metric: str = "cosine",
    *,
    device: str = "cpu",
    block_rows: int = 32768,
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """The k rows of the bank nearest to each query: exact, by brute force.

    The bank is read once, block by block, and so need not fit into memory: anything that can be sliced will do (an
    ``np.memmap``, a Zarr array). The queries are read block by block too, once for every block of the bank.

    Memory: two blocks of the bank in float32 (one more in its own type while it is read), one of queries, and the
    result; on a GPU, one block of the bank and one of queries there.

    Parameters
    ----------
    queries : (N, D) real
    bank : (M, D) real
    k : int
        1 <= k <= M.
    metric : "cosine", "dot" or "l2"
        Cosine similarity; inner product of the rows as they are; Euclidean distance of the rows as they are.
    device : "cpu" or "cuda"
        Where FAISS searches; "cuda" is the first GPU that it sees.
    block_rows : int
        Rows of the bank searched at once. It changes results by rounding alone: similarities agree to a few 1e-7
        (times the product of the two lengths for "dot"), squared distances to a few 1e-6 of the squared spread of the
        rows, and indices are the same wherever the values differ by more than that.

    Returns
    -------
    values : (N, k) float32
        Similarities, descending, or distances, ascending. Rounding can carry cosines past 1 by a few 1e-7. Distances
        are recomputed from the differences of the rows, so each is right to float32's digits for the row it names; but
        which rows are the nearest is settled in float32, so one that is nearer by less than a thousandth of the spread
        of all (their distance from the middle) can be missed. The unit of the features does not matter to distances,
        which are taken in one where the bank's first 1,024 rows are about 1 apart; products of rows below 1e-19 are
        below what float32 holds to all its digits.
    indices : (N, k) int64
        Rows of the bank. Which of several equally near rows comes first is not specified.

    Raises
    ------
    UnknownName
        No such metric or device.
    UsageError
        ``k`` is not in [1, M], the widths differ, rows are not finite or so long (for distances: so far from the
        bank's first ones, beside the spread of these) that float32 overflows, ``block_rows`` is not positive, or FAISS
        sees no GPU where one is asked for.
    """
    asked, rows = (X if sliceable(X) else np.asarray(X) for X in (queries, bank))
    _check(asked, rows, k, metric, block_rows)
    n_asked, n_rows = asked.shape[0], rows.shape[0]  # a Zarr array has no len()
    if device == "cuda" and k > _MOST_ON_GPU:
        block_rows = min(block_rows, _MOST_ON_GPU)  # all rows of a block, then; merging them gives any k
    index = _index(rows.shape[1], metric, device)
    frame = _frame(rows) if metric == "l2" else None
    values = np.full((n_asked, k), np.inf if metric == "l2" else -np.inf, dtype=np.float32)
    indices = np.full((n_asked, k), -1, dtype=np.int64)
    for first in range(0, n_rows, block_rows):
        raw = np.asarray(rows[first : first + block_rows])
        part = _prepared(raw, metric, frame, first, n_rows)
        index.reset()
        index.add(part)
        for start in range(0, n_asked, _BLOCK):
            block = slice(start, start + _BLOCK)
            sought = _prepared(np.asarray(asked[block]), metric, frame, start, n_asked)
            found, places = index.search(sought, min(k, len(part)))
            # FAISS gives the place -1 where a distance or a product is not a number, or is less than any.
            _refuse_overflow(np.where(places < 0, np.inf, found))
            if frame is not None:
                found = _distances(sought, part, places, frame[1])
            values[block], indices[block] = _merged(
                (values[block], found), (indices[block], places + first), k, ascending=metric == "l2"
            )
    return values, indices


def sliceable(X: object) -> TypeGuard[npt.NDArray[np.generic]]:
    """Whether X has rows whose slices are numpy arrays: such an array itself, a memory map, a Zarr array.

    It can then be read block by block; but only its ``shape``, ``dtype`` and slices are like an array's.
    """
    if not (hasattr(X, "__getitem__") and isinstance(getattr(X, "dtype", None), np.dtype)):
        return False
    if hasattr(X, "tocsr"):  # a sparse matrix: its slices are sparse, where it has any
        return False
    return len(getattr(X, "shape", ())) > 0 and isinstance(X[:0], np.ndarray)


def _matrix(rows: npt.NDArray[np.generic]) -> None:
    if len(rows.shape) != 2 or rows.dtype.kind not in "biuf":
        raise UsageError(f"expected an (N, D) array of real numbers, got shape {rows.shape} and dtype {rows.dtype}")


def _check(asked: npt.NDArray[np.generic], rows: npt.NDArray[np.generic], k: int, metric: str, block_rows: int) -> None:
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    _matrix(rows)
    if len(asked.shape) != 2 or asked.shape[1] != rows.shape[1]:
        raise UsageError(f"queries of shape {asked.shape} do not fit a bank of shape {rows.shape}")
    _matrix(asked)
    if not 1 <= k <= rows.shape[0]:
        raise UsageError(f"asked for the {k} nearest rows of a bank that has {rows.shape[0]}")
    if block_rows < 1:
        raise UsageError(f"block_rows must be positive, got {block_rows}")


def _index(width: int, metric: str, device: str) -> Any:
    """An empty FAISS index that compares with every row it holds."""
    import faiss

    if device not in ("cpu", "cuda"):
        raise UnknownName("device", device, ("cpu", "cuda"))
    flat = faiss.IndexFlat(width, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    if device == "cpu":
        return flat
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise UsageError('device="cuda" was asked for, but FAISS sees no GPU; use device="cpu", or install faiss-gpu')
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)


def _frame(rows: npt.NDArray[np.generic]) -> tuple[Float64, float]:
    """A point among the rows, (D,), and what to multiply them by, so that float32 holds squares of their differences.

    A power of two, which rounds nothing. Where rows vary by rounding alone it is their size that counts: others of the
    bank, which do vary, may follow.
    """
    some = np.asarray(rows[:_ORIGIN_ROWS]).astype(np.float64)
    _refuse_gaps(some.sum(axis=1), 0, rows.shape[0])
    origin = some.mean(axis=0)
    spread = max((np.abs(some - origin).max(initial=0), 1e-9 * np.abs(some).max(initial=0)))
    return origin, float(np.ldexp(1.0, min(-int(np.frexp(spread)[1]), 1000)))


def _prepared(
    block: npt.NDArray[np.generic], metric: str, frame: tuple[Float64, float] | None, first: int, total: int
) -> Float32:
    """A block of rows as FAISS compares it. ``first`` is the place of its first row among ``total``, for messages."""
    out = np.empty(block.shape, dtype=np.float32)
    for start in range(0, len(block), _BLOCK):
        rows = block[start : start + _BLOCK].astype(np.float64, order="C")
        if metric == "cosine":
            rows = _scaled(rows, first + start, total)
        else:
            _refuse_gaps(rows.sum(axis=1), first + start, total)
            # FAISS takes |a|² + |b|² - 2 a·b in float32: far from the origin no digit of the difference would be left.
            rows = rows if frame is None else (rows - frame[0]) * frame[1]
        with np.errstate(over="ignore"):
            out[start : start + _BLOCK] = rows
    _refuse_overflow(out)
    return out


def _scaled(block: Float64, first: int, total: int) -> Float64:
    length = np.sqrt(np.einsum("nd,nd->n", block, block))
    _refuse_gaps(length, first, total)
    length[length == 0] = 1
    return np.asarray(block / length[:, None])


def _refuse_gaps(sums: Float64, first: int, total: int) -> None:
    bad = np.flatnonzero(~np.isfinite(sums))
    if bad.size:
        raise UsageError(
            f"row {first + bad[0]} of {total} (and perhaps more) is not finite (NaN or inf); "
            "leave out images that have no features"
        )


def _refuse_overflow(values: npt.NDArray[np.floating[Any]]) -> None:
    if not np.isfinite(values).all():
        raise UsageError("lengths of rows overflow float32 when they are squared or multiplied; scale the rows")


def _distances(queries: Float32, rows: Float32, places: npt.NDArray[np.int64], factor: float) -> Float32:
    """Euclidean distance of each query to the rows at its ``places``, from their differences: (n, k).

    As it was before both were multiplied by ``factor``.
    """
    out = np.empty(places.shape, dtype=np.float32)
    step = max(1, _PAIRS // max(1, places.shape[1] * rows.shape[1]))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        apart = queries[block, None, :].astype(np.float64) - rows[places[block]]
        with np.errstate(over="ignore"):
            out[block] = np.sqrt(np.einsum("nkd,nkd->nk", apart, apart)) / factor
    _refuse_overflow(out)
    return out


def _merged(
    values: tuple[Float32, Float32],
    places: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    k: int,
    *,
    ascending: bool,
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """The k best of what earlier blocks of the bank and this one gave; earlier rows first among equals."""
    both = np.concatenate(values, axis=1)
    best = np.argsort(both if ascending else -both, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(both, best, 1), np.take_along_axis(np.concatenate(places, axis=1), best, 1)
