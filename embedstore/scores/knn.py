"""Nearest neighbours in feature space: an out-of-distribution score and a classifier."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.errors import UnknownName, UsageError
from embedstore.neighbors import nearest
from embedstore.scores.features import checked, labelled

_BLOCK = 8192  # rows voted on at once
_COLDEST = 1 / 700  # exp(700) is a float64, exp(710) is not


class KNNDetector(BaseEstimator):  # type: ignore[misc]
    """Similarity to the nearest in-distribution features as a score; no labels needed.

    The unsupervised detector of Adaloglou et al. (arXiv 2303.05828), there with k = 1, and of Sun et al.
    (arXiv 2204.06507), there with the k-th neighbour. Exact, by brute force.

    Memory: the fitted features are kept as they are, not copied (a memory map or a Zarr array stays one), and read
    block by block for every call of ``score_samples`` as :func:`embedstore.neighbors.nearest` does; so do not write to
    them afterwards. Score many rows in one call rather than one row in many.

    Parameters
    ----------
    k : int, default 1
    metric : "cosine" (default) or "l2"
        Cosine similarity, or negative Euclidean distance of the features as they are. The Euclidean distance of
        features of length 1, which Sun et al. use, is sqrt(2 - 2 cosine): with "kth" its ranking is the cosine's.
    reduce : "mean" (default), "kth" or "exp"
        What becomes of the k values s_1 >= ... >= s_k: their mean; the k-th (Sun et al.); or the mean of
        exp(s / ``temperature``), as in the released code of Adaloglou et al., for cosines only. For k = 1 all three
        rank rows alike, so AUROC and FPR are the same; for k > 1 "exp" is dominated by the nearest neighbour.
    temperature : float, default 0.02
        For "exp" only. Finite, and at least 1 / 700, or the exponential would overflow.
    device : "cpu" (default) or "cuda"
        Where FAISS searches.

    Attributes
    ----------
    bank_ : (N, D)
        The fitted features, as they came.
    n_features_in_ : int
    """

    def __init__(
        self,
        k: int = 1,
        metric: str = "cosine",
        reduce: str = "mean",
        temperature: float = 0.02,
        device: str = "cpu",
    ) -> None:
        self.k = k
        self.metric = metric
        self.reduce = reduce
        self.temperature = temperature
        self.device = device

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Keep the in-distribution features.

        Parameters
        ----------
        X : (N, D) real
        y : ignored

        Raises
        ------
        UsageError
            ``k`` is not in [1, N], ``temperature`` is too small or infinite, "exp" is asked of distances, or there is
            no such ``metric`` or ``reduce``.
        ValueError
            X is not a finite matrix.
        """
        self._check()
        rows = checked(self, X, reset=True, lazy=True)
        if not 1 <= self.k <= rows.shape[0]:
            raise UsageError(
                f"k={self.k} nearest of a bank with n_samples={rows.shape[0]}: k must lie in [1, n_samples]"
            )
        self.bank_ = rows
        return self

    def _check(self) -> None:
        if self.metric not in ("cosine", "l2"):
            raise UnknownName("metric", str(self.metric), ("cosine", "l2"))
        if self.reduce not in ("mean", "kth", "exp"):
            raise UnknownName("reduction", str(self.reduce), ("mean", "kth", "exp"))
        if self.reduce == "exp" and self.metric != "cosine":
            raise UsageError('reduce="exp" is the mean of exponentiated cosines; use metric="cosine" or another reduce')
        if self.reduce == "exp" and not _COLDEST <= self.temperature < np.inf:
            raise UsageError(
                f"temperature={self.temperature} is not finite, or below 1 / 700, where exp(1 / temperature) overflows"
            )

    def score_samples(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The k nearest fitted rows' similarity, reduced to one number: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            Of float32 similarities: a row's score depends on its neighbours in the batch by rounding alone (1e-6,
            which "exp" multiplies by 1 / ``temperature``, relative to the score).

        Raises
        ------
        UsageError
            Parameters that were set after ``fit`` are none that it would take.
        ValueError
            X is not a finite matrix of the fitted width.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        self._check()
        found, _ = nearest(checked(self, X, lazy=True), self.bank_, self.k, self.metric, device=self.device)
        return self._reduced(found)

    def score_left_out(self, rows: slice = slice(None)) -> npt.NDArray[np.float64]:
        """The score of fitted rows among all the others: leave-one-out.

        A fitted row finds itself first, so ``score_samples`` of the bank says nothing about new rows. These do: set a
        threshold by them, or fit :class:`embedstore.scores.StandardizedSum` to them. Copies of a row (duplicate images)
        count among the others.

        Parameters
        ----------
        rows : slice
            Which fitted rows to score, all by default. The time is that of a full search with each of them, so of a
            large bank take every tenth or hundredth: ``slice(None, None, 100)``.

        Returns
        -------
        (n,) float64
            In the order of the bank.

        Raises
        ------
        UsageError
            ``k`` is N: no row has that many others; or as :meth:`score_samples`.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        self._check()
        if self.k >= self.bank_.shape[0]:
            raise UsageError(
                f"k={self.k} nearest others of a row in a bank of {self.bank_.shape[0]} rows; use a smaller k"
            )
        asked = self.bank_ if rows == slice(None) else self.bank_[rows]  # a slice of a Zarr array would lie in memory
        found, _ = nearest(asked, self.bank_, self.k + 1, self.metric, device=self.device)
        # The nearest of all is the row itself, or a copy of it, which is as near.
        return self._reduced(found[:, 1:])

    def _reduced(self, found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Similarities or distances of the k nearest, (n, k), to one score: (n,)."""
        values = found.astype(np.float64) if self.metric == "cosine" else -found.astype(np.float64)
        if self.reduce == "kth":
            return values[:, -1]
        if self.reduce == "exp":
            values = np.exp(values / self.temperature)
        return np.asarray(values.mean(axis=1))


class KNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Weighted k-nearest-neighbour classifier: the k most similar rows vote, each with weight exp(similarity / T).

    The ID classifier of the correlation study in Adaloglou et al. (arXiv 2303.05828), after Wu et al.
    (arXiv 1805.01978); k = 20 and T = 0.02 are theirs.

    Parameters
    ----------
    k : int, default 20
        With fewer than k fitted rows all of them vote, so that small data sets need no special case.
    temperature : float, default 0.02
    device : "cpu" (default) or "cuda"
        Where FAISS searches.

    Attributes
    ----------
    classes_ : (C,)
        Sorted distinct labels.
    bank_ : (N, D)
        The fitted features, as they came; so do not write to them afterwards.
    codes_ : (N,) int64
        Their labels, as indices into ``classes_``.
    n_features_in_ : int
    """

    def __init__(self, k: int = 20, temperature: float = 0.02, device: str = "cpu") -> None:
        self.k = k
        self.temperature = temperature
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Keep the features and their labels.

        Parameters
        ----------
        X : (N, D) real
        y : (N,)

        Raises
        ------
        UsageError
            ``k`` or ``temperature`` is not positive and finite.
        ValueError
            X is not a finite matrix, or y does not fit it.
        """
        self._check()
        rows, self.classes_, self.codes_ = labelled(self, X, y)
        self.bank_ = rows
        return self

    def _check(self) -> None:
        if self.k < 1 or not 0 < self.temperature < np.inf:
            raise UsageError(
                f"k and temperature must be positive and finite, got k={self.k}, temperature={self.temperature}"
            )

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
        self._check()
        similarities, indices = nearest(checked(self, X), self.bank_, min(self.k, len(self.bank_)), device=self.device)
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
