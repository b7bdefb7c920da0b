"""How well do scores tell in-distribution (ID) from out-of-distribution (OOD), and how sure are we? AUROC, FPR95, AUPR.

Everywhere in this package: a higher score means more in-distribution, ID is the positive class unless the name says
otherwise, and every metric is a Python float in [0, 1]. All detection metrics depend on the *order* of the scores
alone; they are computed from integer counts, so they, and their intervals, are bit for bit the same after any
strictly increasing map of the scores.
"""

from embedstore.metrics.attacks import Success, attack_success, threshold95
from embedstore.metrics.bootstrap import bootstrap_interval, fpr_interval, paired_bootstrap
from embedstore.metrics.classification import accuracy, aurc
from embedstore.metrics.intervals import (
    Difference,
    Interval,
    Spread,
    auroc_difference,
    delong_interval,
    spread,
)
from embedstore.metrics.precision import aupr_in, aupr_in_trapezoid, aupr_out, aupr_out_trapezoid
from embedstore.metrics.presets import METRIC_SETS, ood_metrics
from embedstore.metrics.roc import (
    auroc,
    detection_error,
    fpr95,
    fpr95_interpolated,
    fpr95_nearest,
    fpr95_ood_positive,
    fpr95_openood,
    fpr_at_tpr,
    fpr_at_tpr_interpolated,
    fpr_at_tpr_nearest,
    fpr_at_tpr_ood_positive,
    fpr_at_tpr_openood,
)

__all__ = [
    "METRIC_SETS",
    "Difference",
    "Interval",
    "Spread",
    "Success",
    "accuracy",
    "attack_success",
    "aupr_in",
    "aupr_in_trapezoid",
    "aupr_out",
    "aupr_out_trapezoid",
    "aurc",
    "auroc",
    "auroc_difference",
    "bootstrap_interval",
    "delong_interval",
    "detection_error",
    "fpr95",
    "fpr95_interpolated",
    "fpr95_nearest",
    "fpr95_ood_positive",
    "fpr95_openood",
    "fpr_at_tpr",
    "fpr_at_tpr_interpolated",
    "fpr_at_tpr_nearest",
    "fpr_at_tpr_ood_positive",
    "fpr_at_tpr_openood",
    "fpr_interval",
    "ood_metrics",
    "paired_bootstrap",
    "spread",
    "threshold95",
]
