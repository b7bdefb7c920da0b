"""Means, covariances and their factors, streamed: what the Gaussian detectors estimate.

Every sum runs over blocks of rows in float64. Memory: a few (D, D) and (C, D) matrices and one block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable
from embedstore.scores.features import Float64, Rows, blocks

SHRINKAGES = ("ledoit-wolf", "oas")

_ROUNDING = 1e-12  # what is smaller than this beside a variance is rounding error, not variance


def column_mean(rows: Rows, *, normalize: bool = False) -> Float64:
    """Mean row: (D,)."""
    total = np.zeros(rows.shape[1])
    for _, block in blocks(rows, normalize=normalize):
        total += block.sum(axis=0)
    return total / len(rows)


def class_means(
    rows: Rows, codes: npt.NDArray[np.int64], n_classes: int, origin: Float64, *, normalize: bool = False
) -> Float64:
    """Means of the classes as seen from ``origin``: (C, D). Rows with code -1 belong to none; a class without rows, 0.

    Seen from a point among the rows, so that a mean far from zero costs no digits.
    """
    totals = np.zeros((n_classes + 1, rows.shape[1]))  # the last, which -1 points at, is for rows of no class
    for place, block in blocks(rows, normalize=normalize):
        # Rows of one class brought together and summed in one sweep; np.add.at would take them one by one.
        order = np.argsort(codes[place], kind="stable")
        present, first = np.unique(codes[place][order], return_index=True)
        totals[present] += np.add.reduceat(block[order] - origin, first, axis=0)
    counts = np.bincount(codes[codes >= 0], minlength=n_classes)
    return np.asarray(totals[:-1] / np.maximum(counts, 1)[:, None])


def scatter(
    rows: Rows, centres: Float64, codes: npt.NDArray[np.int64], weights: Float64, *, normalize: bool = False
) -> tuple[Float64, float]:
    """Weighted second moment about the centres, and the fourth moment that Ledoit and Wolf's shrinkage needs.

    With a = sqrt(w) (x - m), where m and w are the centre and the weight of the row's class: the sum of a a^T, (D, D),
    and the sum of |a|^4. Rows with code -1 belong to no class and count nothing.
    """
    total, fourth = np.zeros((rows.shape[1], rows.shape[1])), 0.0
    roots = np.sqrt(np.append(weights, 0.0))
    for place, block in blocks(rows, normalize=normalize):
        apart = (block - centres[codes[place]]) * roots[codes[place], None]
        total += apart.T @ apart
        fourth += float(np.square(np.einsum("nd,nd->n", apart, apart)).sum())
    return total, fourth


def shrink(covariance: Float64, fourth: float, n_rows: int, method: str) -> Float64:
    """(1 - r) S + r m I, with m the mean eigenvalue of S and r in [0, 1] estimated in closed form.

    "oas" is Chen, Wiesel, Eldar & Hero (arXiv 0907.4698), "ledoit-wolf" Ledoit & Wolf (J. Multivariate Analysis 88,
    2004), both as scikit-learn computes them of the centred and weighted rows a sqrt(N) of :func:`scatter`.
    """
    width = len(covariance)
    mean = float(np.trace(covariance)) / width
    squares = float(np.square(covariance).sum())
    spread = squares - width * mean**2  # squared distance of S from m I
    if width == 1 or spread <= 0:  # nothing to shrink towards: S is m I already
        return covariance
    if method == "oas":
        share = (squares / width**2 + mean**2) / ((n_rows + 1) * spread / width**2)
    else:
        share = (n_rows * fourth - squares) / (n_rows * spread)
    share = min(max(share, 0.0), 1.0)
    shrunk = (1 - share) * covariance
    shrunk[np.diag_indices_from(shrunk)] += share * mean
    return np.asarray(shrunk)


def refuse_constant(covariance: Float64, centres: Float64, where: str) -> None:
    """Raise NotAvailable where no feature has more variance than rounding leaves of one that is constant.

    Each is compared with its own centres, (C, D): a constant feature of 1e6 says nothing about the others.
    """
    if (np.diag(covariance) <= _ROUNDING**2 * np.square(centres).max(axis=0)).all():
        raise NotAvailable(f"the covariance {where} is zero: the features do not vary there")


def factor(covariance: Float64, ridge: float, where: str) -> Float64:
    """Lower Cholesky factor of the covariance plus ``ridge`` times its mean eigenvalue.

    Raises
    ------
    NotAvailable
        The matrix is singular; ``where`` says which covariance.
    """
    from scipy.linalg import LinAlgError, cholesky

    mean_eigenvalue = float(np.trace(covariance)) / len(covariance)
    covariance = covariance + ridge * mean_eigenvalue * np.eye(len(covariance))
    singular = NotAvailable(
        f"the covariance {where} is singular ({len(covariance)} features, ridge={ridge}); use a larger ridge"
    )
    try:
        lower = np.asarray(cholesky(covariance, lower=True), dtype=np.float64)
    except LinAlgError as error:
        raise singular from error
    # Rounding can let a singular matrix through. A pivot is what a feature adds to the ones before it: none, here.
    if (np.square(np.diag(lower)) <= _ROUNDING * np.diag(covariance)).any():
        raise singular
    return lower


def whiten(rows: Float64, lower: Float64) -> Float64:
    """Solve L w = x for every row: in these coordinates the covariance is the identity."""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(lower, rows.T, lower=True, check_finite=False).T, dtype=np.float64)
