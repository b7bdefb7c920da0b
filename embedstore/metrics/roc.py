"""Metrics of the ROC curve. In each: ID is the positive class unless the name says otherwise, scores (N,) and (M,)."""

from __future__ import annotations

import numpy.typing as npt

from embedstore.metrics import counts
from embedstore.metrics.ranking import rank


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
    return counts.auroc(rank(s_id, s_ood))


def fpr_at_tpr(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Fraction of OOD images accepted by the strictest threshold that accepts at least ``tpr`` of the ID images.

    An image is accepted when its score is >= t, and t is the largest threshold with a true positive rate >= ``tpr``:
    the first such vertex of the ROC curve. Other programs differ in ways that matter when numbers are compared; each
    has a function of its own: :func:`fpr_at_tpr_interpolated`, :func:`fpr_at_tpr_nearest`,
    :func:`fpr_at_tpr_ood_positive` and :func:`fpr_at_tpr_openood`.

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
    return counts.fpr_at_tpr(rank(s_id, s_ood), tpr)


def fpr_at_tpr_interpolated(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, tpr: float = 0.95) -> float:
    """FPR of the ROC curve drawn with straight lines, as ``numpy.interp(tpr, TPR, FPR)`` of scikit-learn's curve.

    What the released code of Adaloglou et al. (arXiv 2303.05828) computes. Where ``tpr`` is hit exactly (N a multiple
    of 20 for 0.95) it is the FPR of the *last* vertex at this TPR, the largest there: it counts OOD images that lie
    strictly between two neighbouring ID images. With thousands of images the gap to :func:`fpr_at_tpr` is about one
    OOD image; with a handful it can be large. Parameters and errors as :func:`fpr_at_tpr`.
    """
    return counts.fpr_at_tpr_interpolated(rank(s_id, s_ood), tpr)


def fpr_at_tpr_nearest(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, tpr: float = 0.95) -> float:
    """FPR at the vertex of the ROC curve whose TPR is nearest to ``tpr``, from either side.

    What the released code of MCM (Ming et al., arXiv 2211.13445) computes: of two equally near TPRs the larger, of
    several vertices with this TPR the last (largest FPR), but of those with TPR 1 the first. Distances are compared
    in floating point, as there. With few ID images the TPR may lie far below ``tpr``.
    Parameters and errors as :func:`fpr_at_tpr`.
    """
    return counts.fpr_at_tpr_nearest(rank(s_id, s_ood), tpr)


def fpr_at_tpr_ood_positive(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Fraction of *ID* images rejected by the threshold that rejects at least ``tpr`` of the *OOD* images.

    :func:`fpr_at_tpr` with OOD as the positive class: another number altogether, typically a point or two away. The
    convention of OpenOOD v1.5 (arXiv 2306.09301), without the defect that :func:`fpr_at_tpr_openood` reproduces.
    Parameters and errors as :func:`fpr_at_tpr`.
    """
    return counts.fpr_at_tpr_ood_positive(rank(s_id, s_ood), tpr)


def fpr_at_tpr_openood(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, tpr: float = 0.95) -> float:
    """:func:`fpr_at_tpr_ood_positive` as the code of OpenOOD v1.5 computes it, for comparisons with its tables.

    That code takes the first vertex with TPR >= ``tpr`` of a curve from which scikit-learn has already dropped the
    vertices inside straight stretches. Where ID and OOD scores tie in step after step of equal size (scores with
    few distinct values) it therefore lands at the end of the stretch: an FPR of 1 where the curve says 0.95. Without
    ties between ID and OOD both functions agree. Parameters and errors as :func:`fpr_at_tpr`.
    """
    return counts.fpr_at_tpr_openood(rank(s_id, s_ood), tpr)


def fpr95(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`fpr_at_tpr` at the usual true positive rate of 0.95."""
    return fpr_at_tpr(s_id, s_ood, 0.95)


def fpr95_interpolated(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`fpr_at_tpr_interpolated` at 0.95."""
    return fpr_at_tpr_interpolated(s_id, s_ood, 0.95)


def fpr95_nearest(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`fpr_at_tpr_nearest` at 0.95."""
    return fpr_at_tpr_nearest(s_id, s_ood, 0.95)


def fpr95_ood_positive(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`fpr_at_tpr_ood_positive` at 0.95."""
    return fpr_at_tpr_ood_positive(s_id, s_ood, 0.95)


def fpr95_openood(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """:func:`fpr_at_tpr_openood` at 0.95."""
    return fpr_at_tpr_openood(s_id, s_ood, 0.95)


def detection_error(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> float:
    """The smallest mean of both error rates over all thresholds: min_t (FNR(t) + FPR(t)) / 2, in [0, 1/2].

    Both kinds weigh the same however many images there are (Lee et al., arXiv 1807.03888, whose detection accuracy is
    one minus this). Chosen on the very scores it judges, so a little optimistic for small sets.

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real

    Raises
    ------
    UsageError
        As :func:`auroc`.
    """
    return counts.detection_error(rank(s_id, s_ood))
