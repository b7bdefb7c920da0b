"""Every detection metric as a function of a :class:`Ranking`; their meaning is told where they are public.

Apart, so that :func:`embedstore.metrics.ood_metrics` sorts once for all of them.
"""

from __future__ import annotations

import math

import numpy as np

from embedstore.metrics.ranking import Float64, Ranking, exact_rate


def auroc(ranking: Ranking) -> float:
    """Pairs won, counted in integers and divided once."""
    return int(ranking.won.sum()) / (2 * len(ranking.positive) * len(ranking.negative))


def threshold_index(tpr: float, positives: int) -> int:
    """Which of the ascending positives is the largest threshold that accepts at least ``tpr`` of them."""
    return positives - math.ceil(exact_rate(tpr) * positives)


def fpr_at_tpr(ranking: Ranking, tpr: float) -> float:
    """At the first vertex with TPR >= tpr."""
    return int(ranking.alarms[threshold_index(tpr, len(ranking.positive))]) / len(ranking.negative)


def fpr_at_tpr_ood_positive(ranking: Ranking, tpr: float) -> float:
    """The first vertex again, with the kinds exchanged."""
    return fpr_at_tpr(ranking.flipped, tpr)


def fpr_at_tpr_interpolated(ranking: Ranking, tpr: float) -> float:
    """On the straight line from the last vertex with TPR <= tpr to the next one; in fractions, rounded once."""
    wanted = exact_rate(tpr) * len(ranking.positive)
    hits = math.floor(wanted)
    if hits == len(ranking.positive):
        return 1.0
    # The positive that would carry the TPR past tpr; what lies above its score is the last vertex before.
    begin, end = ranking.group(len(ranking.positive) - 1 - hits)
    before, after = int(ranking.alarms_above[begin]), int(ranking.alarms[begin])
    share = (wanted - (len(ranking.positive) - end)) / (end - begin)
    return float((before + share * (after - before)) / len(ranking.negative))


def fpr_at_tpr_nearest(ranking: Ranking, tpr: float) -> float:
    """At the vertex whose TPR is nearest, the larger TPR where two are, and the last vertex of a plateau below 1."""
    positives = len(ranking.positive)
    begin, end = ranking.group(threshold_index(tpr, positives))
    lower, upper = positives - end, positives - begin
    # In floating point, as the released code: with ten positives 0.9 is nearer to 0.95 than 1 is.
    nearer_below = abs(lower / positives - tpr) < abs(upper / positives - tpr)
    # A TPR of 0 is a vertex only where some negative scores above every positive.
    if nearer_below and (lower or ranking.alarms_above[begin]):
        alarms = ranking.alarms_above[begin]
    elif begin:
        alarms = ranking.alarms_above[begin - 1]
    else:
        alarms = ranking.alarms[0]
    return int(alarms) / len(ranking.negative)


def fpr_at_tpr_openood(ranking: Ranking, tpr: float) -> float:
    """OOD positive, at the first vertex with TPR >= tpr that scikit-learn's ``roc_curve`` does not drop.

    It drops a vertex whose step from the last one equals the step to the next one, in both counts. Only steps that
    gain both kinds at once (ties between them) change the FPR, so only those are followed.
    """
    ranking = ranking.flipped
    begin, end = ranking.group(threshold_index(tpr, len(ranking.positive)))
    size, mixed = end - begin, int(ranking.alarms[begin] - ranking.alarms_above[begin])
    is_first_vertex = end == len(ranking.positive) and not ranking.alarms_above[begin]
    while mixed and not is_first_vertex and begin:
        low, high = ranking.group(begin - 1)
        same_step = high - low == size and ranking.alarms[low] - ranking.alarms_above[low] == mixed
        if not same_step or ranking.alarms_above[low] != ranking.alarms[begin]:
            break
        begin = low
    return int(ranking.alarms[begin]) / len(ranking.negative)


def detection_error(ranking: Ranking) -> float:
    """In integers, at positives: between two the upper is no worse; above all it is >= 1/2, at the lowest <= 1/2."""
    positives, negatives = len(ranking.positive), len(ranking.negative)
    wrong = ranking.starts * negatives + ranking.alarms[ranking.starts] * positives
    return int(wrong.min()) / (2 * positives * negatives)


def aupr_in(ranking: Ranking) -> float:
    """Steps. Only scores of positives are thresholds that gain recall; the others add nothing."""
    # Every term is at most its integer count, so no rounding can push the result above 1.
    return float(np.sum(ranking.gained * _precision(ranking)) / len(ranking.positive))


def aupr_out(ranking: Ranking) -> float:
    """Steps, with the kinds exchanged."""
    return aupr_in(ranking.flipped)


def aupr_in_trapezoid(ranking: Ranking) -> float:
    """Straight lines from each vertex of the precision-recall curve to the next, beginning at recall 0, precision 1."""
    alarms = ranking.alarms_above[ranking.starts]
    hits = len(ranking.positive) - ranking.starts - ranking.gained
    before = np.where(hits + alarms > 0, hits / np.maximum(hits + alarms, 1), 1.0)
    return float(np.sum(ranking.gained * ((before + _precision(ranking)) / 2)) / len(ranking.positive))


def aupr_out_trapezoid(ranking: Ranking) -> float:
    """Straight lines, with the kinds exchanged."""
    return aupr_in_trapezoid(ranking.flipped)


def _precision(ranking: Ranking) -> Float64:
    """(G,) At the threshold of each group of equal positives."""
    hits = len(ranking.positive) - ranking.starts
    precision: Float64 = hits / (hits + ranking.alarms[ranking.starts])
    return precision
