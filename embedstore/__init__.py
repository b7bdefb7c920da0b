"""embedstore: embed images once, then classify and detect out-of-distribution images from the cached features.

Every public name is listed here once and loaded when it is first used, so that ``import embedstore`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.attack import Attacked as Attacked
    from embedstore.attack import read_attack as read_attack
    from embedstore.benchmarks import load_benchmark as load_benchmark
    from embedstore.correlation import Correlation as Correlation
    from embedstore.correlation import Line as Line
    from embedstore.correlation import by_group as by_group
    from embedstore.correlation import correlate as correlate
    from embedstore.correlation import fit_line as fit_line
    from embedstore.correlation import r_squared as r_squared
    from embedstore.encoders import load_encoder as load_encoder
    from embedstore.errors import EmbedstoreError as EmbedstoreError
    from embedstore.evaluate import Study as Study
    from embedstore.evaluate import run_methods as run_methods
    from embedstore.extract import embed_images as embed_images
    from embedstore.extract import embed_texts as embed_texts
    from embedstore.extract import list_rows as list_rows
    from embedstore.labels import balanced as balanced
    from embedstore.labels import confidence as confidence
    from embedstore.labels import few_shot as few_shot
    from embedstore.labels import pseudo_labels as pseudo_labels
    from embedstore.labels import pseudo_probabilities as pseudo_probabilities
    from embedstore.labels import zero_shot_logits as zero_shot_logits
    from embedstore.leaks import exact_duplicates as exact_duplicates
    from embedstore.leaks import near_duplicates as near_duplicates
    from embedstore.metrics import accuracy as accuracy
    from embedstore.metrics import attack_success as attack_success
    from embedstore.metrics import aupr_in as aupr_in
    from embedstore.metrics import aupr_out as aupr_out
    from embedstore.metrics import aurc as aurc
    from embedstore.metrics import auroc as auroc
    from embedstore.metrics import auroc_difference as auroc_difference
    from embedstore.metrics import bootstrap_interval as bootstrap_interval
    from embedstore.metrics import delong_interval as delong_interval
    from embedstore.metrics import detection_error as detection_error
    from embedstore.metrics import fpr95 as fpr95
    from embedstore.metrics import fpr_at_tpr as fpr_at_tpr
    from embedstore.metrics import ood_metrics as ood_metrics
    from embedstore.metrics import paired_bootstrap as paired_bootstrap
    from embedstore.points import Points as Points
    from embedstore.points import read_points as read_points
    from embedstore.points import result_points as result_points
    from embedstore.probes import LinearProbe as LinearProbe
    from embedstore.probes import LogisticProbe as LogisticProbe
    from embedstore.probes import fit_probes as fit_probes
    from embedstore.records import Result as Result
    from embedstore.report import write_report as write_report
    from embedstore.scores import KMeansMahalanobisDetector as KMeansMahalanobisDetector
    from embedstore.scores import KNNClassifier as KNNClassifier
    from embedstore.scores import KNNDetector as KNNDetector
    from embedstore.scores import MahalanobisDetector as MahalanobisDetector
    from embedstore.scores import NNGuideDetector as NNGuideDetector
    from embedstore.scores import PrototypeDetector as PrototypeDetector
    from embedstore.scores import ResidualDetector as ResidualDetector
    from embedstore.scores import StandardizedSum as StandardizedSum
    from embedstore.scores import ViMDetector as ViMDetector
    from embedstore.scores import energy as energy
    from embedstore.scores import entropy as entropy
    from embedstore.scores import gen as gen
    from embedstore.scores import max_logit as max_logit
    from embedstore.scores import msp as msp
    from embedstore.sources import open_source as open_source
    from embedstore.store import Store as Store

_HOMES = {
    "Attacked": "attack",
    "Correlation": "correlation",
    "EmbedstoreError": "errors",
    "KMeansMahalanobisDetector": "scores",
    "KNNClassifier": "scores",
    "KNNDetector": "scores",
    "Line": "correlation",
    "LinearProbe": "probes",
    "LogisticProbe": "probes",
    "MahalanobisDetector": "scores",
    "NNGuideDetector": "scores",
    "Points": "points",
    "PrototypeDetector": "scores",
    "ResidualDetector": "scores",
    "Result": "records",
    "StandardizedSum": "scores",
    "Store": "store",
    "Study": "evaluate",
    "ViMDetector": "scores",
    "accuracy": "metrics",
    "attack_success": "metrics",
    "aupr_in": "metrics",
    "aupr_out": "metrics",
    "aurc": "metrics",
    "auroc": "metrics",
    "auroc_difference": "metrics",
    "balanced": "labels",
    "bootstrap_interval": "metrics",
    "by_group": "correlation",
    "confidence": "labels",
    "correlate": "correlation",
    "delong_interval": "metrics",
    "detection_error": "metrics",
    "embed_images": "extract",
    "embed_texts": "extract",
    "energy": "scores",
    "entropy": "scores",
    "exact_duplicates": "leaks",
    "few_shot": "labels",
    "fit_line": "correlation",
    "fit_probes": "probes",
    "fpr95": "metrics",
    "fpr_at_tpr": "metrics",
    "gen": "scores",
    "list_rows": "extract",
    "load_benchmark": "benchmarks",
    "load_encoder": "encoders",
    "max_logit": "scores",
    "msp": "scores",
    "near_duplicates": "leaks",
    "ood_metrics": "metrics",
    "open_source": "sources",
    "paired_bootstrap": "metrics",
    "pseudo_labels": "labels",
    "pseudo_probabilities": "labels",
    "r_squared": "correlation",
    "read_attack": "attack",
    "read_points": "points",
    "result_points": "points",
    "run_methods": "evaluate",
    "write_report": "report",
    "zero_shot_logits": "labels",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedstore' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"embedstore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
