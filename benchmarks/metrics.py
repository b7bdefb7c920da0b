"""Detection metrics against scikit-learn's functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.pairs import Reference, Stage, close


def metrics(scale: float) -> Iterator[Stage]:
    """50,000 ID and 10,000 OOD scores. Ours gives more: two intervals, AUPR both ways, the detection error."""
    from embedstore.metrics import ood_metrics

    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, int(50_000 * scale)), rng.normal(0, 1, int(10_000 * scale))

    def three() -> tuple[float, float, float]:
        from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

        positive = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
        scores = np.r_[inside, outside]
        fpr, tpr, _ = roc_curve(positive, scores)
        return (
            roc_auc_score(positive, scores),
            float(fpr[np.argmax(tpr >= 0.95)]),
            average_precision_score(positive, scores),
        )

    def same(ours: dict[str, float], theirs: tuple[Any, ...]) -> None:
        close([ours[name] for name in ("auroc", "fpr95", "aupr_in")], theirs, 1e-9)

    yield Stage(
        f"all of ood_metrics, {len(inside):,} + {len(outside):,} scores",
        lambda: ood_metrics(inside, outside),
        [Reference("scikit-learn: roc_auc_score, roc_curve, average_precision_score", three, same, aim=1.0)],
    )
