"""Does better ID classification go with better OOD detection? One line per OOD set and method, through the models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embedstore.correlation import Interval, Line, fit_line
from embedstore.errors import NotAvailable
from embedstore.report.attacked import ordinary, which_models
from embedstore.report.means import Mean, means
from embedstore.report.names import options, row_order
from embedstore.report.table import Cell

# The classifier whose accuracy is the x axis: 20-NN, stored with the method of the same name.
ACCURACY_METHOD = "knn"
_VOTE = frozenset({"accuracy_k", "accuracy_temperature"})
MIN_MODELS = 3


@dataclass(frozen=True)
class Point:
    """One model: its 20-NN accuracy on the ID test split (x) and the AUROC against an OOD set (y), in [0, 1]."""

    model: str
    id_accuracy: float
    auroc: float


@dataclass(frozen=True)
class Correlation:
    """The least-squares line through the models, for one ID set, OOD set, method, variant, score and template set.

    ``templates`` is None where the method reads no prompts; ``label`` is the name of its table row, ``"knn · cosine"``.
    ``line`` is None where there is no such line, and with it all that it says; ``reason`` then says why.
    """

    id_dataset: str
    ood: str
    method: str
    variant: str
    score: str
    templates: str | None
    label: str
    points: tuple[Point, ...]
    line: Line | None = None
    reason: str | None = None

    @property
    def r_squared(self) -> float | None:
        """The fraction of the AUROC's variance that the line explains, in [0, 1]."""
        return None if self.line is None else self.line.r_squared

    @property
    def interval(self) -> Interval | None:
        """That of R², 95 %."""
        return None if self.line is None else self.line.r_squared_interval()

    @property
    def falls(self) -> bool:
        """Whether better classifiers detect worse, and not by accident: the slope is negative, R² is not 0."""
        return self.line is not None and self.line.slope < 0 < self.line.r_squared_interval()[0]

    @property
    def slope(self) -> float | None:
        """AUROC per ID accuracy."""
        return None if self.line is None else self.line.slope

    @property
    def intercept(self) -> float | None:
        """AUROC at an ID accuracy of 0."""
        return None if self.line is None else self.line.intercept


def correlations(cells: Iterable[Cell], voters: Iterable[Cell] = ()) -> list[Correlation]:
    """R² of ID accuracy against AUROC over the models, in reading order. Each point is the mean over the seeds.

    Of ordinary OOD sets: those of an attack measure robustness.

    Parameters
    ----------
    cells : iterable of Cell
        At most one per model, ID set, method, variant, score, OOD set, seed and template set, as
        :func:`embedstore.report.cells` returns them.
    voters : iterable of Cell, optional
        Further ones, to take 20-NN accuracies from.
    """
    averaged = means(cells)
    accuracy = _accuracies(means(voters)) | _accuracies(averaged)
    groups: dict[tuple[str | None, ...], list[Mean]] = {}
    usual = ordinary(averaged)
    for mean in usual:
        key = (mean.id_dataset, mean.ood, mean.method, mean.variant, mean.score, mean.templates)
        groups.setdefault(key, []).append(mean)
    which = {
        name: which_models(*([mean for mean in some if mean.id_dataset == name] for some in (averaged, usual)))
        for name in {mean.id_dataset for mean in usual}
    }
    found = [_fit(group, accuracy, which[group[0].id_dataset]) for group in groups.values()]
    return sorted(found, key=_reading_order)


def _accuracies(averaged: Iterable[Mean]) -> dict[tuple[str, str], float]:
    """20-NN accuracy by model and ID set: of the method's defaults if there, else of a variant with the same vote."""
    found: dict[tuple[str, str], float] = {}
    for mean in averaged:
        voted = mean.method == ACCURACY_METHOD and not _VOTE & set(options(mean.variant))
        if voted and mean.id_accuracy is not None:
            found.setdefault((mean.model, mean.id_dataset), mean.id_accuracy)
    return found


def _reading_order(fit: Correlation) -> tuple[object, ...]:
    return (fit.id_dataset, row_order(fit.method, fit.variant, fit.score), fit.templates or "", fit.ood)


def _fit(group: list[Mean], accuracy: dict[tuple[str, str], float], which: str) -> Correlation:
    points = []
    for mean in sorted(group, key=lambda mean: mean.model):
        x = accuracy.get((mean.model, mean.id_dataset))
        if x is not None and mean.auroc is not None:
            points.append(Point(mean.model, x, mean.auroc))
    first = group[0]
    key = (first.id_dataset, first.ood, first.method, first.variant, first.score, first.templates)
    named = (*key, first.label, tuple(points))
    try:
        line = fit_line([point.id_accuracy for point in points], [point.auroc for point in points])
    except NotAvailable as error:
        return Correlation(*named, reason=_reason(str(error), group, len(points), which))
    return Correlation(*named, line=line)


def _reason(message: str, group: list[Mean], points: int, which: str) -> str:
    if points >= MIN_MODELS:
        return f"{message} (x is ID accuracy, y is AUROC)"
    if points == len(group):
        return f"R² needs at least {MIN_MODELS} models{which}, there {'is' if points == 1 else 'are'} {points}"
    which += " and" if which else ""
    return (
        f"R² needs at least {MIN_MODELS} models{which} with a 20-NN accuracy, and {points} of {len(group)} "
        f"{'has' if points == 1 else 'have'} one: it takes method {ACCURACY_METHOD} and labels of the ID data set"
    )
