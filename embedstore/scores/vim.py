"""The part of a feature that in-distribution features do not have: residual, and virtual-logit matching."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from embedstore.errors import NotAvailable, UsageError
from embedstore.scores.features import Float64, blocks, checked
from embedstore.scores.heads import head
from embedstore.scores.logits import energy, max_logit

_ROUNDING = 1e-9  # a residual smaller than this beside the features is rounding error


class ResidualDetector(BaseEstimator):  # type: ignore[misc]
    """Length of a feature's residual outside the principal space of the in-distribution features, negated.

    The origin is o = -W^+ b (W^+ the pseudo-inverse), where the linear head z = W x + b gives logits closest to 0. The
    principal space is spanned by the ``dim`` eigenvectors with the largest eigenvalues of (1/N) sum (x - o)(x - o)^T:
    about the origin, not about the mean. The score is -|R^T (x - o)|, with R the other eigenvectors. This is the
    "Residual" of Wang et al. (ViM, CVPR 2022), who compare with it, and of OpenOOD.

    All in float64. Memory: a few (D, D) matrices, the head, and blocks of rows.

    Parameters
    ----------
    coef : (C, D) real, or None
        The head's weights, for features as ``fit`` gets them. A head that was trained on (x - mean) / scale has
        weights W / scale for x itself, and intercepts b - W (mean / scale). None: the features are logits themselves.
    intercept : (C,) real, or None
        None for zeros; the origin is 0 then.
    dim : int, or None
        In [0, D). None for the rule of the authors' code, 1000 where D >= 2048 and 512 otherwise, except that below
        D = 768, where 512 would leave little or nothing, it is D // 2 (as in NINCO's evaluation code).

    Attributes
    ----------
    origin_ : (D,) float64
    residual_space_ : (D, D - dim) float64
        R: orthonormal columns.
    n_features_in_ : int
    """

    def __init__(
        self, coef: npt.ArrayLike | None = None, intercept: npt.ArrayLike | None = None, dim: int | None = None
    ) -> None:
        self.coef = coef
        self.intercept = intercept
        self.dim = dim

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Find the principal space of in-distribution features.

        Parameters
        ----------
        X : (N, D) real
        y : ignored

        Raises
        ------
        UsageError
            ``coef`` or ``intercept`` does not fit, or ``dim`` is not in [0, D).
        ValueError
            X is not a finite matrix.
        """
        rows = checked(self, X, reset=True)
        width = rows.shape[1]
        weights, offsets = head(self.coef, self.intercept, width)
        dim = _default_dim(width) if self.dim is None else self.dim
        if not 0 <= dim < width:
            raise UsageError(f"dim={dim} principal directions of {width} features: dim must lie in [0, {width})")
        self.origin_ = -np.linalg.pinv(weights) @ offsets
        moment = np.zeros((width, width))
        for _, block in blocks(rows):
            block -= self.origin_
            moment += block.T @ block
        _, vectors = np.linalg.eigh(moment / len(rows))  # ascending
        self.residual_space_ = np.ascontiguousarray(vectors[:, : width - dim])
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """Negative length of the residual: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            At most 0.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        rows = checked(self, X)
        scores = np.empty(len(rows))
        for place, block in blocks(rows):
            scores[place] = -self._residuals(block)
        return scores

    def _residuals(self, block: Float64) -> Float64:
        apart = (block - self.origin_) @ self.residual_space_
        return np.asarray(np.sqrt(np.einsum("nd,nd->n", apart, apart)))


class ViMDetector(ResidualDetector):
    """Virtual-logit matching (Wang et al., CVPR 2022): the energy of the logits less a virtual logit for the residual.

    The score is logsumexp(z) - alpha |R^T (x - o)|, with z = W x + b the head's logits, R and o as in
    :class:`ResidualDetector`, and alpha the mean largest logit of the in-distribution rows over their mean residual,
    which brings the virtual logit to the size of real ones. It rises and falls as the probability that a softmax over
    the C + 1 logits gives to the real classes. Where the mean largest logit is negative, alpha is, as the formula has
    it, and the residual counts the wrong way round: give it logits of a classifier, not distances.

    All in float64. Memory: a few (D, D) matrices, the head, and blocks of rows and their logits.

    Parameters
    ----------
    coef, intercept, dim
        As in :class:`ResidualDetector`.

    Attributes
    ----------
    origin_, residual_space_, n_features_in_
        As in :class:`ResidualDetector`.
    alpha_ : float
    coef_ : (C, D) float64
    intercept_ : (C,) float64
    """

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Find the principal space of in-distribution features, and the scale of the virtual logit.

        Parameters
        ----------
        X : (N, D) real
        y : ignored

        Raises
        ------
        NotAvailable
            The in-distribution rows have no residual: they span no more than ``dim`` directions.
        UsageError
            ``coef`` or ``intercept`` does not fit, or ``dim`` is not in [0, D).
        ValueError
            X is not a finite matrix of two rows or more.
        """
        rows = checked(self, X, reset=True, min_rows=2)  # a single row lies in its own principal direction
        super().fit(X)
        self.coef_, self.intercept_ = head(self.coef, self.intercept, rows.shape[1])
        largest = residual = length = 0.0
        for _, block in blocks(rows):
            largest += float(max_logit(self._logits(block)).sum())
            residual += float(self._residuals(block).sum())
            length += float(np.linalg.norm(block - self.origin_, axis=1).sum())
        if residual <= _ROUNDING * length:
            dim = len(self.origin_) - self.residual_space_.shape[1]
            raise NotAvailable(f"the {len(rows)} rows have no residual outside {dim} directions; use a smaller dim")
        self.alpha_ = largest / residual
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """Energy less the virtual logit: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        rows = checked(self, X)
        scores = np.empty(len(rows))
        for place, block in blocks(rows):
            scores[place] = energy(self._logits(block)) - self.alpha_ * self._residuals(block)
        return scores

    def _logits(self, block: Float64) -> Float64:
        return np.asarray(block @ self.coef_.T + self.intercept_)


def _default_dim(width: int) -> int:
    if width >= 2048:
        return 1000
    return 512 if width >= 768 else width // 2
