"""Exact nearest neighbours by cosine similarity, with FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.records import FloatArray

# Rows handled at once: with 1,280 features a block is 42 MB in float64, and large enough to keep the BLAS busy.
_BLOCK = 4096


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
    if rows.ndim != 2 or rows.dtype.kind not in "biuf":
        raise UsageError(f"expected an (N, D) array of real numbers, got shape {rows.shape} and dtype {rows.dtype}")
    out = np.empty(rows.shape, dtype=dtype)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        bad = np.flatnonzero(~np.isfinite(length))
        if bad.size:
            raise UsageError(
                f"row {start + bad[0]} of {len(rows)} (and perhaps more) is not finite; "
                "leave out images that have no features"
            )
        length[length == 0] = 1
        out[start : start + _BLOCK] = block / length[:, None]
    return out


def nearest(
    queries: npt.ArrayLike, bank: npt.ArrayLike, k: int, *, unit_bank: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The k rows of the bank with the largest cosine similarity to each query: exact, by brute force.

    Memory: the bank twice in float32 (once where ``unit_bank``), one block of queries, and the result.

    Parameters
    ----------
    queries : (N, D) real
    bank : (M, D) real
    k : int
        1 <= k <= M.
    unit_bank : bool
        The bank is float32 rows of length 1 already, as :func:`unit` returns them; saves the work of scaling it
        again for every call.

    Returns
    -------
    similarities : (N, k) float32
        Descending. Rounding can carry them past 1 by a few 1e-7.
    indices : (N, k) int64
        Rows of the bank. Which of several equally similar rows comes first is not specified.

    Raises
    ------
    UsageError
        ``k`` is not in [1, M], the widths differ, or rows are not finite.
    """
    import faiss

    rows = np.ascontiguousarray(bank, dtype=np.float32) if unit_bank else unit(bank)
    asked = np.asarray(queries)
    if asked.ndim != 2 or asked.shape[1] != rows.shape[1]:
        raise UsageError(f"queries of shape {asked.shape} do not fit a bank of shape {rows.shape}")
    if not 1 <= k <= len(rows):
        raise UsageError(f"asked for the {k} nearest rows of a bank that has {len(rows)}")
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    similarities = np.empty((len(asked), k), dtype=np.float32)
    indices = np.empty((len(asked), k), dtype=np.int64)
    for start in range(0, len(asked), _BLOCK):
        block = slice(start, start + _BLOCK)
        similarities[block], indices[block] = index.search(unit(asked[block]), k)
    return similarities, indices
