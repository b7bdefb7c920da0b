"""Mahalanobis distance without labels: k-means clusters stand in for the classes."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from embedstore.errors import UsageError
from embedstore.neighbors import nearest, unit
from embedstore.scores.features import Float64, Rows, blocks, checked
from embedstore.scores.mahalanobis import MahalanobisDetector


class KMeansMahalanobisDetector(BaseEstimator):  # type: ignore[misc]
    """Mahalanobis distance to the nearest of ``n_clusters`` k-means clusters; no labels needed.

    After SSD (Sehwag, Chiang & Mittal, ICLR 2021, arXiv 2103.12051), which clusters features of length 1 and gives each
    cluster its own covariance: ``covariance="per-class", normalize=True``. Their released code also standardises the
    features before clustering, uses one cluster by default, and inverts with a pseudo-inverse and no ridge.

    Deterministic for a given ``seed`` (and number of threads, up to rounding). Memory: k-means sees at most
    ``max_rows`` rows, drawn at random, and needs twice their size in float32 (or once that and once their own); all
    rows are then assigned and fitted in blocks.

    Parameters
    ----------
    n_clusters : int, default 10
        With 1, the distance to the mean of all rows.
    relative, ridge, covariance, shrinkage, normalize
        As in :class:`MahalanobisDetector`, with clusters for classes; ``normalize`` holds for the clustering too.
    max_rows : int, default 100,000
    seed : int, default 0
        Of the draw and of k-means++.

    Attributes
    ----------
    centres_ : (K, D) float32
        The means that k-means found.
    detector_ : MahalanobisDetector
        Fitted to the clusters; its ``classes_`` are those rows of ``centres_`` that are nearest to any row.
    n_features_in_ : int
    """

    def __init__(
        self,
        n_clusters: int = 10,
        relative: bool = False,
        ridge: float = 1e-6,
        covariance: str = "pooled",
        shrinkage: str | None = None,
        normalize: bool = False,
        max_rows: int = 100_000,
        seed: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.relative = relative
        self.ridge = ridge
        self.covariance = covariance
        self.shrinkage = shrinkage
        self.normalize = normalize
        self.max_rows = max_rows
        self.seed = seed

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Cluster the in-distribution features and estimate the clusters' means and covariances.

        Parameters
        ----------
        X : (N, D) real
        y : ignored

        Raises
        ------
        NotAvailable
            As :meth:`MahalanobisDetector.fit`.
        UsageError
            ``n_clusters`` is not in [1, min(N, ``max_rows``)], or as :meth:`MahalanobisDetector.fit`.
        ValueError
            X is not a finite matrix.
        """
        from sklearn.cluster import KMeans

        rows = checked(self, X, reset=True, min_rows=2)
        seen = min(len(rows), self.max_rows)
        if not 1 <= self.n_clusters <= seen:
            raise UsageError(
                f"n_clusters={self.n_clusters} clusters of {seen} rows (n_samples={len(rows)}, "
                f"max_rows={self.max_rows}): it must lie in [1, {seen}]"
            )
        drawn = rows
        if seen < len(rows):
            drawn = rows[np.sort(np.random.default_rng(self.seed).choice(len(rows), seen, replace=False))]
        sample = unit(drawn) if self.normalize else drawn.astype(np.float32, order="C")
        del drawn
        # The sample is our own: k-means may centre it where it lies, and needs one more copy, for its variance.
        means = KMeans(self.n_clusters, n_init=1, random_state=self.seed, copy_x=False).fit(sample)
        self.centres_ = np.asarray(means.cluster_centers_, dtype=np.float32)
        self.detector_ = MahalanobisDetector(
            self.relative, self.ridge, self.covariance, self.shrinkage, self.normalize
        ).fit(rows, self._assigned(rows))
        return self

    def _assigned(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The nearest centre of every row: (N,)."""
        out = np.empty(len(rows), dtype=np.int64)
        for place, block in blocks(rows, normalize=self.normalize):
            out[place] = nearest(block, self.centres_, 1, "l2")[1][:, 0]
        return out

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """Negative (relative) distance to the nearest cluster: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            At most 0 unless ``relative``.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        return self.detector_.score_samples(checked(self, X))
