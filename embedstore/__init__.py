"""embedstore: embed images once, then classify and detect out-of-distribution images from the cached features.

Every public name is listed here once and loaded when it is first used, so that ``import embedstore`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.correlation import Line as Line
    from embedstore.correlation import fit_line as fit_line
    from embedstore.correlation import r_squared as r_squared
    from embedstore.encoders import load_encoder as load_encoder
    from embedstore.errors import EmbedstoreError as EmbedstoreError
    from embedstore.evaluate import Study as Study
    from embedstore.evaluate import run_methods as run_methods
    from embedstore.extract import embed_images as embed_images
    from embedstore.extract import embed_texts as embed_texts
    from embedstore.extract import list_rows as list_rows
    from embedstore.labels import pseudo_labels as pseudo_labels
    from embedstore.labels import zero_shot_logits as zero_shot_logits
    from embedstore.metrics import accuracy as accuracy
    from embedstore.metrics import aupr_in as aupr_in
    from embedstore.metrics import aupr_out as aupr_out
    from embedstore.metrics import auroc as auroc
    from embedstore.metrics import fpr95 as fpr95
    from embedstore.metrics import ood_metrics as ood_metrics
    from embedstore.probes import LinearProbe as LinearProbe
    from embedstore.report import write_report as write_report
    from embedstore.scores import KNNClassifier as KNNClassifier
    from embedstore.scores import KNNDetector as KNNDetector
    from embedstore.scores import MahalanobisDetector as MahalanobisDetector
    from embedstore.scores import energy as energy
    from embedstore.scores import max_logit as max_logit
    from embedstore.scores import msp as msp
    from embedstore.sources import open_source as open_source
    from embedstore.store import Store as Store

_HOMES = {
    "EmbedstoreError": "errors",
    "KNNClassifier": "scores",
    "KNNDetector": "scores",
    "Line": "correlation",
    "LinearProbe": "probes",
    "MahalanobisDetector": "scores",
    "Store": "store",
    "Study": "evaluate",
    "accuracy": "metrics",
    "aupr_in": "metrics",
    "aupr_out": "metrics",
    "auroc": "metrics",
    "embed_images": "extract",
    "embed_texts": "extract",
    "energy": "scores",
    "fit_line": "correlation",
    "fpr95": "metrics",
    "list_rows": "extract",
    "load_encoder": "encoders",
    "max_logit": "scores",
    "msp": "scores",
    "ood_metrics": "metrics",
    "open_source": "sources",
    "pseudo_labels": "labels",
    "r_squared": "correlation",
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
