"""What every linear probe shares: its checks of the input, its standardisation, its logits.

Features may be mapped from disk: whatever is done with them is done in blocks of rows, so memory holds no copy of them.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.errors import UsageError

if TYPE_CHECKING:
    import torch

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Features = npt.NDArray[np.floating[Any]]
Moments = tuple[Float64, Float64]

_BLOCK = 4096  # rows handled at once in float64; with 1,280 features 42 MB
_FLOATS = (np.float32, np.float64, np.float16)  # what training takes as it is; anything else becomes the first


class Probe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One linear layer with bias on standardised features, however it was trained.

    Two deviations from scikit-learn's classifiers, both because OOD scores need every logit:
    ``decision_function`` has a column for each class even when there are two, and with ``n_classes`` there are columns
    for classes without a training row.
    """

    n_classes: int | None
    standardize: bool
    classes_: npt.NDArray[np.generic]
    coef_: Features
    intercept_: Features
    mean_: Float64
    scale_: Float64

    def decision_function(self, X: npt.ArrayLike) -> Float64:
        """The logits, one column for each class even when there are two.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N, C) float64
            Beside it, memory holds one block of 4,096 rows.
        """
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        rows = validate_data(self, X, dtype="numeric", reset=False, ensure_all_finite=False)
        self._check_finite(rows)
        logits = np.empty((len(rows), len(self.classes_)))
        weights = self.coef_.T.astype(np.float64)  # (D, C)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            logits[block] = (rows[block].astype(np.float64) - self.mean_) / self.scale_ @ weights + self.intercept_
        return logits

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The class with the largest logit, (N,); the first of several equal ones."""
        winners = self.decision_function(X).argmax(axis=1)
        labels: npt.NDArray[np.generic] = self.classes_[winners]
        return labels

    def predict_proba(self, X: npt.ArrayLike) -> Float64:
        """Softmax of the logits: (N, C) float64, rows sum to 1."""
        z = self.decision_function(X)
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    def _training_rows(
        self, X: npt.ArrayLike, y: npt.ArrayLike, of_more_rows: Moments | None = None
    ) -> tuple[Features, Int64]:
        """Checked features, in their own memory where that is possible, and classes; learns all but the weights."""
        from sklearn.utils.validation import validate_data

        rows, labels = validate_data(self, X, y, dtype=list(_FLOATS), ensure_all_finite=False)
        self._check_finite(rows)
        codes = self._codes(labels)
        self._learn_scale(rows, of_more_rows)
        return rows, codes

    def _training_features(self, X: npt.ArrayLike) -> Features:
        """Checked features alone."""
        from sklearn.utils.validation import validate_data

        rows: Features = validate_data(self, X, dtype=list(_FLOATS), ensure_all_finite=False)
        self._check_finite(rows)
        return rows

    def _learn_scale(self, rows: Features, of_more_rows: Moments | None) -> None:
        width = rows.shape[1]
        if not self.standardize:
            self.mean_, self.scale_ = np.zeros(width), np.ones(width)
        else:
            self.mean_, self.scale_ = moments(rows) if of_more_rows is None else _checked(of_more_rows, width)

    def _check_finite(self, rows: npt.NDArray[Any]) -> None:
        """In blocks, because scikit-learn's own check of a float16 array allocates half as much again."""
        from sklearn.utils.validation import assert_all_finite

        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            if not np.isfinite(block).all():
                assert_all_finite(block, estimator_name=type(self).__name__, input_name="X")

    def _codes(self, labels: npt.NDArray[Any]) -> Int64:
        """Set ``classes_`` and return each row's class as an index into them."""
        from sklearn.utils.multiclass import check_classification_targets

        check_classification_targets(labels)
        if self.n_classes is None:
            self.classes_, codes = np.unique(labels, return_inverse=True)
            return codes.astype(np.int64)
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= self.n_classes:
            raise UsageError(
                f"with n_classes={self.n_classes} labels must be integers in [0, {self.n_classes}), "
                f"got {labels.dtype} from {labels.min()} to {labels.max()}"
            )
        self.classes_ = np.arange(self.n_classes)
        return labels.astype(np.int64)


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array as a tensor on the CPU, sharing its memory where torch can (contiguous, native byte order)."""
    import torch

    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # Features mapped from disk are read-only; torch warns that it could write to them, which training does not.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(native)


def moments(X: npt.ArrayLike) -> Moments:
    """Mean and unbiased standard deviation of every feature, (D,) float64 each; the deviation is 1 where it would be 0.

    In blocks of rows, so that features mapped from disk are not copied.

    Parameters
    ----------
    X : (N, D) real

    Raises
    ------
    UsageError
        X is not a matrix of real numbers with a row.
    """
    rows = np.asarray(X)
    if rows.ndim != 2 or not len(rows) or rows.dtype.kind not in "biuf":
        raise UsageError(
            f"moments are those of (N, D) real numbers, N >= 1; got shape {rows.shape}, dtype {rows.dtype}"
        )
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):
        total += rows[start : start + _BLOCK].sum(axis=0, dtype=np.float64)
    mean = total / len(rows)
    squares = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):  # a second pass, because sums of raw squares cancel
        squares += np.square(rows[start : start + _BLOCK].astype(np.float64) - mean).sum(axis=0)
    scale = np.sqrt(squares / max(len(rows) - 1, 1))
    # The computed mean of a constant feature is off by rounding, so its deviation is tiny rather than 0.
    constant = scale <= 1e-12 * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)


def _checked(given: Moments, width: int) -> Moments:
    """Mean and scale that somebody else computed, if one can standardise ``width`` features by them."""
    mean, scale = (np.asarray(m, dtype=np.float64) for m in given)
    if mean.shape != (width,) or scale.shape != (width,):
        raise UsageError(
            f"moments of features (N, {width}) are a mean and a scale of shape ({width},), "
            f"got {mean.shape} and {scale.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise UsageError("moments must be finite, and every scale positive; embedstore.probes.moments gives such")
    return mean, scale
