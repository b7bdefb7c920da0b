"""Mahalanobis distances against one quadratic form per class."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from benchmarks.features import WIDTH, clouds
from benchmarks.pairs import Reference, Stage, Timed, close

_CLASSES = 1000
_TIMED = 3  # of these; every class costs the same
_CHECKED = 20  # rows, with all classes


def mahalanobis(scale: float) -> Iterator[Stage]:
    """Scores of 50,000 rows under 1,000 classes that share a covariance."""
    import torch

    from embedstore.scores import MahalanobisDetector

    X, labels = clouds(int(50_000 * scale), _CLASSES)
    detector = MahalanobisDetector().fit(X, labels)
    means = torch.from_numpy(detector.means_)
    inverse = torch.from_numpy(detector.cholesky_ @ detector.cholesky_.T).inverse()

    def distances(rows: Any, n_classes: int) -> Any:
        """As the released code of arXiv 2303.05828 has it."""
        found = []
        for mean in means[:n_classes]:
            apart = rows - mean
            found.append((apart @ inverse * apart).sum(dim=1))
        return -torch.stack(found).min(dim=0).values

    def some_classes() -> Timed:
        began = perf_counter()
        distances(torch.from_numpy(X).double(), _TIMED)
        return Timed(None, (perf_counter() - began) * _CLASSES / _TIMED)

    def same(ours: Any, _: None) -> None:
        close(ours[:_CHECKED], distances(torch.from_numpy(X[:_CHECKED]).double(), _CLASSES), 1e-6, relative=True)

    yield Stage(
        f"Mahalanobis scores, {_CLASSES:,} classes, {len(X):,} x {WIDTH}, float64",
        lambda: detector.score_samples(X),
        [Reference(f"a quadratic form per class (torch; {_TIMED} classes timed, scaled)", some_classes, same, aim=300)],
    )
