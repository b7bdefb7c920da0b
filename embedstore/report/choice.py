"""Which scores are looked at closely: those of the best model, the best of each method.

A study has thousands of scores of every image, and a page has room for a few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from embedstore.records import Result
from embedstore.report.attacked import ordinary
from embedstore.report.means import Mean, means
from embedstore.report.summary import supervised
from embedstore.report.table import Cell, setting, when

MOST_METHODS = 8  # lines that can be told apart in one plot


@dataclass(frozen=True)
class Detector:
    """One score of one model.

    ``label`` is the name of its table row, ``auroc`` the mean over OOD sets and seeds, in [0, 1]. ``results`` holds, by
    OOD set, the newest result with the score, of the first of ``seeds`` seeds.
    """

    id_dataset: str
    model: str
    label: str
    score: str
    auroc: float
    label_free: bool
    seeds: int
    results: Mapping[str, Result]


def detectors(cells: Iterable[Cell], results: Iterable[Result]) -> dict[str, list[Detector]]:
    """By ID set: of the model with the best mean AUROC, the best score of every method, the best first.

    Only means over the same ordinary OOD sets are compared: the best model is the best of those with the most sets.
    """
    rows: dict[tuple[object, ...], list[Mean]] = {}
    for mean in ordinary(means(cells)):
        if mean.auroc is not None:
            key = (mean.id_dataset, mean.model, mean.method, mean.variant, mean.score, mean.templates)
            rows.setdefault(key, []).append(mean)
    newest = sorted(results, key=when, reverse=True)
    found = {}
    for id_dataset in sorted({row[0].id_dataset for row in rows.values()}):
        ranked = sorted((row for row in rows.values() if row[0].id_dataset == id_dataset), key=_rank)
        of_each: dict[str, list[Mean]] = {}
        for row in ranked:
            if row[0].model == ranked[0][0].model:
                of_each.setdefault(row[0].method, row)
        found[id_dataset] = [_detector(row, newest) for row in of_each.values()]
    return found


def _rank(row: Sequence[Mean]) -> tuple[object, ...]:
    return (-len(row), -_auroc(row), row[0].order, row[0].model)


def _auroc(row: Sequence[Mean]) -> float:
    return fmean(mean.auroc for mean in row if mean.auroc is not None)


def _detector(row: Sequence[Mean], newest: Sequence[Result]) -> Detector:
    first = row[0]
    chosen = {mean.ood: result for mean in row if (result := result_of(mean, newest)) is not None}
    return Detector(
        id_dataset=first.id_dataset,
        model=first.model,
        label=first.label,
        score=first.score,
        auroc=_auroc(row),
        label_free=not supervised(first),
        seeds=first.seeds,
        results=chosen,
    )


def result_of(mean: Mean, newest: Sequence[Result], *others: str) -> Result | None:
    """The newest result that holds this number, and those of other OOD sets, of the lowest seed."""
    key = (mean.model, mean.id_dataset, mean.method, mean.variant)
    mine = [
        result
        for result in newest
        if (result.model, result.id_dataset, result.method, result.variant) == key
        and {mean.ood, *others} <= result.metrics.get(mean.score, {}).keys()
        and (mean.templates is None or setting(result)[1] in (mean.templates, None))
    ]
    return min(mine, key=lambda result: setting(result)[0] or 0, default=None)
