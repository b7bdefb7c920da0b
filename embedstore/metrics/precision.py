"""Areas under the precision-recall curve. Unlike AUROC they depend on how many images of each kind there are."""

from __future__ import annotations

import numpy.typing as npt

from embedstore.metrics import counts
from embedstore.metrics.ranking import rank


def aupr_in(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """Average precision with ID as the positive class.

    The step-wise sum over thresholds of (recall gained) x (precision), without interpolation, as
    ``sklearn.metrics.average_precision_score``; also what MCM's code computes.

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real

    Raises
    ------
    UsageError
        As :func:`embedstore.metrics.auroc`.
    """
    return counts.aupr_in(rank(s_id, s_ood))


def aupr_out(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """Average precision with OOD as the positive class, of the negated scores; otherwise as :func:`aupr_in`."""
    return counts.aupr_out(rank(s_id, s_ood))


def aupr_in_trapezoid(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """Area under the precision-recall curve drawn with straight lines, ID positive, as OpenOOD's code computes it.

    ``sklearn.metrics.auc`` of ``precision_recall_curve``, whose curve begins at recall 0 with precision 1. Straight
    lines between vertices are not attainable by any threshold, so where many scores tie this flatters: two ID and
    three OOD images with one score get 0.7, :func:`aupr_in` says 0.4. Parameters and errors as :func:`aupr_in`.
    """
    return counts.aupr_in_trapezoid(rank(s_id, s_ood))


def aupr_out_trapezoid(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`aupr_in_trapezoid` with OOD as the positive class, of the negated scores."""
    return counts.aupr_out_trapezoid(rank(s_id, s_ood))
