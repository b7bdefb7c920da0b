"""Nearest neighbours in feature space: an out-of-distribution score and a classifier, both by cosine similarity."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.errors import UsageError
from embedstore.neighbors import nearest, unit

_BLOCK = 8192  # rows voted on at once


class KNNDetector(BaseEstimator):  # type: ignore[misc]
    """Similarity to the nearest in-distribution features as a score; no labels needed.

    The unsupervised detector of Adaloglou et al. (arXiv 2303.05828), there with k = 1. Their code averages
    exp(similarity / 0.02) over the k neighbours where this class averages the similarity itself: for k = 1 the
    ranking, and so AUROC and FPR, is the same; for k > 1 theirs is dominated by the nearest neighbour.

    Parameters
    ----------
    k : int, default 1

    Attributes
    ----------
    bank_ : (N, D) float32
        The fitted features, each of length 1.
    n_features_in_ : int
    """

    def __init__(self, k: int = 1) -> None:
        self.k = k

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Keep the in-distribution features.

        Parameters
        ----------
        X : (N, D) real
        y : ignored

        Raises
        ------
        UsageError
            ``k`` is not in [1, N].
        ValueError
            X is not a finite matrix.
        """
        rows = _features(self, X, reset=True)
        if not 1 <= self.k <= len(rows):
            raise UsageError(f"k={self.k} nearest of a bank with n_samples={len(rows)}: k must lie in [1, n_samples]")
        self.bank_ = unit(rows)
        return self

    def score_samples(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Mean cosine similarity to the k nearest fitted rows: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            Of float32 similarities: a row's score depends on its neighbours in the batch by rounding alone (1e-6).
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        similarities, _ = nearest(_features(self, X), self.bank_, self.k, unit_bank=True)
        return np.asarray(similarities.mean(axis=1, dtype=np.float64))


class KNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Weighted k-nearest-neighbour classifier: the k most similar rows vote, each with weight exp(similarity / T).

    The ID classifier of the correlation study in Adaloglou et al. (arXiv 2303.05828), after Wu et al.
    (arXiv 1805.01978); k = 20 and T = 0.02 are theirs.

    Parameters
    ----------
    k : int, default 20
        With fewer than k fitted rows all of them vote, so that small data sets need no special case.
    temperature : float, default 0.02

    Attributes
    ----------
    classes_ : (C,)
        Sorted distinct labels.
    bank_ : (N, D) float32
        The fitted features, each of length 1.
    codes_ : (N,) int64
        Their labels, as indices into ``classes_``.
    n_features_in_ : int
    """

    def __init__(self, k: int = 20, temperature: float = 0.02) -> None:
        self.k = k
        self.temperature = temperature

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Keep the features and their labels.

        Parameters
        ----------
        X : (N, D) real
        y : (N,)

        Raises
        ------
        UsageError
            ``k`` or ``temperature`` is not positive.
        ValueError
            X is not a finite matrix, or y does not fit it.
        """
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import validate_data

        if self.k < 1 or not self.temperature > 0:
            raise UsageError(f"k and temperature must be positive, got k={self.k}, temperature={self.temperature}")
        rows, labels = validate_data(self, X, y, dtype="numeric")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        self.codes_ = codes.astype(np.int64)
        self.bank_ = unit(rows)
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The class with the most votes; the first of several equal ones.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) of the labels' dtype
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        similarities, indices = nearest(_features(self, X), self.bank_, min(self.k, len(self.bank_)), unit_bank=True)
        winners = np.empty(len(indices), dtype=np.int64)
        for start in range(0, len(indices), _BLOCK):
            block = slice(start, start + _BLOCK)
            winners[block] = self._votes(similarities[block], self.codes_[indices[block]]).argmax(axis=1)
        winning: npt.NDArray[np.generic] = self.classes_[winners]
        return winning

    def _votes(self, similarities: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Sum the weights per class: (N, k) and (N, k) to (N, C). The nearest row's weight is 1, so none overflows."""
        scaled = (similarities - similarities[:, :1]).astype(np.float64) / self.temperature
        cells = np.arange(len(codes))[:, None] * len(self.classes_) + codes
        votes = np.bincount(cells.ravel(), np.exp(scaled).ravel(), minlength=len(codes) * len(self.classes_))
        return np.asarray(votes, dtype=np.float64).reshape(len(codes), len(self.classes_))


def _features(estimator: BaseEstimator, X: npt.ArrayLike, *, reset: bool = False) -> npt.NDArray[np.floating]:
    """X as scikit-learn checks it: finite, two-dimensional, and (unless fitting) of the fitted width."""
    from sklearn.utils.validation import validate_data

    rows: npt.NDArray[np.floating] = validate_data(estimator, X, dtype="numeric", reset=reset)
    return rows
