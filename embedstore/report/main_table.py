"""The main table of the page: numbers as they are printed, which are best in their columns, and the footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from embedstore.report.commands import dataset_label
from embedstore.report.means import Interval, Mean, means, over_seeds
from embedstore.report.names import DEFAULT_METRICS, RowOrder, glossary, row_order
from embedstore.report.summary import DASH, count, percent
from embedstore.report.table import Absence, Cell

# OOD set (None for the accuracy), metric, and metric set where that matters: what a value is compared within.
_Column = tuple[str | None, str, str]
_Value = tuple[_Column, float | None, float | None, Interval | None]


@dataclass(frozen=True)
class Number:
    """A table cell; ``best`` marks the best value of its column.

    ``spread`` is the deviation over seeds, ``interval`` the 95 % interval of a single one (``"91.2–93.0"``), if any.
    """

    text: str
    best: bool = False
    spread: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One method of one model: ``numbers`` is accuracy, then AUROC and FPR95 of each OOD set.

    ``begins`` is true of a method's first row, unless it is the model's first too.
    """

    label: str
    numbers: tuple[Number, ...]
    footnote: int | None = None
    begins: bool = False


@dataclass(frozen=True)
class Column:
    """An OOD set as a column head."""

    label: str
    size: str


@dataclass(frozen=True)
class MainTable:
    """The main table of one ID data set; ``footnotes`` are numbered from one.

    ``seeds`` is ``"over 3 seeds"`` where numbers are means, ``has_spread`` whether any of them differs between seeds,
    ``has_variants`` whether any row has options, ``conventions`` the metric sets other than the default's.
    """

    id_dataset: str
    columns: tuple[Column, ...]
    models: tuple[tuple[str, tuple[Row, ...]], ...]
    footnotes: tuple[str, ...]
    glossary: tuple[tuple[str, str], ...]
    has_gaps: bool
    seeds: str
    has_spread: bool
    has_intervals: bool
    has_variants: bool
    conventions: tuple[str, ...]


def main_table(id_dataset: str, cells: Iterable[Cell], absences: Iterable[Absence]) -> MainTable:
    """Models × methods by OOD sets, of one ID data set."""
    here = [cell for cell in cells if cell.id_dataset == id_dataset]
    absent = [absence for absence in absences if absence.id_dataset == id_dataset]
    oods = sorted({cell.ood for cell in here})
    averaged = means(here)
    best = _best(averaged)
    footnotes = tuple(dict.fromkeys(f"{absence.label}: {absence.reason}" for absence in absent))
    models = []
    for model in sorted({cell.model for cell in here} | {absence.model for absence in absent}):
        mine = [mean for mean in averaged if mean.model == model]
        gaps = [absence for absence in absent if absence.model == model]
        models.append((model, _rows(mine, gaps, oods, best, footnotes)))
    terms = {cell.method for cell in here} | {cell.score for cell in here} | {absence.method for absence in absent}
    rows = [row for _, rows in models for row in rows]
    numbers = [number for row in rows for number in row.numbers]
    return MainTable(
        id_dataset=id_dataset,
        columns=tuple(Column(dataset_label(ood), _size(here, ood)) for ood in oods),
        models=tuple(models),
        footnotes=footnotes,
        glossary=tuple(glossary(terms)),
        has_gaps=any(number.text == DASH for row in rows if not row.footnote for number in row.numbers),
        seeds=over_seeds(averaged),
        has_spread=any(number.spread for number in numbers),
        has_intervals=any(number.interval for number in numbers),
        has_variants=any(cell.variant for cell in here) or any(absence.variant for absence in absent),
        conventions=tuple(sorted({mean.metrics for mean in averaged} - {DEFAULT_METRICS})),
    )


def _rows(
    table: Sequence[Mean],
    absent: Iterable[Absence],
    oods: Sequence[str],
    best: Mapping[_Column, float],
    footnotes: Sequence[str],
) -> tuple[Row, ...]:
    """The rows of one model, those of absent methods in their places."""
    by_row: dict[tuple[RowOrder, str], list[Mean]] = {}
    for mean in table:
        by_row.setdefault(mean.order, []).append(mean)
    found = [(order, group[0].method, _row(group, oods, best)) for order, group in by_row.items()]
    dashes = (Number(DASH),) * (1 + 2 * len(oods))
    for absence in absent:
        number = footnotes.index(f"{absence.label}: {absence.reason}") + 1
        order = (row_order(absence.method, absence.variant, ""), "")
        found.append((order, absence.method, Row(absence.label, dashes, number)))
    found.sort(key=lambda item: item[0])
    before = [None, *(method for _, method, _ in found)]
    return tuple(
        replace(row, begins=previous not in (None, method))
        for previous, (_, method, row) in zip(before, found, strict=False)
    )


def _best(table: Iterable[Mean]) -> dict[_Column, float]:
    """The best value of each column, as stored: rounding first would make ties that are none."""
    found: dict[_Column, float] = {}
    for mean in table:
        for key, value, _, _ in _values(mean):
            if value is not None:
                better = min if key[1] == "fpr95" else max
                found[key] = better(value, found.get(key, value))
    return found


def _values(mean: Mean) -> tuple[_Value, _Value, _Value]:
    """Accuracy, AUROC and FPR95: where its best is found, value, deviation, interval."""
    return (
        ((None, "accuracy", ""), mean.id_accuracy, None, None),
        ((mean.ood, "auroc", ""), mean.auroc, mean.spread, mean.auroc_interval),
        # Another program's FPR95 is another quantity, and the smaller of two quantities is not the better one.
        ((mean.ood, "fpr95", mean.metrics), mean.fpr95, None, mean.fpr95_interval),
    )


def _row(table: Sequence[Mean], oods: Sequence[str], best: Mapping[_Column, float]) -> Row:
    by_ood = {mean.ood: _values(mean)[1:] for mean in table}
    values: list[_Value | None] = [_values(table[0])[0]]
    for ood in oods:
        values += by_ood.get(ood, (None, None))
    return Row(table[0].label, tuple(_number(value, best) for value in values))


def _number(found: _Value | None, best: Mapping[_Column, float]) -> Number:
    if found is None or found[1] is None:
        return Number(DASH)
    key, value, spread, interval = found
    bounds = "" if interval is None else f"{percent(interval[0])}–{percent(interval[1])}"
    return Number(percent(value), value == best[key], _spread(spread), bounds)


def _spread(value: float | None) -> str:
    """``"± 0.4"``; nothing for what would be ± 0.0, as that of a method that does not depend on the seed."""
    text = percent(value)
    return "" if value is None or float(text) == 0 else f"±\N{NO-BREAK SPACE}{text}"


def _size(cells: Iterable[Cell], ood: str) -> str:
    sizes = {cell.n_ood for cell in cells if cell.ood == ood and cell.n_ood is not None}
    return count(sizes.pop(), "image") if len(sizes) == 1 else ""
