"""Several scores of the same images brought to one scale and added: text and image evidence together."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.scores.features import Float64, checked


class StandardizedSum(BaseEstimator):  # type: ignore[misc]
    """Weighted sum of several detectors' scores, each brought to a common scale by in-distribution rows.

    Scores come in units of their own: MCM over 1,000 classes moves within 1e-4, a Mahalanobis distance over hundreds.
    A plain sum would be the one with the largest unit. Here column j of the scores becomes t_j(s), and the sum is
    sum_j w_j t_j(s_j). No out-of-distribution row is looked at, so nothing is tuned on the test.

    Fit it on scores of in-distribution rows that the detectors did *not* see. Zero-shot scores of training rows are
    such (prompts learn nothing), and so are their nearest-neighbour scores by :meth:`KNNDetector.score_left_out`; by
    ``score_samples`` a training row would be its own nearest neighbour.

    Memory: with "rank" the fitted scores, sorted, (N, S) float64.

    Parameters
    ----------
    weights : (S,) real, or None
        None for equal weights 1 / S. They must not be negative, as every score is higher in-distribution.
    scale : "z" (default) or "rank"
        * "z": (s - mean) / standard deviation of the fitted rows.
        * "rank": the share of fitted rows with a lower score, ties counting half; in [0, 1]. Robust to heavy tails,
          but all rows below the lowest fitted score are alike, and those are where the OOD rows lie: a method for
          many fitted rows.

    Attributes
    ----------
    mean_, scale_ : (S,) float64
        With "z".
    sorted_ : (S, N) float64
        With "rank".
    weights_ : (S,) float64
    n_features_in_ : int
        S.
    """

    def __init__(self, weights: npt.ArrayLike | None = None, scale: str = "z") -> None:
        self.weights = weights
        self.scale = scale

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Learn the scale of each score.

        Parameters
        ----------
        X : (N, S) real
            One column per detector: its scores of in-distribution rows.
        y : ignored

        Raises
        ------
        NotAvailable
            A score is the same for all rows, and so has no scale; or it moves so little that its variance is 0 in
            float64.
        UsageError
            There is no such ``scale``, or the weights do not fit, are negative, or all 0.
        ValueError
            X is not a finite matrix with two rows.
        """
        if self.scale not in ("z", "rank"):
            raise UnknownName("scale", str(self.scale), ("z", "rank"))
        scores = checked(self, X, reset=True, min_rows=2).astype(np.float64)
        self.weights_ = _weights(self.weights, scores.shape[1])
        flat = np.flatnonzero(scores.min(axis=0) == scores.max(axis=0))
        if flat.size:
            raise NotAvailable(f"score {flat[0]} of {scores.shape[1]} is the same for all rows: it has no scale")
        if self.scale == "z":
            self.mean_, self.scale_ = scores.mean(axis=0), scores.std(axis=0, ddof=1)
            lost = np.flatnonzero(self.scale_ == 0)
            if lost.size:
                raise NotAvailable(
                    f"score {lost[0]} of {scores.shape[1]} moves by so little that its variance underflows; multiply it"
                )
        else:
            self.sorted_ = np.sort(scores, axis=0).T.copy()
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """The weighted sum of the rescaled scores: higher = more in-distribution.

        Parameters
        ----------
        X : (N, S) real

        Returns
        -------
        (N,) float64
            Each row's score depends on that row alone.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        scores = checked(self, X).astype(np.float64)
        if self.scale == "z":
            scaled = (scores - self.mean_) / self.scale_
        else:
            pairs = zip(self.sorted_, scores.T, strict=True)
            scaled = np.stack([_share_below(fitted, column) for fitted, column in pairs], axis=1)
        return np.asarray((scaled * self.weights_).sum(axis=1))


def _weights(weights: npt.ArrayLike | None, count: int) -> Float64:
    if weights is None:
        return np.full(count, 1 / count)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (count,) or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise UsageError(f"weights must be {count} numbers, one per score, none negative and not all 0; got {given}")
    return given


def _share_below(fitted: Float64, scores: Float64) -> Float64:
    """Share of the sorted ``fitted`` scores that lie below each score, ties counting half."""
    below, up_to = np.searchsorted(fitted, scores, "left"), np.searchsorted(fitted, scores, "right")
    return np.asarray((below + up_to) / (2 * len(fitted)))
