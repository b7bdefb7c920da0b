"""Cells over several seeds as one number: what the tables, the sentences and the R² show."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from embedstore.report.attacked import ordinary
from embedstore.report.names import RowOrder, label, metric_set, named, row_order
from embedstore.report.table import Cell, when

# Results of older versions name a template set even where the method reads no prompts.
_WITHOUT_PROMPTS = frozenset({"knn", "linear", "mahalanobis", "relative-mahalanobis"})

# What the mean over all OOD sets is called, where no benchmark puts them into groups.
ALL_SETS = "all OOD sets"
_FEWEST_SETS = 3  # of two sets the numbers themselves are read as easily

Interval = tuple[float, float]
# ID set, model, method, variant, score and template set.
RowKey = tuple[str, str, str, str, str, str | None]


@dataclass(frozen=True)
class Mean:
    """The cells of one model, ID set, method, variant, score, OOD set and template set; means over the seeds.

    Attributes
    ----------
    templates : str or None
        None where the method reads no prompts.
    marked : bool
        Whether ``label`` has to name the template set, because there are several on the ID set.
    seeds : int
        0 where the method uses no randomness.
    spread : float or None
        Sample standard deviation of the AUROC; None with less than two values.
    auroc_interval, fpr95_interval : (low, high) or None
        95 % intervals of a single seed; those of several say nothing about their mean.
    cells : tuple of Cell
        What it is the mean of.
    """

    model: str
    id_dataset: str
    method: str
    variant: str
    score: str
    ood: str
    templates: str | None
    auroc: float | None
    fpr95: float | None
    id_accuracy: float | None
    seeds: int
    spread: float | None = None
    marked: bool = False
    auroc_interval: Interval | None = None
    fpr95_interval: Interval | None = None
    cells: tuple[Cell, ...] = ()

    @property
    def row(self) -> RowKey:
        """What all numbers of its table row have in common."""
        return (self.id_dataset, self.model, self.method, self.variant, self.score, self.templates)

    @property
    def label(self) -> str:
        """What its table row is called: ``"plp · energy"``, ``"plp (shots=4) · energy · openai80"``."""
        return label(named(self.method, self.variant), self.score, self.templates if self.marked else None)

    @property
    def classifier(self) -> str:
        """What its ID accuracy is called: ``"plp"``, ``"plp (shots=4) · openai80"``."""
        return label(named(self.method, self.variant), self.templates if self.marked else None)

    @property
    def sets(self) -> int:
        """How many OOD sets it is the mean over."""
        return len({cell.ood for cell in self.cells})

    @property
    def metrics(self) -> str:
        """The metric set by which it was measured."""
        return metric_set(self.variant)

    @property
    def order(self) -> tuple[RowOrder, str]:
        """Sort key of table rows."""
        return (row_order(self.method, self.variant, self.score), self.templates or "")


def means(cells: Iterable[Cell]) -> list[Mean]:
    """One per table row and OOD set, by ID set and model, then in reading order."""
    cells = sorted(cells, key=when)
    accuracies: dict[tuple[str | None, ...], dict[int | None, float]] = {}
    groups: dict[tuple[str | None, ...], dict[int | None, Cell]] = {}
    sets: dict[str, set[str]] = {}
    for cell in cells:
        templates = _templates(cell)
        groups.setdefault((*_classifier(cell), cell.score, cell.ood), {})[cell.seed] = cell
        # The same for every score and OOD set; the newest, should these have been probed at different times.
        if cell.id_accuracy is not None:
            accuracies.setdefault(_classifier(cell), {})[cell.seed] = cell.id_accuracy
        if templates is not None:
            sets.setdefault(cell.id_dataset, set()).add(templates)
    found = [
        _over(list(by_seed.values()), accuracies, marked=len(sets.get(str(key[1]), ())) > 1)
        for key, by_seed in groups.items()
    ]
    return sorted(found, key=lambda mean: (mean.id_dataset, mean.model, mean.order, mean.ood))


def over_groups(table: Sequence[Mean], groups: Mapping[str, Sequence[str]]) -> dict[str, list[Mean]]:
    """Means over groups of OOD sets, of one ID set, by the group's name.

    Those of a benchmark that some row has whole; where there are none, one over all ordinary sets, if there are three
    or more.
    """
    whole = {name: over_sets(name, sets, table) for name, sets in groups.items()}
    whole = {name: over for name, over in whole.items() if over}
    every = {mean.ood for mean in ordinary(table) if mean.auroc is not None}
    if whole or len(every) < _FEWEST_SETS:
        return whole
    over = over_sets(ALL_SETS, every, table)
    return {ALL_SETS: over} if over else {}


def over_sets(name: str, sets: Collection[str], table: Iterable[Mean]) -> list[Mean]:
    """Of every row that has an AUROC on all of `sets`: the mean over them, every set counting the same.

    ``ood`` is then `name`. An interval is the mean of those of the sets, where all have one: no narrower than the
    interval of their mean need be, whatever the sets have in common (they share the ID images).
    """
    by_row: dict[RowKey, dict[str, Mean]] = {}
    for mean in table:
        if mean.ood in sets and mean.auroc is not None:
            by_row.setdefault(mean.row, {})[mean.ood] = mean
    return [_over_sets(name, list(by_set.values())) for by_set in by_row.values() if len(by_set) == len(set(sets))]


def _over_sets(name: str, parts: list[Mean]) -> Mean:
    rates = [part.fpr95 for part in parts]
    by_seed: dict[int | None, list[float | None]] = {}
    for cell in (cell for part in parts for cell in part.cells):
        by_seed.setdefault(cell.seed, []).append(cell.auroc)
    # Seeds that some of the sets lack would differ by the sets.
    whole = [_mean(values) for values in by_seed.values() if len(values) == len(parts) and None not in values]
    seeds = [value for value in whole if value is not None]
    return replace(
        parts[0],
        ood=name,
        auroc=_mean(part.auroc for part in parts),
        fpr95=None if None in rates else _mean(rates),
        spread=statistics.stdev(seeds) if len(seeds) == len(by_seed) > 1 else None,
        auroc_interval=mean_interval([part.auroc_interval for part in parts]),
        fpr95_interval=mean_interval([part.fpr95_interval for part in parts]),
        cells=tuple(cell for part in parts for cell in part.cells),
    )


def mean_interval(intervals: Iterable[Interval | None]) -> Interval | None:
    """The mean of the lower and of the upper ends; None where there is none, or one is missing."""
    known = list(intervals)
    bounds = [interval for interval in known if interval is not None]
    if not bounds or len(bounds) < len(known):
        return None
    return statistics.fmean(low for low, _ in bounds), statistics.fmean(high for _, high in bounds)


def _over(
    group: list[Cell], accuracies: Mapping[tuple[str | None, ...], dict[int | None, float]], marked: bool
) -> Mean:
    first = group[0]
    aurocs = [cell.auroc for cell in group if cell.auroc is not None]
    alone = len(group) == 1
    return Mean(
        model=first.model,
        id_dataset=first.id_dataset,
        method=first.method,
        variant=first.variant,
        score=first.score,
        ood=first.ood,
        templates=_templates(first),
        auroc=_mean(aurocs),
        fpr95=_mean(cell.fpr95 for cell in group),
        id_accuracy=_mean(accuracies.get(_classifier(first), {}).values()),
        seeds=sum(cell.seed is not None for cell in group),
        spread=statistics.stdev(aurocs) if len(aurocs) > 1 else None,
        marked=marked,
        auroc_interval=_interval(first.auroc_low, first.auroc_high) if alone else None,
        fpr95_interval=_interval(first.fpr95_low, first.fpr95_high) if alone else None,
        cells=tuple(group),
    )


def _interval(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else (low, high)


def over_seeds(means: Iterable[Mean]) -> str:
    """``"over 3 seeds"``, ``"over 1 to 3 seeds"``; empty where no number is a mean of several."""
    counts = sorted({mean.seeds for mean in means if mean.seeds})
    if not counts or counts[-1] == 1:
        return ""
    return f"over {counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"over {counts[0]} seeds"


def _templates(cell: Cell) -> str | None:
    # Older versions knew no variants, and one may well read prompts: "mahalanobis (labels=pseudo)".
    return None if cell.method in _WITHOUT_PROMPTS and not cell.variant else cell.templates


def _classifier(cell: Cell) -> tuple[str | None, ...]:
    return (cell.model, cell.id_dataset, cell.method, cell.variant, _templates(cell))


def _mean(values: Iterable[float | None]) -> float | None:
    # Exact, unlike a sum of floats: the mean of equal numbers is that number, and ties stay ties.
    known = [value for value in values if value is not None]
    return known[0] if len(known) == 1 else statistics.mean(known) if known else None
