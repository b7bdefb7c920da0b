"""Scores of a classifier's logits: functions of (N, C) that return (N,) float64, higher = more in-distribution.

Every row is scored by itself, whatever its neighbours. A row with NaN scores NaN, so an image without features stays
visibly without a score. A logit of minus infinity is a class of probability 0. Peak memory: one float64 copy of the
logits; two for the entropies.
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
        Not an (N, C) array of real numbers with C >= 1, or T is not positive and finite.
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


def entropy(logits: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """Negative Shannon entropy of the softmax, in nats: -H(p) = sum_c p_c log p_c with p = softmax(z / T).

    The sign is such that higher = more in-distribution.

    Parameters
    ----------
    logits : (N, C) real
    temperature : float
        T > 0.

    Returns
    -------
    (N,) float64
        In [-log C, 0]. Exact to a few digits even where the softmax is so sharp that its maximum rounds to 1.

    Raises
    ------
    UsageError
        As :func:`msp`.
    """
    below, rest, others = _softmax(logits, temperature)
    # log p_c = s_c - log(1 + rest), with s_c the logit below the largest; log1p keeps what 1 + rest would round away.
    np.maximum(below, np.finfo(np.float64).min, out=below)  # 0 log 0 is 0, and 0 times infinity would not be
    below *= rest
    return np.asarray(below.sum(axis=1) / (1 + others) - np.log1p(others), dtype=np.float64)


def perplexity(logits: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """Negative perplexity: -exp(H(softmax(z / T))), as the released code of Adaloglou et al. (arXiv 2303.05828) has it.

    A strictly increasing function of :func:`entropy`, so the two rank rows alike (up to rounding near -1, where this
    one runs out of digits).

    Parameters
    ----------
    logits : (N, C) real
    temperature : float
        T > 0.

    Returns
    -------
    (N,) float64
        In [-C, -1].

    Raises
    ------
    UsageError
        As :func:`msp`.
    """
    return -np.exp(-entropy(logits, temperature))


def l1_norm(logits: npt.ArrayLike) -> Float64:
    """The sum of the logits above the smallest: sum_c (z_c - min z).

    As the released code of Adaloglou et al. (arXiv 2303.05828) has it. No temperature: theirs is passed in place of
    another argument and has no effect, though results are filed under it.

    Parameters
    ----------
    logits : (N, C) real

    Returns
    -------
    (N,) float64
        At least 0.

    Raises
    ------
    UsageError
        As :func:`max_logit`.
    """
    z = _over(logits, 1.0)
    z -= z.min(axis=1, keepdims=True)
    return np.asarray(z.sum(axis=1), dtype=np.float64)


def gen(logits: npt.ArrayLike, gamma: float = 0.1, m: int = 100) -> Float64:
    """Negative generalised entropy (GEN; Liu, Lochman & Zach, CVPR 2023): -sum p^gamma (1 - p)^gamma.

    The sum runs over the ``m`` largest softmax probabilities (all of them where C <= m). gamma = 0.1 and M = 100 are
    the defaults of OpenOOD's post-processor.

    Parameters
    ----------
    logits : (N, C) real
    gamma : float
        In (0, 1).
    m : int
        At least 1.

    Returns
    -------
    (N,) float64
        At most 0. The power gamma magnifies what is tiny, so 1 - p of the largest probability is summed from the
        others: 1 - p itself is rounding error, or 0, where p is close to 1.

    Raises
    ------
    UsageError
        Not an (N, C) array of real numbers with C >= 1, or ``gamma`` or ``m`` is out of range.
    """
    if not 0 < gamma < 1 or m < 1:
        raise UsageError(f"gen needs gamma in (0, 1) and m of at least 1, got gamma={gamma}, m={m}")
    rest, others = _softmax(logits, 1.0)[1:]
    rest /= (1 + others)[:, None]
    if m <= rest.shape[1]:
        # The largest stands aside as a zero here, so m - 1 of the others are wanted; sorted, to sum in a fixed order.
        rest.sort(axis=1)
        rest = rest[:, rest.shape[1] - (m - 1) :]
    terms = 1 - rest
    terms *= rest
    terms **= gamma
    first = (1 / (1 + others) * (others / (1 + others))) ** gamma
    return -np.asarray(first + terms.sum(axis=1), dtype=np.float64)


LOGIT_SCORES: Mapping[str, Callable[..., Float64]] = {
    "msp": msp,
    "energy": energy,
    "max-logit": max_logit,
    "entropy": entropy,
    "perplexity": perplexity,
    "l1": l1_norm,
    "gen": gen,
}


def _matrix(logits: npt.ArrayLike) -> npt.NDArray[np.generic]:
    z = np.asarray(logits)
    if z.ndim != 2 or z.shape[1] == 0 or z.dtype.kind not in "biuf":
        raise UsageError(
            f"logits must be an (N, C) array of real numbers, C >= 1, got shape {z.shape}, dtype {z.dtype}"
        )
    return z


def _over(logits: npt.ArrayLike, temperature: float) -> Float64:
    """A float64 copy of z / T, its rows one after the other in memory: strides change the order of a sum."""
    if not 0 < temperature < np.inf:
        raise UsageError(f"temperature must be positive and finite, got {temperature!r}")
    z = _matrix(logits).astype(np.float64, order="C")
    z /= temperature
    return z


def _exponentials(logits: npt.ArrayLike, temperature: float) -> tuple[Float64, Float64]:
    """Largest scaled logit m = max(z / T) and the sum of exp(z / T - m), per row; no exponential exceeds 1."""
    z = _over(logits, temperature)
    largest: Float64 = z.max(axis=1)
    z -= largest[:, None]
    return largest, np.exp(z, out=z).sum(axis=1)


def _softmax(logits: npt.ArrayLike, temperature: float) -> tuple[Float64, Float64, Float64]:
    """The softmax apart from its largest term, whose share of the sum would swallow the digits of the others.

    Returns
    -------
    below : (N, C)
        z / T less the row's largest.
    rest : (N, C)
        exp(below), with 0 in the place of one largest, whose value is 1.
    others : (N,)
        Sum of ``rest``: the probabilities are ``rest / (1 + others)``, and ``1 / (1 + others)`` for the largest.
    """
    below = _over(logits, temperature)
    top = below.argmax(axis=1)
    rows = np.arange(len(below))
    below -= below[rows, top][:, None]
    rest = np.exp(below)
    rest[rows, top] *= 0  # a row of NaN keeps its NaN
    return below, rest, rest.sum(axis=1)
