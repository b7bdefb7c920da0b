"""The main table of the page: numbers as they are printed, which are best in their columns, and the footnotes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from embedstore.report.attacked import attacks, decisive, in_main_table
from embedstore.report.commands import dataset_label
from embedstore.report.means import Interval, Mean, RowKey, means, over_groups, over_seeds
from embedstore.report.names import DEFAULT_METRICS, RowOrder, by_group, glossary, row_order
from embedstore.report.summary import DASH, count, percent
from embedstore.report.table import Absence, Cell

Groups = Mapping[str, Sequence[str]]

# Column (-1 for the accuracy), metric, and metric set where that matters: what a value is compared within.
_Key = tuple[int, str, str]
_Value = tuple[_Key, float | None, float | None, Interval | None]


@dataclass(frozen=True)
class Number:
    """A table cell; ``best`` marks the best value of its column.

    ``spread`` is the deviation over seeds, ``interval`` the 95 % interval of a single one (``"91.2–93.0"``), if any.
    ``place`` is 1 for the best value of its column and None without a value; equal values share one. Values of several
    conventions are ranked together, as they stand in one column.
    """

    text: str
    best: bool = False
    spread: str = ""
    interval: str = ""
    place: int | None = None


@dataclass(frozen=True)
class Row:
    """One method of one model: ``numbers`` is accuracy, then AUROC and FPR95 of each column.

    ``begins`` is true of a method's first row, unless it is the model's first too. ``more`` is true of rows that a
    reader sees on demand: another score of the same classifier is better, and no number is the best of its column.
    """

    label: str
    method: str
    numbers: tuple[Number, ...]
    footnote: int | None = None
    begins: bool = False
    more: bool = False

    @property
    def classes(self) -> str:
        """For the style sheet: ``"absent begins"``."""
        known = {"absent": self.footnote is not None, "begins": self.begins, "more": self.more}
        return " ".join(name for name, holds in known.items() if holds)


@dataclass(frozen=True)
class Column:
    """An OOD set, or the mean over a group of them, as a column head; ``detail`` is its size and its group."""

    label: str
    detail: str
    is_mean: bool = False


@dataclass(frozen=True)
class MainTable:
    """The main table of one ID data set; ``footnotes`` are numbered from one.

    ``seeds`` is ``"over 3 seeds"`` where numbers are means, ``has_spread`` whether any of them differs between seeds,
    ``has_variants`` whether any row has options, ``conventions`` the metric sets other than the default's,
    ``elsewhere`` the attacks of which some columns are in their own section.
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
    elsewhere: tuple[str, ...] = ()


def main_table(
    id_dataset: str, cells: Iterable[Cell], absences: Iterable[Absence], groups: Groups | None = None
) -> MainTable:
    """Models × methods by OOD sets, of one ID data set.

    Parameters
    ----------
    groups : mapping of str to sequence of ``"name/split"``, optional
        OOD sets by benchmark group (near, far). A group of several gets a column with their mean, before the sets;
        only rows with all of its sets have a number there. Without groups three sets or more get one over all.
    """
    here, elsewhere = in_main_table(cell for cell in cells if cell.id_dataset == id_dataset)
    absent = [absence for absence in absences if absence.id_dataset == id_dataset]
    averaged = means(here)
    slots = _slots(here, averaged, groups or {})
    footnotes = tuple(dict.fromkeys(f"{absence.label}: {absence.reason}" for absence in absent))
    sheet = _Sheet(averaged, slots, footnotes)
    models = tuple(
        (model, sheet.rows(model, [absence for absence in absent if absence.model == model]))
        for model in sorted({cell.model for cell in here} | {absence.model for absence in absent})
    )
    terms = {cell.method for cell in here} | {cell.score for cell in here} | {absence.method for absence in absent}
    rows = [row for _, rows in models for row in rows]
    numbers = [number for row in rows for number in row.numbers]
    return MainTable(
        id_dataset=id_dataset,
        columns=tuple(slot.column for slot in slots),
        models=models,
        footnotes=footnotes,
        glossary=tuple(glossary(terms)),
        has_gaps=any(number.text == DASH for row in rows if not row.footnote for number in row.numbers),
        seeds=over_seeds(averaged),
        has_spread=any(number.spread for number in numbers),
        has_intervals=any(number.interval for number in numbers),
        has_variants=any(cell.variant for cell in here) or any(absence.variant for absence in absent),
        conventions=tuple(sorted({mean.metrics for mean in averaged} - {DEFAULT_METRICS})),
        elsewhere=tuple(elsewhere),
    )


@dataclass(frozen=True)
class _Slot:
    """A column, and what stands in it."""

    column: Column
    means: Mapping[RowKey, Mean]


def _slots(cells: Sequence[Cell], averaged: Sequence[Mean], groups: Groups) -> list[_Slot]:
    """The means over groups first, where a narrow screen shows them; then the sets, group by group."""
    found = []
    for name, over in over_groups(averaged, groups).items():
        # The mean of one set is that set.
        if over[0].sets > 1:
            column = Column(name, f"mean of {count(over[0].sets, 'set')}", is_mean=True)
            found.append(_Slot(column, {mean.row: mean for mean in over}))
    oods = {cell.ood for cell in cells}
    left = attacks(oods)
    # What attacks left comes after all that a reader looks for first.
    for ood, names in sorted(by_group(oods, groups), key=lambda pair: pair[0].partition("/")[0] in left):
        detail = " · ".join(filter(None, [", ".join(names), _size(cells, ood)]))
        mine = {mean.row: mean for mean in averaged if mean.ood == ood}
        found.append(_Slot(Column(dataset_label(ood), detail), mine))
    return found


