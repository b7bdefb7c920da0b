"""How sure are the numbers? DeLong's interval and paired test for AUROC, and the spread over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.metrics import counts
from embedstore.metrics.ranking import Float64, Int64, Ranking, checked, rank


@dataclass(frozen=True)
class Interval:
    """A confidence interval [low, high] of confidence ``level`` in (0, 1)."""

    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """First minus second of two methods on the same images, its interval, and the two-sided p-value of no difference.

    The p-value is in [0, 1].
    """

    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divisor n - 1) of n values; ``std`` is None where n is 1."""

    mean: float
    std: float | None
    n: int


def spread(values: npt.ArrayLike) -> Spread:
    """The spread of one number over seeds, in exact arithmetic: equal values have a deviation of exactly 0.

    Parameters
    ----------
    values : (n,) real

    Raises
    ------
    UsageError
        The array is empty, not one-dimensional, not real, or holds NaN or infinity.
    """
    found = checked("values", values)
    if not np.isfinite(found).all():
        raise UsageError(
            f"values must be finite to have a spread; {int(np.isinf(found).sum())} of {len(found)} are not"
        )
    numbers = found.tolist()
    return Spread(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def delong_interval(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Confidence interval of AUROC by DeLong's variance (Biometrics 44, 1988), in O((N + M) log(N + M)).

    With V_i the fraction of OOD images that ID image i beats, W_j the fraction of ID images that beat OOD image j,
    and S² sample variances, the variance of AUROC is S²(V) / N + S²(W) / M; the ranks of the sorted scores give both
    (Sun & Xu, IEEE SPL 21, 2014). The interval is symmetric on the logit scale, so it stays inside [0, 1], and
    it holds the AUROC.

    Where that variance says nothing:

    * one image on a side has no sample variance: [0, 1];
    * it is 0 where AUROC is 0 or 1, or where all scores are equal. Then n = min(N, M) disjoint pairs of images are n
      independent draws that all gave the same result c (0, 1/2 or 1), and the exact bound is [c q, 1 - (1 - c) q] with
      q = ((1 - level) / 2)^(1 / n): for a perfect separation that of Clopper and Pearson. Conservative.

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real
    level : float
        In (0, 1).

    Raises
    ------
    UsageError
        As :func:`embedstore.metrics.auroc`, or ``level`` is outside (0, 1).
    """
    return delong(rank(s_id, s_ood), level)


def delong(ranking: Ranking, level: float) -> Interval:
    """:func:`delong_interval` of scores that are sorted already."""
    check_level(level)
    positives, negatives = len(ranking.positive), len(ranking.negative)
    if min(positives, negatives) == 1:
        return Interval(0.0, 1.0, level)
    area, pairs = counts.auroc(ranking), 2 * positives * negatives
    error = _standard_error(ranking.won / (2 * negatives), ranking.flipped.won / (2 * positives))
    if not error:
        return _all_alike(area, 0.0, min(positives, negatives), level)
    won = int(ranking.won.sum())
    centre = math.log(won / (pairs - won))
    # The derivative of the logit is 1 / (A (1 - A)); 1 - A from the counts, because AUROC may be within rounding of 1.
    reach = _normal(level) * error / (area * ((pairs - won) / pairs))
    return Interval(min(_expit(centre - reach), area), max(_expit(centre + reach), area), level)


def auroc_difference(
    a_id: npt.ArrayLike, a_ood: npt.ArrayLike, b_id: npt.ArrayLike, b_ood: npt.ArrayLike, level: float = 0.95
) -> Difference:
    """AUROC of method a minus that of method b on the same images, by the paired test of DeLong et al. (1988).

    The variance of the difference from the per-image differences of V and W (see :func:`delong_interval`), which is
    the contrast of DeLong's covariance matrix; interval and two-sided p-value by the normal distribution, cut
    at [-1, 1]. Where the variance says nothing: with one image on a side the interval is [-1, 1] and p = 1; with
    variance 0 and a difference c, n = min(N, M), and q as there, the interval is [(1 + c) q - 1, 1 - (1 - c) q], and
    p = min(1, 2 / (1 + |c|)^n). Both are exact bounds where every pair of images gave the difference c, as where both
    AUROCs are 0 or 1 or all scores of a method equal. But unlike one method's, the differences of pairs may vary while
    those of images, their means, do not; then interval and p are a convention. Identical scores: difference 0, p = 1.

    Parameters
    ----------
    a_id, b_id : (N,) real
        Scores of the same ID images, in the same order.
    a_ood, b_ood : (M,) real
        Of the same OOD images.
    level : float
        In (0, 1).

    Raises
    ------
    UsageError
        As :func:`delong_interval`, or the methods were scored on different numbers of images.
    """
    check_level(level)
    (a_in, a_out), (b_in, b_out) = paired(a_id, a_ood, b_id, b_ood)
    n_id, n_ood = len(a_in), len(a_out)
    inside, outside = _won(a_in, a_out) - _won(b_in, b_out), _won(-a_out, -a_in) - _won(-b_out, -b_in)
    difference = int(inside.sum()) / (2 * n_id * n_ood)
    if min(n_id, n_ood) == 1:
        return Difference(difference, Interval(-1.0, 1.0, level), 1.0)
    error = _standard_error(inside / (2 * n_ood), outside / (2 * n_id))
    if not error:
        n = min(n_id, n_ood)
        p_value = min(1.0, 2 / (1 + abs(difference)) ** n)
        return Difference(difference, _all_alike(difference, -1.0, n, level), p_value)
    reach = _normal(level) * error
    interval = Interval(max(difference - reach, -1.0), min(difference + reach, 1.0), level)
    return Difference(difference, interval, math.erfc(abs(difference) / error / math.sqrt(2)))


def paired(
    a_id: npt.ArrayLike, a_ood: npt.ArrayLike, b_id: npt.ArrayLike, b_ood: npt.ArrayLike
) -> tuple[tuple[Float64, Float64], tuple[Float64, Float64]]:
    """Both methods' scores, in their order, once it is certain that they can belong to the same images.

    Raises
    ------
    UsageError
        As :func:`checked`, or the lengths differ.
    """
    a = checked("a's ID scores", a_id), checked("a's OOD scores", a_ood)
    b = checked("b's ID scores", b_id), checked("b's OOD scores", b_ood)
    for kind, left, right in zip(("ID", "OOD"), a, b, strict=True):
        if len(left) != len(right):
            raise UsageError(
                f"a paired comparison needs both methods' scores of the same images: "
                f"a has {len(left)} {kind} scores and b has {len(right)}"
            )
    return a, b


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1)."""
    if not 0 < level < 1:
        raise UsageError(f"level must lie in (0, 1), got {level!r}; 0.95 is a 95 % interval")


def _won(positive: Float64, negative: Float64) -> Int64:
    """(P,) As :attr:`Ranking.won`, for positives in any order."""
    ascending = np.sort(negative)
    below = np.searchsorted(ascending, positive, side="left")
    return below + np.searchsorted(ascending, positive, side="right")


def _standard_error(inside: Float64, outside: Float64) -> float:
    """Of a mean over all pairs, from its mean per ID image and per OOD image."""
    if (inside == inside[0]).all() and (outside == outside[0]).all():
        return 0.0  # by name, because the variance of equal numbers may round to something above
    return math.sqrt(np.var(inside, ddof=1) / len(inside) + np.var(outside, ddof=1) / len(outside))


def _all_alike(c: float, lowest: float, n: int, level: float) -> Interval:
    """The exact interval of a mean, given that n independent draws from [lowest, 1] were all c.

    Of the distributions with a mean m < c, the one that gives c most often puts the rest at ``lowest``: with
    probability (m - lowest) / (c - lowest). Its n-th power is (1 - level) / 2 at the lower end; the upper likewise.
    """
    q = ((1 - level) / 2) ** (1 / n)
    return Interval(lowest + (c - lowest) * q, 1 - (1 - c) * q, level)


def _normal(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _expit(x: float) -> float:
    """1 / (1 + exp(-x)), where exp cannot overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
