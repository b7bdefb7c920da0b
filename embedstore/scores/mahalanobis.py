"""Mahalanobis distance to the nearest class mean, and its relative form."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.errors import NotAvailable, UsageError

Float64 = npt.NDArray[np.float64]

_BLOCK = 4096  # rows handled at once; with 1,280 features 42 MB in float64
_ROUNDING = 1e-12  # what is smaller than this beside a variance is rounding error, not variance


class MahalanobisDetector(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian classes with one shared covariance: the negative distance to the nearest class mean as a score.

    Notation: mu_c is the mean of class c, S the covariance, d_c(x) = (x - mu_c)^T S^-1 (x - mu_c). The score is
    -min_c d_c (Lee et al., arXiv 1807.03888) or, where ``relative``, -min_c (d_c - d_0), with d_0 the distance to the
    global mean under the global covariance (Ren et al., arXiv 2106.09022).

    S is the *pooled* within-class covariance: the scatter of all rows about their class means over N - C. The released
    code of Adaloglou et al. (arXiv 2303.05828) takes the unweighted mean of the class covariances instead, which is the
    same for classes of equal size; here a class with a single row is allowed and simply adds no scatter.

    All in float64. Memory: the features are read in blocks, so beside them only a few (D, D) and (C, D) matrices.

    Parameters
    ----------
    relative : bool, default False
    ridge : float, default 1e-6
        This fraction of the mean eigenvalue is added to the diagonal of each covariance. With fewer rows than features
        (or features that depend on one another) a covariance is singular; its numerical inverse then does not fail but
        holds entries of 1e14 made of rounding errors, and so would the scores. 0 turns it off.

    Attributes
    ----------
    classes_ : (C,)
        Sorted distinct labels.
    means_ : (C, D) float64
    mean_ : (D,) float64
        Of all rows.
    cholesky_ : (D, D) float64
        Lower factor of S with its ridge.
    global_cholesky_ : (D, D) float64
        The same of the global covariance; only where ``relative``.
    n_features_in_ : int
    """

    def __init__(self, relative: bool = False, ridge: float = 1e-6) -> None:
        self.relative = relative
        self.ridge = ridge

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Estimate the class means and the covariance.

        Parameters
        ----------
        X : (N, D) real
        y : (N,)

        Raises
        ------
        NotAvailable
            No class has two rows, or a covariance is zero, or singular while ``ridge`` is 0.
        UsageError
            ``ridge`` is negative.
        ValueError
            X is not a finite matrix, or y does not fit it.
        """
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import validate_data

        if not self.ridge >= 0:
            raise UsageError(f"ridge must not be negative, got {self.ridge}")
        rows, labels = validate_data(self, X, y, dtype="numeric", ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        freedom = len(rows) - len(self.classes_)
        if freedom <= 0:
            raise NotAvailable(
                f"a covariance needs a class with two rows: n_samples={len(rows)} rows fall into as many classes"
            )
        self.mean_ = _column_mean(rows)
        self.means_ = self.mean_ + _class_means(rows, codes, len(self.classes_), self.mean_)
        # Squares below this are what rounding leaves of features that do not vary.
        negligible = 1e-24 * float(np.max(np.square(self.mean_)))
        within = _scatter(rows, self.means_, codes) / freedom
        self.cholesky_ = _factor(within, self.ridge, negligible, "within the classes")
        if self.relative:
            whole = _scatter(rows, self.mean_[None], np.zeros_like(codes)) / (len(rows) - 1)
            self.global_cholesky_ = _factor(whole, self.ridge, negligible, "of all rows")
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """Negative (relative) distance to the nearest class: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            At most 0 unless ``relative``. Each row's score depends on its neighbours by rounding alone.
        """
        return self._nearest(X)[0]

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The class with the nearest mean; the same whether ``relative`` or not.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) of the labels' dtype
        """
        codes = self._nearest(X)[1]
        labels: npt.NDArray[np.generic] = self.classes_[codes]
        return labels

    def _nearest(self, X: npt.ArrayLike) -> tuple[Float64, npt.NDArray[np.int64]]:
        """Score and index of the nearest class, per row."""
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        rows = validate_data(self, X, dtype="numeric", reset=False)
        scores, codes = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
        centres = _whiten(self.means_ - self.mean_, self.cholesky_)  # (C, D)
        lengths = np.einsum("cd,cd->c", centres, centres)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            # Seen from the global mean, so that the difference of squares below loses few digits.
            centred = rows[block].astype(np.float64) - self.mean_
            white = _whiten(centred, self.cholesky_)
            squares = np.einsum("nd,nd->n", white, white)
            # |w - m|² = |w|² + |m|² - 2 w·m; rounding can bring it below 0, which no distance is.
            distances = np.maximum(squares[:, None] + lengths - 2 * (white @ centres.T), 0)  # (n, C)
            codes[block] = distances.argmin(axis=1)
            scores[block] = -distances.min(axis=1)
            if self.relative:
                white = _whiten(centred, self.global_cholesky_)
                scores[block] += np.einsum("nd,nd->n", white, white)
        return scores, codes


def _column_mean(rows: npt.NDArray[np.generic]) -> Float64:
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):
        total += rows[start : start + _BLOCK].sum(axis=0, dtype=np.float64)
    return total / len(rows)


def _class_means(
    rows: npt.NDArray[np.generic], codes: npt.NDArray[np.intp], n_classes: int, origin: Float64
) -> Float64:
    """Means of the classes as seen from ``origin``: (C, D)."""
    totals = np.zeros((n_classes, rows.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        # Rows of one class brought together and summed in one sweep; np.add.at would take them one by one.
        order = np.argsort(codes[block], kind="stable")
        present, first = np.unique(codes[block][order], return_index=True)
        totals[present] += np.add.reduceat(rows[block][order].astype(np.float64) - origin, first, axis=0)
    return totals / np.bincount(codes, minlength=n_classes)[:, None]


def _scatter(rows: npt.NDArray[np.generic], centres: Float64, codes: npt.NDArray[np.intp]) -> Float64:
    """Sum over rows of (x - m)(x - m)^T, where m is the centre that the row's code points at: (D, D)."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        apart = rows[block].astype(np.float64) - centres[codes[block]]
        total += apart.T @ apart
    return total


def _factor(covariance: Float64, ridge: float, negligible: float, where: str) -> Float64:
    """Lower Cholesky factor of the covariance plus ``ridge`` times its mean eigenvalue."""
    from scipy.linalg import LinAlgError, cholesky

    mean_eigenvalue = float(np.trace(covariance)) / len(covariance)
    if mean_eigenvalue <= negligible:
        raise NotAvailable(f"the covariance {where} is zero: the features do not vary there")
    covariance[np.diag_indices_from(covariance)] += ridge * mean_eigenvalue
    singular = NotAvailable(
        f"the covariance {where} is singular ({len(covariance)} features, ridge={ridge}); use a larger ridge"
    )
    try:
        factor = np.asarray(cholesky(covariance, lower=True), dtype=np.float64)
    except LinAlgError as error:
        raise singular from error
    # Rounding can let a singular matrix through. A pivot is what a feature adds to the ones before it: none, here.
    if (np.square(np.diag(factor)) <= _ROUNDING * np.diag(covariance)).any():
        raise singular
    return factor


def _whiten(rows: Float64, factor: Float64) -> Float64:
    """Solve L w = x for every row: in these coordinates the covariance is the identity."""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, rows.T, lower=True, check_finite=False).T, dtype=np.float64)