class _Sheet:
    """The rows of a table, once it is known what they are compared with."""

    def __init__(self, averaged: Sequence[Mean], slots: Sequence[_Slot], footnotes: Sequence[str]) -> None:
        self._first = {mean.row: mean for mean in reversed(averaged)}
        self._slots, self._footnotes = slots, footnotes
        self._best: dict[_Key, float] = {}
        columns: dict[tuple[int, str], set[float]] = {}
        for mean in self._first.values():
            for key, value, _, _ in filter(None, self._values(mean)):
                if value is not None:
                    # As stored: rounding first would make ties that are none.
                    self._best[key] = _better(key)(value, self._best.get(key, value))
                    columns.setdefault(key[:2], set()).add(value)
        self._places = {
            (*column, value): place
            for column, values in columns.items()
            for place, value in enumerate(sorted(values, reverse=column[1] != "fpr95"), start=1)
        }
        self._leaders = _leaders(averaged)

    def rows(self, model: str, absent: Iterable[Absence]) -> tuple[Row, ...]:
        """The rows of one model, those of absent methods in their places."""
        mine = [mean for mean in self._first.values() if mean.model == model]
        found = [(mean.order, self._row(mean)) for mean in mine]
        dashes = (Number(DASH),) * (1 + 2 * len(self._slots))
        for absence in absent:
            number = self._footnotes.index(f"{absence.label}: {absence.reason}") + 1
            order: tuple[RowOrder, str] = (row_order(absence.method, absence.variant, ""), "")
            found.append((order, Row(absence.label, absence.method, dashes, number)))
        found.sort(key=lambda item: item[0])
        rows = [row for _, row in found]
        before = [None, *(row.method for row in rows)]
        return tuple(
            replace(row, begins=previous not in (None, row.method)) for previous, row in zip(before, rows, strict=False)
        )

    def _row(self, mean: Mean) -> Row:
        numbers = tuple(self._number(value) for value in self._values(mean))
        more = mean.row not in self._leaders and not any(number.best for number in numbers[1:])
        return Row(mean.label, mean.method, numbers, more=more)

    def _values(self, row: Mean) -> list[_Value | None]:
        """Accuracy, then AUROC and FPR95 of every column: where the best is found, value, deviation, interval."""
        values: list[_Value | None] = [((-1, "accuracy", ""), row.id_accuracy, None, None)]
        for index, slot in enumerate(self._slots):
            mean = slot.means.get(row.row)
            if mean is None:
                values += [None, None]
                continue
            # Another program's FPR95 is another quantity, and the smaller of two quantities is not the better one.
            values += [
                ((index, "auroc", ""), mean.auroc, mean.spread, mean.auroc_interval),
                ((index, "fpr95", mean.metrics), mean.fpr95, None, mean.fpr95_interval),
            ]
        return values

    def _number(self, found: _Value | None) -> Number:
        if found is None:
            return Number(DASH)
        key, value, spread, interval = found
        if value is None:
            return Number(DASH)
        bounds = "" if interval is None else f"{percent(interval[0])}–{percent(interval[1])}"
        place = self._places[(*key[:2], value)]
        return Number(percent(value), value == self._best[key], _spread(spread), bounds, place)


def _leaders(averaged: Iterable[Mean]) -> set[RowKey]:
    """The best score of each classifier: the highest mean AUROC, of the scores with the most OOD sets.

    What attacks left has no say where a classifier was tested against anything else; where not, the clean images have.
    """
    rows: dict[RowKey, dict[str, float]] = {}
    tested: dict[tuple[str | None, ...], set[str]] = {}
    for mean in averaged:
        by_set = rows.setdefault(mean.row, {})
        if mean.auroc is not None:
            by_set[mean.ood] = mean.auroc
            tested.setdefault(_classifier(mean.row), set()).add(mean.ood)
    left = attacks(ood for oods in tested.values() for ood in oods)
    best: dict[tuple[str | None, ...], tuple[int, float, RowKey]] = {}
    for row, by_set in rows.items():
        key = _classifier(row)
        sets = decisive(tested.get(key, ()), left)
        values = [value for ood, value in by_set.items() if ood in sets]
        worth = (len(values), statistics.fmean(values) if values else 0.0)
        # In reading order, so that the first of equals is the one that is read first.
        if key not in best or worth > best[key][:2]:
            best[key] = (*worth, row)
    return {row for _, _, row in best.values()}


def _classifier(row: RowKey) -> tuple[str | None, ...]:
    _, model, method, variant, _, templates = row
    return (model, method, variant, templates)


def _better(key: _Key) -> Callable[[float, float], float]:
    return min if key[1] == "fpr95" else max


def _spread(value: float | None) -> str:
    """``"± 0.4"``; nothing for what would be ± 0.0, as that of a method that does not depend on the seed."""
    text = percent(value)
    return "" if value is None or float(text) == 0 else f"±\N{NO-BREAK SPACE}{text}"


def _size(cells: Iterable[Cell], ood: str) -> str:
    sizes = {cell.n_ood for cell in cells if cell.ood == ood and cell.n_ood is not None}
    return count(sizes.pop(), "image") if len(sizes) == 1 else ""
