"""Stratified bootstrap: images are drawn with replacement, ID among ID and OOD among OOD."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.metrics import counts
from embedstore.metrics.intervals import Difference, Interval, check_level, paired
from embedstore.metrics.ranking import Float64, Ranking, checked, rank

Metric = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def bootstrap_interval(
    metric: Metric,
    s_id: npt.ArrayLike,
    s_ood: npt.ArrayLike,
    level: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile interval (Efron & Tibshirani 1993, chapter 13) of any metric of ID and OOD scores.

    Computes the metric ``repeats`` times on N and M images drawn with replacement. It knows only what the sample holds:
    where every draw gives the same value (perfect separation) the interval is that point. :func:`delong_interval` for
    AUROC and :func:`fpr_interval` for FPR at a TPR are quicker and do better there.

    Parameters
    ----------
    metric : callable
        ``metric(s_id, s_ood)`` gives a float.
    s_id : (N,) real
    s_ood : (M,) real
    level : float
        In (0, 1).
    repeats : int
        At least 1.
    seed : int

    Raises
    ------
    UsageError
        As :func:`embedstore.metrics.auroc`; ``level`` or ``repeats`` is out of range; the metric gave NaN or infinity.
    """
    inside, outside = checked("ID scores", s_id), checked("OOD scores", s_ood)
    _check(level, repeats)
    rng = np.random.default_rng(seed)
    found = [metric(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(repeats)]
    return _percentiles(np.asarray(found, dtype=np.float64), level)


def paired_bootstrap(
    metric: Metric,
    a_id: npt.ArrayLike,
    a_ood: npt.ArrayLike,
    b_id: npt.ArrayLike,
    b_ood: npt.ArrayLike,
    level: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> Difference:
    """Any metric of method a minus that of method b on the same images, each draw taken by both.

    The two-sided p-value is twice the share of draws on the far side of zero, (1 + #{d <= 0}) / (1 + repeats) or with
    >=, whichever is smaller; never 0, so more repeats resolve smaller ones. Identical scores: difference 0, p = 1.

    Parameters
    ----------
    metric : callable
        ``metric(s_id, s_ood)`` gives a float.
    a_id, b_id : (N,) real
        Scores of the same ID images, in the same order.
    a_ood, b_ood : (M,) real
        Of the same OOD images.
    level, repeats, seed
        As :func:`bootstrap_interval`.

    Raises
    ------
    UsageError
        As :func:`bootstrap_interval`, or the methods were scored on different numbers of images.
    """
    (a_in, a_out), (b_in, b_out) = paired(a_id, a_ood, b_id, b_ood)
    _check(level, repeats)
    rng = np.random.default_rng(seed)
    found = np.empty(repeats)
    for repeat in range(repeats):
        i, o = rng.integers(len(a_in), size=len(a_in)), rng.integers(len(a_out), size=len(a_out))
        found[repeat] = metric(a_in[i], a_out[o]) - metric(b_in[i], b_out[o])
    interval = _percentiles(found, level)
    far = 1 + min(int((found <= 0).sum()), int((found >= 0).sum()))
    return Difference(metric(a_in, a_out) - metric(b_in, b_out), interval, min(1.0, 2 * far / (1 + repeats)))


def fpr_interval(
    s_id: npt.ArrayLike,
    s_ood: npt.ArrayLike,
    tpr: float = 0.95,
    level: float = 0.95,
    repeats: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of :func:`embedstore.metrics.fpr_at_tpr` by the bootstrap, at O(1) a repeat.

    It holds the FPR. The draws have exactly the distribution of the bootstrap's, without drawing images: see
    :func:`resampled_fpr`.
    Where no OOD image is accepted, or every one, each draw says the same; the interval is then widened to the exact
    binomial bound of Clopper and Pearson at the threshold found, [0, 1 - q] or [q, 1] with
    q = ((1 - level) / 2)^(1 / M). With one ID image the threshold's spread is unknown: [0, 1].

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real
    tpr : float
        In (0, 1].
    level, repeats, seed
        As :func:`bootstrap_interval`.

    Raises
    ------
    UsageError
        As :func:`embedstore.metrics.fpr_at_tpr`, or ``level`` or ``repeats`` is out of range.
    """
    return sorted_fpr_interval(rank(s_id, s_ood), tpr, level, repeats, seed)


def sorted_fpr_interval(ranking: Ranking, tpr: float, level: float, repeats: int, seed: int) -> Interval:
    """:func:`fpr_interval` of scores that are sorted already."""
    _check(level, repeats)
    found = counts.fpr_at_tpr(ranking, tpr)
    if len(ranking.positive) == 1:
        return Interval(0.0, 1.0, level)
    draws = _percentiles(resampled_fpr(ranking, tpr, repeats, np.random.default_rng(seed)), level)
    q = ((1 - level) / 2) ** (1 / len(ranking.negative))
    low = q if found == 1 else found
    high = 1 - q if found == 0 else found
    return Interval(min(draws.low, low), max(draws.high, high), level)


def resampled_fpr(ranking: Ranking, tpr: float, repeats: int, rng: np.random.Generator) -> Float64:
    """(repeats,) FPR at a TPR of as many stratified bootstrap samples, drawn from its distribution directly.

    The threshold is the k-th smallest of the ID sample. Drawing N indices is drawing N uniform numbers u and taking
    floor(N u); the k-th smallest of those is Beta(k, N + 1 - k), and floor keeps the order. Given the threshold, each
    of the M drawn OOD images is accepted with the share p of OOD images at or above it: Binomial(M, p) of them are.
    """
    n_id, n_ood = len(ranking.positive), len(ranking.negative)
    k = 1 + counts.threshold_index(tpr, n_id)
    index = (n_id * rng.beta(k, n_id + 1 - k, size=repeats)).astype(np.int64)
    share = ranking.alarms[np.minimum(index, n_id - 1)] / n_ood
    return rng.binomial(n_ood, share) / n_ood


def _percentiles(draws: Float64, level: float) -> Interval:
    if not np.isfinite(draws).all():
        raise UsageError(f"the metric gave {draws[~np.isfinite(draws)][0]} on a resampled set; it must be finite")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def _check(level: float, repeats: int) -> None:
    check_level(level)
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, got {repeats!r}")
