"""Scores of a classifier's logits: functions of (N, C) that return (N,) float64, higher = more in-distribution.

Every row is scored by itself, whatever its neighbours. A row with NaN scores NaN, so an image without features stays
visibly without a score. Peak memory: one float64 copy of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError

Float64 = npt.NDArray[np.float64]


def msp(logits: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """Maximum softmax probability (Hendrycks & Gimpel, arXiv 1610.02136): max_c softmax(z / T)_c.

    Of zero-shot cosines with temperature 1 this is maximum concept matching (Ming et al., arXiv 2211.13445).

    Parameters
    ----------
    logits : (N, C) real
    temperature : float
        T > 0.

    Returns
    -------
    (N,) float64
        In [1 / C, 1]. Adding a constant to a row's logits does not change its score.

    Raises
    ------
    UsageError
        Not an (N, C) array of real numbers with C >= 1, or T is not positive.
    """
    _, total = _exponentials(logits, temperature)
    return 1.0 / total  # the largest exponential is exp(0)


def energy(logits: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """Negative free energy (Liu et al., arXiv 2010.03759): T logsumexp(z / T).

    The sign is such that higher = more in-distribution. As T falls to 0 it becomes :func:`max_logit`.

    Parameters
    ----------
    logits : (N, C) real
    temperature : float
        T > 0.

    Returns
    -------
    (N,) float64

    Raises
    ------
    UsageError
        As :func:`msp`.
    """
    largest, total = _exponentials(logits, temperature)
    return temperature * (largest + np.log(total))


def max_logit(logits: npt.ArrayLike) -> Float64:
    """The largest logit (Hendrycks et al., arXiv 1911.11132).

    Parameters
    ----------
    logits : (N, C) real

    Returns
    -------
    (N,) float64

    Raises
    ------
    UsageError
        Not an (N, C) array of real numbers with C >= 1.
    """
    return np.asarray(_matrix(logits).max(axis=1), dtype=np.float64)


LOGIT_SCORES: Mapping[str, Callable[..., Float64]] = {"msp": msp, "energy": energy, "max-logit": max_logit}


def _matrix(logits: npt.ArrayLike) -> npt.NDArray[np.generic]:
    z = np.asarray(logits)
    if z.ndim != 2 or z.shape[1] == 0 or z.dtype.kind not in "biuf":
        raise UsageError(
            f"logits must be an (N, C) array of real numbers, C >= 1, got shape {z.shape}, dtype {z.dtype}"
        )
    return z


def _exponentials(logits: npt.ArrayLike, temperature: float) -> tuple[Float64, Float64]:
    """Largest scaled logit m = max(z / T) and the sum of exp(z / T - m), per row; no exponential exceeds 1."""
    if not temperature > 0:
        raise UsageError(f"temperature must be positive, got {temperature!r}")
    z = _matrix(logits).astype(np.float64)
    z /= temperature
    largest: Float64 = z.max(axis=1)
    z -= largest[:, None]
    return largest, np.exp(z, out=z).sum(axis=1)
