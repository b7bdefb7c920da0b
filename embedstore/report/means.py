"""Cells over several seeds as one number: what the tables, the sentences and the R² show."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from embedstore.report.table import Cell, label, row_order, when

# What these find does not depend on the prompts, so that one row says it for all template sets.
_WITHOUT_PROMPTS = frozenset({"knn", "linear", "mahalanobis", "relative-mahalanobis"})


@dataclass(frozen=True)
class Mean:
    """The cells of one model, ID set, method, score, OOD set and template set; means over the seeds.

    Attributes
    ----------
    templates : str or None
        None where the method reads no prompts.
    marked : bool
        Whether ``label`` has to name the template set, because there are several on the ID set.
    spread : float or None
        Sample standard deviation of the AUROC; None with less than two values.
    """

    model: str
    id_dataset: str
    method: str
    score: str
    ood: str
    templates: str | None
    auroc: float | None
    fpr95: float | None
    id_accuracy: float | None
    seeds: int
    spread: float | None = None
    marked: bool = False

    @property
    def label(self) -> str:
        """What its table row is called: ``"plp · energy"``, or ``"plp · energy · openai80"``."""
        return label(label(self.method, self.score), self.templates if self.marked else None)

    @property
    def classifier(self) -> str:
        """What its ID accuracy is called: ``"plp"``, or ``"plp · openai80"``."""
        return label(self.method, self.templates if self.marked else None)

    @property
    def order(self) -> tuple[tuple[int, str, int, str], str]:
        """Sort key of table rows."""
        return (row_order(self.method, self.score), self.templates or "")


def means(cells: Iterable[Cell]) -> list[Mean]:
    """One per table row and OOD set, by ID set and model, then in reading order."""
    cells = sorted(cells, key=when)
    accuracies: dict[tuple[str | None, ...], dict[int | None, float]] = {}
    groups: dict[tuple[str, str, str, str, str, str | None], dict[int | None, Cell]] = {}
    sets: dict[str, set[str | None]] = {}
    for cell in cells:
        templates = _templates(cell)
        groups.setdefault((cell.model, cell.id_dataset, cell.method, cell.score, cell.ood, templates), {})[
            cell.seed
        ] = cell
        # The same for every score and OOD set; the newest, should these have been probed at different times.
        if cell.id_accuracy is not None:
            accuracies.setdefault(_classifier(cell), {})[cell.seed] = cell.id_accuracy
        if cell.method not in _WITHOUT_PROMPTS:
            sets.setdefault(cell.id_dataset, set()).add(templates)
    found = []
    for (model, id_dataset, method, score, ood, templates), by_seed in groups.items():
        group = list(by_seed.values())
        aurocs = [cell.auroc for cell in group if cell.auroc is not None]
        found.append(
            Mean(
                model=model,
                id_dataset=id_dataset,
                method=method,
                score=score,
                ood=ood,
                templates=templates,
                auroc=_mean(aurocs),
                fpr95=_mean(cell.fpr95 for cell in group),
                id_accuracy=_mean(accuracies.get(_classifier(group[0]), {}).values()),
                seeds=len(group),
                spread=statistics.stdev(aurocs) if len(aurocs) > 1 else None,
                marked=len(sets.get(id_dataset, ())) > 1,
            )
        )
    return sorted(found, key=lambda mean: (mean.id_dataset, mean.model, mean.order, mean.ood))


def over_seeds(means: Iterable[Mean]) -> str:
    """``"over 3 seeds"``, ``"over 1 to 3 seeds"``; empty where no number is a mean of several."""
    counts = sorted({mean.seeds for mean in means})
    if not counts or counts[-1] == 1:
        return ""
    return f"over {counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"over {counts[0]} seeds"


def _templates(cell: Cell) -> str | None:
    return None if cell.method in _WITHOUT_PROMPTS else cell.templates


def _classifier(cell: Cell) -> tuple[str | None, ...]:
    return (cell.model, cell.id_dataset, cell.method, _templates(cell))


def _mean(values: Iterable[float | None]) -> float | None:
    # Exact, unlike a sum of floats: the mean of equal numbers is that number, and ties stay ties.
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None
