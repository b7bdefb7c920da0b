"""Does better ID classification go with better OOD detection? One line per OOD set and method, through the models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embedstore.correlation import fit_line
from embedstore.errors import NotAvailable
from embedstore.report.table import Cell, label, row_order

# The classifier whose accuracy is the x axis: 20-NN, stored with the method of the same name.
ACCURACY_METHOD = "knn"
MIN_MODELS = 3


@dataclass(frozen=True)
class Point:
    """One model: its 20-NN accuracy on the ID test split (x) and the AUROC against an OOD set (y), in [0, 1]."""

    model: str
    id_accuracy: float
    auroc: float


@dataclass(frozen=True)
class Correlation:
    """The least-squares line through the models, for one ID set, OOD set, method and score.

    ``r_squared``, ``slope`` and ``intercept`` are None where there is no such line; ``reason`` then says why.
    """

    id_dataset: str
    ood: str
    method: str
    score: str
    points: tuple[Point, ...]
    r_squared: float | None = None
    slope: float | None = None
    intercept: float | None = None
    reason: str | None = None

    @property
    def label(self) -> str:
        """``"knn · cosine"``."""
        return label(self.method, self.score)


def correlations(cells: Iterable[Cell]) -> list[Correlation]:
    """R² of ID accuracy against AUROC over the models, in reading order.

    Parameters
    ----------
    cells : iterable of Cell
        At most one per model, ID set, method, score and OOD set, as :func:`embedstore.report.cells` returns them.
    """
    cells = list(cells)
    accuracy = _accuracies(cells)
    groups: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.id_dataset, cell.ood, cell.method, cell.score), []).append(cell)
    found = [_fit(group, accuracy) for group in groups.values()]
    return sorted(found, key=lambda fit: (fit.id_dataset, row_order(fit.method, fit.score), fit.ood))


def _accuracies(cells: Iterable[Cell]) -> dict[tuple[str, str], float]:
    """20-NN accuracy by model and ID set; the newest, should the OOD sets have been probed at different times."""
    known = [cell for cell in cells if cell.method == ACCURACY_METHOD and cell.id_accuracy is not None]
    known.sort(key=lambda cell: cell.created)
    return {(cell.model, cell.id_dataset): cell.id_accuracy for cell in known if cell.id_accuracy is not None}


def _fit(group: list[Cell], accuracy: dict[tuple[str, str], float]) -> Correlation:
    points = []
    for cell in sorted(group, key=lambda cell: cell.model):
        x = accuracy.get((cell.model, cell.id_dataset))
        if x is not None and cell.auroc is not None:
            points.append(Point(cell.model, x, cell.auroc))
    first = group[0]
    named = (first.id_dataset, first.ood, first.method, first.score, tuple(points))
    try:
        line = fit_line([point.id_accuracy for point in points], [point.auroc for point in points])
    except NotAvailable as error:
        return Correlation(*named, reason=_reason(str(error), group, len(points)))
    return Correlation(*named, r_squared=line.r_squared, slope=line.slope, intercept=line.intercept)


def _reason(message: str, group: list[Cell], points: int) -> str:
    if points >= MIN_MODELS:
        return f"{message} (x is ID accuracy, y is AUROC)"
    if points == len(group):
        return f"R² needs at least {MIN_MODELS} models, there {'is' if points == 1 else 'are'} {points}"
    return (
        f"R² needs at least {MIN_MODELS} models with a 20-NN accuracy, and {points} of {len(group)} "
        f"{'has' if points == 1 else 'have'} one: it takes method {ACCURACY_METHOD} and labels of the ID data set"
    )
