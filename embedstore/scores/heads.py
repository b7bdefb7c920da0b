"""The linear head whose logits some detectors read beside the features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.scores.features import Float64


def head(coef: npt.ArrayLike | None, intercept: npt.ArrayLike | None, width: int) -> tuple[Float64, Float64]:
    """Weights (C, D) and intercepts (C,) in float64: z = W x + b.

    Without ``coef`` the features are logits themselves (W is the identity); without ``intercept``, b is 0.

    Raises
    ------
    UsageError
        The weights do not fit features of this width, the intercepts do not fit the weights, or some are not finite.
    """
    weights = np.eye(width) if coef is None else np.asarray(coef, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != width or not len(weights):
        raise UsageError(f"coef must be of shape (C, {width}), as the features are (N, {width}); got {weights.shape}")
    offsets = np.zeros(len(weights)) if intercept is None else np.asarray(intercept, dtype=np.float64)
    if offsets.shape != (len(weights),):
        raise UsageError(f"intercept must be of shape ({len(weights)},), one per row of coef; got {offsets.shape}")
    if not (np.isfinite(weights).all() and np.isfinite(offsets).all()):
        raise UsageError("coef and intercept must be finite")
    return weights, offsets
