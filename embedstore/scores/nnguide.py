"""Nearest-neighbour guidance: the classifier's confidence, held down far from the in-distribution features."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from embedstore.errors import UsageError
from embedstore.neighbors import nearest, unit
from embedstore.scores.features import Float64, Rows, blocks, checked
from embedstore.scores.heads import head
from embedstore.scores.logits import energy


class NNGuideDetector(BaseEstimator):  # type: ignore[misc]
    """Nearest-neighbour guidance (NNGuide; Park, Jung & Teoh, ICCV 2023, arXiv 2309.14888).

    With u(x) = x / |x| and E the energy logsumexp(W x + b) of a linear head, the score is E(x) times the mean of the k
    largest E(r) u(r)·u(x) over the in-distribution rows r: the guidance is small far from confident rows, and holds
    down the energy there. The product means what it should where energies are positive, as those of a trained
    classifier over many classes are.

    Memory: the bank of E(r) u(r) in float32, (N, D). The authors keep a random part of the training rows for large
    banks; give ``fit`` that part.

    Parameters
    ----------
    coef : (C, D) real, or None
        The head's weights, for features as ``fit`` gets them. A head that was trained on (x - mean) / scale has
        weights W / scale for x itself, and intercepts b - W (mean / scale). None: the features are logits themselves.
    intercept : (C,) real, or None
        None for zeros.
    k : int, default 10
        The default of the authors' code.
    device : "cpu" (default) or "cuda"
        Where FAISS searches.

    Attributes
    ----------
    bank_ : (N, D) float32
        The fitted features, each of length |E|.
    coef_ : (C, D) float64
    intercept_ : (C,) float64
    n_features_in_ : int
    """

    def __init__(
        self,
        coef: npt.ArrayLike | None = None,
        intercept: npt.ArrayLike | None = None,
        k: int = 10,
        device: str = "cpu",
    ) -> None:
        self.coef = coef
        self.intercept = intercept
        self.k = k
        self.device = device

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Keep the in-distribution features, weighted by their energy.

        Parameters
        ----------
        X : (N, D) real
        y : ignored

        Raises
        ------
        UsageError
            ``coef`` or ``intercept`` does not fit, or ``k`` is not in [1, N].
        ValueError
            X is not a finite matrix.
        """
        rows = checked(self, X, reset=True)
        if not 1 <= self.k <= len(rows):
            raise UsageError(f"k={self.k} nearest of a bank with n_samples={len(rows)}: k must lie in [1, n_samples]")
        self.coef_, self.intercept_ = head(self.coef, self.intercept, rows.shape[1])
        self.bank_ = unit(rows)
        self.bank_ *= self._energies(rows)[:, None].astype(np.float32)
        return self

    def score_samples(self, X: npt.ArrayLike) -> Float64:
        """Energy times guidance: higher = more in-distribution.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N,) float64
            The guidance comes of float32 products, so a row's score depends on its neighbours by rounding (1e-6).
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        rows = checked(self, X)
        # The k largest products are those of x as of u(x) = x / |x|; so the bank is read once, and x is not copied.
        found, _ = nearest(rows, self.bank_, self.k, "dot", device=self.device)
        guidance = found.mean(axis=1, dtype=np.float64)
        for place, block in blocks(rows):
            lengths = np.linalg.norm(block, axis=1)
            guidance[place] /= np.where(lengths > 0, lengths, 1)
        return np.asarray(self._energies(rows) * guidance)

    def _energies(self, rows: Rows) -> Float64:
        out = np.empty(len(rows))
        for place, block in blocks(rows):
            out[place] = energy(block @ self.coef_.T + self.intercept_)
        return out
