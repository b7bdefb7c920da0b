"""Named sets of choices: what the released codes do, and what a careful person would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Choices that belong together (docs/methods.md).

    Attributes
    ----------
    summary : str
    metrics : str
        The metric set of :data:`embedstore.metrics.METRIC_SETS`.
    templates : str
        The template set whose prompts make class vectors.
    seed : int
    methods : tuple of str
        What runs where nothing is asked for; all methods where it is empty.
    options : mapping
        By method, the options in which it differs from the method's own defaults.
    """

    summary: str
    metrics: str = "default"
    templates: str = "plp"
    seed: int = 0
    methods: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# The released code leaves the distances out on ImageNet, whatever its flag says; None does so by the number of rows.
_OFFICIAL_LAYER = {"scores": ("msp", "energy", "l1"), "logit_distance": None}

PRESETS: Mapping[str, Preset] = {
    "default": Preset("what a careful person would do: features for Mahalanobis, the strictest threshold for FPR95"),
    "official": Preset(
        "as the released code of Adaloglou et al. behaves (arXiv 2303.05828), its traps included",
        metrics="official",
        seed=42,
        methods=("knn", "mcm", "plp", "linear", "mahalanobis", "relative-mahalanobis"),
        options={
            "knn": {"reduce": "exp"},
            "plp": _OFFICIAL_LAYER,
            "linear": _OFFICIAL_LAYER,
            "mahalanobis": {"covariance": "class-mean", "ridge": 0.0},
            "relative-mahalanobis": {"covariance": "class-mean", "ridge": 0.0},
        },
    ),
    "mcm": Preset(
        "maximum concept matching as released by Ming et al. (arXiv 2211.13445): one prompt, without a full stop",
        metrics="mcm",
        templates="mcm",
        methods=("mcm",),
    ),
    "openood": Preset(
        "the metrics of OpenOOD v1.5 (OOD is the positive class) and its defaults for k-NN and the distances",
        metrics="openood",
        options={
            "knn": {"k": 50, "reduce": "kth"},
            "mahalanobis": {"ridge": 0.0},
            "relative-mahalanobis": {"ridge": 0.0},
        },
    ),
}
