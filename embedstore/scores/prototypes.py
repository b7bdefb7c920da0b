"""Cosine similarity to the nearest class prototype."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.neighbors import unit
from embedstore.scores.covariance import class_means
from embedstore.scores.features import Float64, blocks, checked, labelled

_ROUNDING = 1e-12  # the mean of rows of length 1 that cancel out is about as short as this, or shorter


class PrototypeDetector(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Cosine similarity to the nearest class prototype as a score.

    A prototype is the mean of the class's features, each scaled to length 1 first, scaled to length 1 again: the
    nearest-class-mean classifier (Mensink et al., TPAMI 2013) on the sphere. The labels may be pseudo-labels, which
    makes the detector free of annotations: with zero-shot labels it is the image-side counterpart of maximum concept
    matching, whose prototypes are text.

    Memory: (C, D) prototypes in float64, and blocks of rows.

    Attributes
    ----------
    classes_ : (C,)
        Sorted distinct labels.
    prototypes_ : (C, D) float64
        Of length 1; zeros where the rows of a class cancel out, their mean being shorter than 1e-12.
    n_features_in_ : int
    """

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Average the features of each class.

        Parameters
        ----------
        X : (N, D) real
        y : (N,)

        Raises
        ------
        ValueError
            X is not a finite matrix, or y does not fit it.
        """
        rows, self.classes_, codes = labelled(self, X, y)
        means = class_means(rows, codes, len(self.classes_), np.zeros(rows.shape[1]), normalize=True)
        means[np.linalg.norm(means, axis=1) < _ROUNDING] = 0  # whose direction would be rounding error
        self.prototypes_ = unit(means, np.float64)
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """Cosine similarity to the nearest prototype: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            In [-1, 1], up to rounding.
        """
        return self._nearest(X)[0]

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The class of the nearest prototype; the first of several equally near ones.

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
        for place, block in blocks(rows, normalize=True):
            cosines = block @ self.prototypes_.T  # (n, C)
            codes[place] = cosines.argmax(axis=1)
            scores[place] = cosines.max(axis=1)
        return scores, codes
