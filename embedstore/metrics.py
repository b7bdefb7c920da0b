"""How well do scores tell in-distribution (ID) from out-of-distribution (OOD)? AUROC, FPR95, average precision.

Everywhere in this module: ID is the positive class, a higher score means more in-distribution, and every result is a
Python float in [0, 1]. All four metrics depend on the *order* of the scores alone; they are computed from integer
counts, so they are bit for bit the same after any strictly increasing map of the scores.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError

Float64 = npt.NDArray[np.float64]


def auroc(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that an ID image scores higher than an OOD one, ties counting 1/2.

    The Mann-Whitney statistic, exactly: the number of pairs won is counted in integers and divided once, so
    ``auroc(a, b)`` and ``1 - auroc(b, a)`` agree to the last rounding.

    Parameters
    ----------
    s_id : (N,) real
        Scores of in-distribution images. Infinities are allowed, NaN is not.
    s_ood : (M,) real
        Scores of out-of-distribution images.

    Raises
    ------
    UsageError
        An array is empty, not one-dimensional, not real, or holds NaN.
    """
    inside, outside = _both(s_id, s_ood)
    # Twice the pairs won, because a tie is half a win: below-or-equal plus strictly below, summed over ID scores.
    twice = int(np.searchsorted(outside, inside, side="left").sum(dtype=np.int64))
    twice += int(np.searchsorted(outside, inside, side="right").sum(dtype=np.int64))
    return twice / (2 * len(inside) * len(outside))


def fpr_at_tpr(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Fraction of OOD images accepted by the strictest threshold that accepts at least ``tpr`` of the ID images.

    An image is accepted when its score is >= t, and t is the largest threshold with a true positive rate >= ``tpr``:
    the first such vertex of the ROC curve. Other programs differ in ways that matter when numbers are compared:

    * the released code of Adaloglou et al. (arXiv 2303.05828) interpolates the ROC curve with ``numpy.interp``; where
      ``tpr`` is hit exactly (N a multiple of 20 for 0.95) that returns the *last* vertex at this TPR, the largest FPR
      there. With thousands of images the gap is about one OOD image; with a handful it can be large;
    * OpenOOD makes OOD the positive class (the threshold accepts 95 % of the *OOD* images), which is another number
      altogether, typically a point or two away;
    * MCM's code takes the threshold whose TPR is nearest to 0.95, from either side.

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real
    tpr : float
        In (0, 1]; read as the decimal it is written as, so that 0.95 of 20 is 19 exactly.

    Raises
    ------
    UsageError
        As :func:`auroc`, or ``tpr`` is outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise UsageError(f"tpr must lie in (0, 1], got {tpr!r}")
    inside, outside = _both(s_id, s_ood)
    # As a fraction, because the float 0.95 * n can land on either side of an integer.
    accepted = math.ceil(Fraction(repr(float(tpr))) * len(inside))
    threshold = inside[len(inside) - accepted]
    above = len(outside) - int(np.searchsorted(outside, threshold, side="left"))
    return above / len(outside)


def fpr95(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`fpr_at_tpr` at the usual true positive rate of 0.95."""
    return fpr_at_tpr(s_id, s_ood, 0.95)


def aupr_in(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """Average precision with ID as the positive class.

    The step-wise sum over thresholds of (recall gained) x (precision), without interpolation, as
    ``sklearn.metrics.average_precision_score``. Unlike AUROC it depends on how many images of each kind there are.

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real

    Raises
    ------
    UsageError
        As :func:`auroc`.
    """
    return _average_precision(*_both(s_id, s_ood))


def aupr_out(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """Average precision with OOD as the positive class, of the negated scores; otherwise as :func:`aupr_in`."""
    inside, outside = _both(s_id, s_ood)
    return _average_precision(-outside[::-1], -inside[::-1])


def ood_metrics(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> dict[str, float]:
    """Every metric at once, with the counts they rest on.

    Returns
    -------
    dict
        ``auroc``, ``fpr95``, ``aupr_in``, ``aupr_out`` in [0, 1]; ``n_id`` and ``n_ood`` as int.
    """
    inside, outside = _both(s_id, s_ood)
    return {
        "auroc": auroc(inside, outside),
        "fpr95": fpr95(inside, outside),
        "aupr_in": aupr_in(inside, outside),
        "aupr_out": aupr_out(inside, outside),
        "n_id": len(inside),
        "n_ood": len(outside),
    }


def accuracy(predicted: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Fraction of the images with a known label that were given it.

    Parameters
    ----------
    predicted : (N,) int
    labels : (N,) int
        -1 where unknown; those rows are left out.

    Raises
    ------
    NotAvailable
        No row has a known label.
    UsageError
        The arrays are not one-dimensional or differ in length.
    """
    guess, truth = np.asarray(predicted), np.asarray(labels)
    if guess.ndim != 1 or guess.shape != truth.shape:
        raise UsageError(f"predicted and labels must both be (N,), got shapes {guess.shape} and {truth.shape}")
    known = truth != -1
    if not known.any():
        raise NotAvailable(f"accuracy needs labels: none of the {len(truth)} rows has one (all are -1)")
    return int(np.count_nonzero(guess[known] == truth[known])) / int(np.count_nonzero(known))


def _both(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> tuple[Float64, Float64]:
    return _ascending("ID", s_id), _ascending("OOD", s_ood)


def _ascending(kind: str, scores: npt.ArrayLike) -> Float64:
    """The scores in increasing order, as (N,) float64."""
    found = np.asarray(scores)
    if found.dtype.kind not in "biuf":
        raise UsageError(f"{kind} scores must be real numbers, got dtype {found.dtype}")
    if found.ndim != 1 or not found.size:
        raise UsageError(f"{kind} scores must be a non-empty (N,) array, got shape {found.shape}")
    missing = int(np.isnan(found).sum())
    if missing:
        raise UsageError(f"{kind} scores must not be NaN, but {missing} of {len(found)} are; leave those images out")
    return np.sort(found.astype(np.float64))


def _average_precision(positive: Float64, negative: Float64) -> float:
    """Both sorted ascending. Only scores of positives are thresholds that gain recall; the others add nothing."""
    thresholds, gained = np.unique(positive, return_counts=True)
    hits = len(positive) - np.searchsorted(positive, thresholds, side="left")
    alarms = len(negative) - np.searchsorted(negative, thresholds, side="left")
    # Every term is at most its integer count, so no rounding can push the result above 1.
    return float(np.sum(gained * (hits / (hits + alarms))) / len(positive))
