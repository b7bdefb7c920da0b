"""How much labels help: accuracy and AUROC against the number of training images a class (``shots``)."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedstore.report.attacked import ordinary
from embedstore.report.commands import dataset_label
from embedstore.report.lacks import Lack, some
from embedstore.report.names import label, named, options, row_order
from embedstore.report.plots import Drawing, View, drawing, plain
from embedstore.report.summary import count, listing, percent
from embedstore.report.table import Cell

ALL = "all"
_WHAT = "accuracy and AUROC against the number of training images a class"

_Family = tuple[str, str, str]  # method, variant without its shots, template set ("" where none is read)


@dataclass(frozen=True)
class Value:
    """Mean over ``seeds`` seeds, and their sample standard deviation: None for a single one. Fractions in [0, 1]."""

    mean: float
    spread: float | None
    seeds: int

    @property
    def text(self) -> str:
        """``"71.2 ± 0.4"``, in percent."""
        spread = "" if self.spread is None else f" ± {percent(self.spread)}"
        return percent(self.mean) + spread


@dataclass(frozen=True)
class Line:
    """One method of one model: accuracy and AUROC (mean over ``oods``) by shots (``"1"``, ``"16"``, ``"all"``)."""

    label: str
    accuracy: Mapping[str, Value]
    auroc: Mapping[str, Value]

    @property
    def drawn(self) -> bool:
        """Whether there are two numbers of shots to draw a line through."""
        return len(self.auroc) > 1 or len(self.accuracy) > 1


@dataclass(frozen=True)
class FewShot:
    """One ID set. ``tables`` is by model: for each line its label and the texts under ``shots``, AUROC after accuracy.

    ``oods`` counts the OOD sets that AUROCs are means over, ``seeds`` the most seeds of any value.
    """

    id_dataset: str
    drawing: Drawing
    shots: tuple[str, ...]
    tables: tuple[tuple[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]], ...]
    oods: int
    seeds: int


def few_shot(cells: Iterable[Cell]) -> tuple[list[FewShot], list[Lack]]:
    """One per ID set with results of several numbers of shots; and what is left out of each, and why."""
    cells = ordinary(cells)
    found, lacks = [], list[Lack]()
    for number, name in enumerate(sorted({cell.id_dataset for cell in cells})):
        here = [cell for cell in cells if cell.id_dataset == name]
        families = {_family(cell) for cell in here if "shots" in options(cell.variant)}
        here = [cell for cell in here if _family(cell) in families]
        oods = {cell.ood for cell in here}
        by_family = {model: _lines([cell for cell in here if cell.model == model], oods) for model in _in_order(here)}
        by_model = {model: [line for line in known.values() if line.drawn] for model, known in by_family.items()}
        by_model = {model: drawn for model, drawn in by_model.items() if drawn}
        if by_model:
            found.append(_section(f"shots-{number}", name, by_model, len(oods)))
        lacks += _lacks(name, here, by_family)
    return found, lacks


def _lines(cells: Sequence[Cell], oods: Iterable[str]) -> dict[_Family, Line]:
    """The methods of one model in reading order, of each its best score."""
    wanted = set(oods)
    groups: dict[tuple[_Family, str], dict[str, dict[int | None, dict[str, Cell]]]] = {}
    for cell in cells:
        by_seed = groups.setdefault((_family(cell), cell.score), {}).setdefault(_shots(cell), {})
        by_seed.setdefault(cell.seed, {})[cell.ood] = cell
    found: dict[_Family, dict[str, Line]] = {}
    for (family, score), by_shots in groups.items():
        accuracy, auroc = {}, {}
        for shots, by_seed in by_shots.items():
            whole = [list(by_ood.values()) for by_ood in by_seed.values() if set(by_ood) == wanted]
            accuracy[shots] = _value([group[0].id_accuracy for group in whole])
            auroc[shots] = _value([_mean([cell.auroc for cell in group]) for group in whole])
        line = Line(_label(family, score, cells), _known(accuracy), _known(auroc))
        found.setdefault(family, {})[score] = line
    return {family: max(by_score.values(), key=_total) for family, by_score in sorted(found.items(), key=_place)}


def _lacks(id_dataset: str, here: Sequence[Cell], by_family: Mapping[str, Mapping[_Family, Line]]) -> Iterable[Lack]:
    """Of methods that were trained on some images of each class: what of them is not drawn."""
    if not here:
        yield Lack(
            id_dataset,
            _WHAT,
            "no method in this report was trained on some images of each class only; `embedstore probe --shots N` adds "
            "that, with --shots once for each number",
        )
        return
    groups: dict[tuple[str, _Family], list[Cell]] = {}
    for cell in here:
        groups.setdefault((cell.model, _family(cell)), []).append(cell)
    reasons: dict[str, list[str]] = {}
    for (model, family), cells in groups.items():
        for why in _why_not(cells, by_family[model][family], {cell.ood for cell in here}):
            reasons.setdefault(why, []).append(f"{_label(family, '', here)} of {model}")
    everything = len(reasons) == 1 and not any(line.drawn for known in by_family.values() for line in known.values())
    for why, which in reasons.items():
        yield Lack(id_dataset, _WHAT + ("" if everything else f", for {some(which)}"), why)


def _why_not(cells: Sequence[Cell], line: Line, oods: Collection[str]) -> Iterable[str]:
    """Of one method of one model: why there is no line, or a number of training images has no place on it."""
    numbers = sorted({_shots(cell) for cell in cells}, key=_size)
    if len(numbers) == 1:
        images = "all of them" if numbers == [ALL] else numbers[0]
        yield f"there is one number of training images a class only, {images}; `embedstore probe --shots N` adds others"
        return
    for number in numbers:
        if number not in line.accuracy and number not in line.auroc:
            images = "all training images" if number == ALL else f"{number} training images a class"
            lacking = sorted(set(oods) - {cell.ood for cell in cells if _shots(cell) == number})
            if lacking:
                yield f"with {images} there are no results against {listing(map(dataset_label, lacking))}"
            else:
                yield f"with {images} no seed has an ID accuracy or an AUROC on all OOD sets"


def _shots(cell: Cell) -> str:
    return options(cell.variant).get("shots", ALL)


def _known(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {shots: value for shots, value in values.items() if value is not None}


def _total(line: Line) -> float:
    return sum(value.mean for value in line.auroc.values())


def _place(item: tuple[_Family, object]) -> tuple[object, ...]:
    method, variant, templates = item[0]
    return (row_order(method, variant, ""), templates)


def _in_order(cells: Iterable[Cell]) -> list[str]:
    """Models, those with the best mean AUROC first: the page opens with one of them."""
    aurocs: dict[str, list[float]] = {}
    for cell in cells:
        aurocs.setdefault(cell.model, []).append(cell.auroc or 0.0)
    return sorted(aurocs, key=lambda model: (-statistics.fmean(aurocs[model]), model))


def _family(cell: Cell) -> _Family:
    rest = ", ".join(f"{name}={value}" for name, value in options(cell.variant).items() if name != "shots")
    return (cell.method, rest, cell.templates or "")


def _label(family: _Family, score: str, cells: Iterable[Cell]) -> str:
    method, variant, templates = family
    several = len({cell.templates for cell in cells if cell.templates}) > 1
    return label(named(method, variant), score, templates if several and templates else None)


def _value(values: Iterable[float | None]) -> Value | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Value(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _section(element: str, id_dataset: str, by_model: Mapping[str, Sequence[Line]], oods: int) -> FewShot:
    every = [line for drawn in by_model.values() for line in drawn]
    values = [value for line in every for by_shots in (line.accuracy, line.auroc) for value in by_shots.values()]
    shots = sorted({key for line in every for key in (*line.accuracy, *line.auroc)}, key=_size)
    up = f"AUROC, mean over {count(oods, 'OOD set')}" if oods > 1 else "AUROC"
    panels = {
        "ID accuracy": {model: _view(model, id_dataset, "ID accuracy", drawn) for model, drawn in by_model.items()},
        up: {model: _view(model, id_dataset, "AUROC", drawn) for model, drawn in by_model.items()},
    }
    tables = tuple(
        (model, tuple((line.label, _texts(line.accuracy, shots), _texts(line.auroc, shots)) for line in drawn))
        for model, drawn in by_model.items()
    )
    whole = drawing(element, "Model", panels)
    return FewShot(id_dataset, whole, tuple(shots), tables, oods, max(value.seeds for value in values))


def _size(shots: str) -> tuple[bool, float]:
    return (shots == ALL, float(shots) if shots.isdecimal() else 0.0)


def _texts(values: Mapping[str, Value], shots: Iterable[str]) -> tuple[str, ...]:
    return tuple(values[key].text if key in values else percent(None) for key in shots)


def _view(model: str, id_dataset: str, what: str, drawn: Sequence[Line]) -> View:
    from plotly import graph_objects as go

    traces: list[Any] = []
    for number, line in enumerate(drawn):
        by_shots = line.accuracy if what == "ID accuracy" else line.auroc
        points = sorted(by_shots.items(), key=lambda item: _size(item[0]))
        if points:
            spreads = [100 * (value.spread or 0.0) for _, value in points]
            traces.append(
                go.Scatter(
                    x=[shots for shots, _ in points],
                    y=[100 * value.mean for _, value in points],
                    error_y={"type": "data", "array": spreads, "visible": any(spreads)},
                    text=[plain(f"{line.label}: {value.text} %") for _, value in points],
                    hovertemplate="%{text}<extra></extra>",
                    mode="lines+markers",
                    meta=f"series {number}",
                )
            )
    if not traces:
        return View("not available", f"There is no {what} for {model}.", None)
    every = sorted({shots for trace in traces for shots in trace.x}, key=_size)
    layout = go.Layout(
        # Numbers of shots double from one to the next, and "all" is no number: evenly spaced names.
        xaxis={"type": "category", "categoryarray": every, "title": {"text": "training images a class"}},
        yaxis={"title": {"text": f"{what} (%)"}},
    )
    description = (
        f"Lines: {what} of {count(len(traces), 'method')} of {model} on {id_dataset} against the number of training "
        f"images a class, from {every[0]} to {every[-1]}. The numbers are in the table that follows."
    )
    return View("", description, {"data": [t.to_plotly_json() for t in traces], "layout": layout.to_plotly_json()})
