"""Mahalanobis distance to the nearest class mean: relative, shrunk, normalised, with shared or own covariances."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.scores.covariance import (
    SHRINKAGES,
    class_means,
    column_mean,
    factor,
    refuse_constant,
    scatter,
    shrink,
    whiten,
)
from embedstore.scores.features import Float64, Rows, blocks, checked, labelled

COVARIANCES = ("pooled", "class-mean", "per-class")


class MahalanobisDetector(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian classes: the negative distance to the nearest class mean as a score.

    Notation: mu_c is the mean of class c, S its covariance, d_c(x) = (x - mu_c)^T S^-1 (x - mu_c). The score is
    -min_c d_c (Lee et al., arXiv 1807.03888) or, where ``relative``, -min_c (d_c - d_0), with d_0 the distance to the
    global mean under the global covariance (Ren et al., arXiv 2106.09022).

    All in float64; rows are whitened once, after which every class costs a row of a matrix product. Memory: the
    features are read in blocks, so beside them only a few (D, D) and (C, D) matrices; with "per-class" covariances
    C matrices of (D, D), which for 1,000 classes of 768 features is 4.7 GB, and one class's rows at a time.

    Parameters
    ----------
    relative : bool, default False
    ridge : float, default 1e-6
        This fraction of the mean eigenvalue is added to the diagonal of each covariance, after any shrinkage. With
        fewer rows than features (or features that depend on one another) a covariance is singular; its numerical
        inverse then does not fail but holds entries of 1e14 made of rounding errors, and so would the scores. 0 turns
        it off.
    covariance : "pooled" (default), "class-mean" or "per-class"
        * "pooled": one for all, the scatter of all rows about their class means over N - C. A class with a single row
          is allowed and simply adds no scatter.
        * "class-mean": one for all, the unweighted mean of the classes' unbiased covariances, as in the released code
          of Adaloglou et al. (arXiv 2303.05828); the same as "pooled" for classes of equal size. As there, a class
          with a single row is left out altogether; the global mean and covariance still count it.
        * "per-class": each class its own, unbiased; classes with a single row are left out. The score is -min_c of the
          quadratic forms and has no log-determinant, so it is a distance and not a likelihood: a wide class reaches
          further than a likelihood would let it. With fewer rows than features the log-determinant would measure
          mostly the ridge. Use shrinkage where classes have few rows.
    shrinkage : None (default), "oas" or "ledoit-wolf"
        Draw each covariance towards a multiple of the identity, by the amount that scikit-learn's ``OAS`` or
        ``LedoitWolf`` would of the rows centred on their class means.
    normalize : bool, default False
        Scale every row to length 1 first: Mahalanobis++ (Müller & Hein, ICML 2025, arXiv 2505.18032). Unit rows have
        no variance along their common direction to speak of; the ridge keeps that harmless.

    Attributes
    ----------
    classes_ : (C,)
        Sorted distinct labels, of the classes that are not left out.
    means_ : (C, D) float64
    mean_ : (D,) float64
        Of all rows.
    cholesky_ : (D, D) float64, or (C, D, D) with "per-class"
        Lower factor of S with its ridge.
    global_cholesky_ : (D, D) float64
        The same of the global covariance; only where ``relative``.
    n_features_in_ : int
    """

    def __init__(
        self,
        relative: bool = False,
        ridge: float = 1e-6,
        covariance: str = "pooled",
        shrinkage: str | None = None,
        normalize: bool = False,
    ) -> None:
        self.relative = relative
        self.ridge = ridge
        self.covariance = covariance
        self.shrinkage = shrinkage
        self.normalize = normalize

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Estimate the class means and the covariances.

        Parameters
        ----------
        X : (N, D) real
        y : (N,)

        Raises
        ------
        NotAvailable
            No class has two rows, or a covariance is zero, or singular while ``ridge`` is 0.
        UsageError
            ``ridge`` is negative, or there is no such ``covariance`` or ``shrinkage``.
        ValueError
            X is not a finite matrix, or y does not fit it.
        """
        self._check()
        rows, classes, codes = labelled(self, X, y, min_rows=2)
        if len(rows) == len(classes):
            raise NotAvailable(
                f"a covariance needs a class with two rows: n_samples={len(rows)} rows fall into as many classes"
            )
        self.mean_ = column_mean(rows, normalize=self.normalize)
        if self.relative:
            codes_0, weight = np.zeros_like(codes), np.array([1 / (len(rows) - 1)])
            self.global_cholesky_ = self._factor(rows, self.mean_[None], codes_0, weight, "of all rows")
        if self.covariance != "pooled":
            classes, codes = _without_singles(classes, codes)
        self.classes_ = classes
        apart = class_means(rows, codes, len(classes), self.mean_, normalize=self.normalize)
        self.means_ = self.mean_ + apart
        self.cholesky_ = self._within(rows, codes)
        return self

    def _check(self) -> None:
        if not self.ridge >= 0:
            raise UsageError(f"ridge must not be negative, got {self.ridge}")
        if self.covariance not in COVARIANCES:
            raise UnknownName("covariance", str(self.covariance), COVARIANCES)
        if self.shrinkage is not None and self.shrinkage not in SHRINKAGES:
            raise UnknownName("shrinkage", str(self.shrinkage), SHRINKAGES)

    def _within(self, rows: Rows, codes: npt.NDArray[np.int64]) -> Float64:
        """Factor of the covariance within the classes, or one for each: (D, D) or (C, D, D)."""
        n_classes = len(self.classes_)
        counts = np.bincount(codes[codes >= 0], minlength=n_classes)
        if self.covariance == "pooled":
            weights = np.full(n_classes, 1 / (len(rows) - n_classes))
            return self._factor(rows, self.means_, codes, weights, "within the classes")
        if self.covariance == "class-mean":
            return self._factor(rows, self.means_, codes, 1 / (n_classes * (counts - 1)), "within the classes")
        factors = np.empty((n_classes, rows.shape[1], rows.shape[1]))
        for c, name in enumerate(self.classes_):
            own = rows[codes == c]
            weight, nought = np.array([1 / (counts[c] - 1)]), np.zeros(len(own), dtype=np.int64)
            factors[c] = self._factor(own, self.means_[c, None], nought, weight, f"of class {name}")
        return factors

    def _factor(
        self, rows: Rows, centres: Float64, codes: npt.NDArray[np.int64], weights: Float64, where: str
    ) -> Float64:
        covariance, fourth = scatter(rows, centres, codes, weights, normalize=self.normalize)
        refuse_constant(covariance, centres, where)
        if self.shrinkage is not None:
            covariance = shrink(covariance, fourth, int((codes >= 0).sum()), self.shrinkage)
        return factor(covariance, self.ridge, where)

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
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        rows = checked(self, X)
        scores, codes = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
        shared = self.cholesky_.ndim == 2
        centres = whiten(self.means_ - self.mean_, self.cholesky_) if shared else self.means_ - self.mean_  # (C, D)
        for place, block in blocks(rows, normalize=self.normalize):
            # Seen from the global mean, so that the difference of squares below loses few digits.
            block -= self.mean_
            distances = _shared(whiten(block, self.cholesky_), centres) if shared else self._own(block, centres)
            codes[place] = distances.argmin(axis=1)
            scores[place] = -distances.min(axis=1)
            if self.relative:
                white = whiten(block, self.global_cholesky_)
                scores[place] += np.einsum("nd,nd->n", white, white)
        return scores, codes

    def _own(self, block: Float64, centres: Float64) -> Float64:
        """Distance of every row to every centre, under the class's own covariance: (n, C)."""
        out = np.empty((len(block), len(centres)))
        for c, (centre, lower) in enumerate(zip(centres, self.cholesky_, strict=True)):
            white = whiten(block - centre, lower)
            out[:, c] = np.einsum("nd,nd->n", white, white)
        return out


def _shared(white: Float64, centres: Float64) -> Float64:
    """Squared distance of every whitened row to every whitened centre: (n, C)."""
    squares, lengths = np.einsum("nd,nd->n", white, white), np.einsum("cd,cd->c", centres, centres)
    # |w - m|² = |w|² + |m|² - 2 w·m; rounding can bring it below 0, which no distance is.
    distances = white @ centres.T
    distances *= -2
    distances += lengths
    distances += squares[:, None]
    return np.asarray(np.maximum(distances, 0, out=distances))


def _without_singles(
    classes: npt.NDArray[np.generic], codes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    """The classes that have two rows or more, and the rows' indices among them: -1 for the rows of the others."""
    kept = np.bincount(codes) > 1
    renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
    return classes[kept], renumbered[codes]
