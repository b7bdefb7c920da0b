"""Features as every detector takes them in: checked as scikit-learn does, but read block by block and never copied."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from embedstore.errors import UsageError
from embedstore.neighbors import sliceable, unit

Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.generic]

BLOCK = 4096  # rows handled at once; with 1,280 features 42 MB in float64


def checked(
    estimator: BaseEstimator, X: npt.ArrayLike, *, reset: bool = False, min_rows: int = 1, lazy: bool = False
) -> Rows:
    """X as a finite matrix of real numbers, of the fitted width unless ``reset``.

    A numpy array comes back itself, a memory map stays one; where ``lazy``, so does whatever else can be sliced (a Zarr
    array), for callers that use nothing but its shape and slices. scikit-learn's own search for NaN is not used,
    because it writes one byte for every number of a float16 array.

    Raises
    ------
    ValueError
        X is not such a matrix, or has fewer than ``min_rows`` rows.
    """
    from sklearn.utils.validation import validate_data

    rows: Rows
    if lazy and sliceable(X) and not isinstance(X, np.ndarray):
        # scikit-learn would read it all. An empty part stands in for its type and width.
        validate_data(estimator, X[:0], dtype="numeric", reset=reset, ensure_min_samples=0)
        if X.shape[0] < min_rows:
            raise UsageError(f"found array with n_samples={X.shape[0]}; a minimum of {min_rows} is required")
        rows = X
    else:
        rows = validate_data(
            estimator, X, dtype="numeric", reset=reset, ensure_all_finite=False, ensure_min_samples=min_rows
        )
    _refuse_gaps(rows)
    return rows


def labelled(
    estimator: BaseEstimator, X: npt.ArrayLike, y: npt.ArrayLike, *, min_rows: int = 1
) -> tuple[Rows, npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    """X as :func:`checked` gives it for fitting, the sorted distinct labels, and each row's index among them.

    Raises
    ------
    ValueError
        As :func:`checked`, or y does not fit X.
    """
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import validate_data

    rows, labels = validate_data(estimator, X, y, dtype="numeric", ensure_all_finite=False, ensure_min_samples=min_rows)
    check_classification_targets(labels)
    _refuse_gaps(rows)
    classes, codes = np.unique(labels, return_inverse=True)
    return rows, classes, codes.astype(np.int64)


def blocks(rows: Rows, *, normalize: bool = False) -> Iterator[tuple[slice, Float64]]:
    """Each block's place and its rows in float64, scaled to length 1 where ``normalize``."""
    for start in range(0, rows.shape[0], BLOCK):
        block = slice(start, start + BLOCK)
        yield block, unit(rows[block], np.float64) if normalize else rows[block].astype(np.float64)  # type: ignore[misc]


def _refuse_gaps(rows: Rows) -> None:
    if rows.dtype.kind != "f":
        return
    for start in range(0, rows.shape[0], BLOCK):
        bad = np.flatnonzero(~np.isfinite(rows[start : start + BLOCK]).all(axis=1))
        if bad.size:
            raise UsageError(
                f"row {start + bad[0]} of {rows.shape[0]} (and perhaps more) is not finite (NaN or inf); "
                "leave out images that have no features"
            )
