"""Which function stands behind each name in a table: ours, and those of three published programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy.typing as npt

from embedstore.errors import UnknownName
from embedstore.metrics import counts, precision, roc
from embedstore.metrics.bootstrap import Metric, sorted_fpr_interval
from embedstore.metrics.intervals import delong
from embedstore.metrics.ranking import Ranking, rank

LEVEL = 0.95
REPEATS = 10_000

_DEFAULT: dict[str, Metric] = {
    "auroc": roc.auroc,
    "fpr95": roc.fpr95,
    "fpr95_ood_positive": roc.fpr95_ood_positive,
    "aupr_in": precision.aupr_in,
    "aupr_out": precision.aupr_out,
    "detection_error": roc.detection_error,
}
_COMMON = {name: metric for name, metric in _DEFAULT.items() if name != "fpr95_ood_positive"}

# - official: HHU-MMBS/plp-official-tmlr2024, eval/binary_metrics.py, computes AUROC and FPR95 and nothing else.
# - mcm: deeplearning-wisc/MCM, utils/detection_util.py, computes AUROC, FPR95 and AUPR with ID positive by steps.
# - openood: Jingkang50/OpenOOD (v1.5), openood/evaluators/metrics.py, computes all but the detection error.
# What a program does not compute is our default's, so that every table has the same columns.
METRIC_SETS: Mapping[str, Mapping[str, Metric]] = MappingProxyType(
    {
        "default": MappingProxyType(_DEFAULT),
        "official": MappingProxyType(_COMMON | {"fpr95": roc.fpr95_interpolated}),
        "mcm": MappingProxyType(_COMMON | {"fpr95": roc.fpr95_nearest}),
        "openood": MappingProxyType(
            _COMMON
            | {
                "fpr95": roc.fpr95_openood,
                "aupr_in": precision.aupr_in_trapezoid,
                "aupr_out": precision.aupr_out_trapezoid,
            }
        ),
    }
)

_COUNTED: Mapping[Metric, Callable[[Ranking], float]] = {
    roc.auroc: counts.auroc,
    roc.fpr95: lambda ranking: counts.fpr_at_tpr(ranking, 0.95),
    roc.fpr95_interpolated: lambda ranking: counts.fpr_at_tpr_interpolated(ranking, 0.95),
    roc.fpr95_nearest: lambda ranking: counts.fpr_at_tpr_nearest(ranking, 0.95),
    roc.fpr95_ood_positive: lambda ranking: counts.fpr_at_tpr_ood_positive(ranking, 0.95),
    roc.fpr95_openood: lambda ranking: counts.fpr_at_tpr_openood(ranking, 0.95),
    roc.detection_error: counts.detection_error,
    precision.aupr_in: counts.aupr_in,
    precision.aupr_out: counts.aupr_out,
    precision.aupr_in_trapezoid: counts.aupr_in_trapezoid,
    precision.aupr_out_trapezoid: counts.aupr_out_trapezoid,
}


def ood_metrics(s_id: npt.ArrayLike, s_ood: npt.ArrayLike, preset: str = "default") -> dict[str, float]:
    """Every metric of a preset at once, with intervals and the counts they rest on; each side is sorted once.

    Parameters
    ----------
    s_id : (N,) real
    s_ood : (M,) real
    preset : str
        A key of ``METRIC_SETS``.

    Returns
    -------
    dict
        In [0, 1]: ``auroc`` with ``auroc_low`` and ``auroc_high`` (:func:`delong_interval`, 95 %), ``fpr95``,
        ``aupr_in``, ``aupr_out``, ``detection_error``. By default also ``fpr95_low`` and ``fpr95_high``
        (:func:`fpr_interval`, 95 %, seed 0), which belong to the default's convention of FPR95 and to no other's, and
        ``fpr95_ood_positive``. ``n_id`` and ``n_ood`` as int.

    Raises
    ------
    UnknownName
        No such preset.
    UsageError
        As :func:`embedstore.metrics.auroc`.
    """
    if preset not in METRIC_SETS:
        raise UnknownName("metric preset", preset, METRIC_SETS)
    ranking = rank(s_id, s_ood)
    found: dict[str, float] = {}
    for name, metric in METRIC_SETS[preset].items():
        found[name] = _COUNTED[metric](ranking)
        if metric is roc.auroc:
            interval = delong(ranking, LEVEL)
        elif metric is roc.fpr95:
            interval = sorted_fpr_interval(ranking, 0.95, LEVEL, REPEATS, seed=0)
        else:
            continue
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found | {"n_id": len(ranking.positive), "n_ood": len(ranking.negative)}
