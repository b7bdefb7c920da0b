"""How much labels help: accuracy and AUROC against the number of training images a class (``shots``)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedstore.report.names import label, named, options, row_order
from embedstore.report.plots import Drawing, View, drawing, plain
from embedstore.report.summary import count, percent
from embedstore.report.table import Cell

ALL = "all"

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


def few_shot(cells: Iterable[Cell]) -> list[FewShot]:
    """One per ID set with results of several numbers of shots."""
    cells = list(cells)
    found = []
    for number, name in enumerate(sorted({cell.id_dataset for cell in cells})):
        here = [cell for cell in cells if cell.id_dataset == name]
        families = {_family(cell) for cell in here if "shots" in options(cell.variant)}
        here = [cell for cell in here if _family(cell) in families]
        oods = {cell.ood for cell in here}
        by_model = {model: lines([cell for cell in here if cell.model == model], oods) for model in _in_order(here)}
        by_model = {model: drawn for model, drawn in by_model.items() if drawn}
        if by_model:
            found.append(_section(f"shots-{number}", name, by_model, len(oods)))
    return found


def lines(cells: Sequence[Cell], oods: Iterable[str]) -> list[Line]:
    """The methods of one model with at least two numbers of shots, in reading order; of each its best score."""
    wanted = set(oods)
    groups: dict[tuple[_Family, str], dict[str, dict[int | None, dict[str, Cell]]]] = {}
    for cell in cells:
        shots = options(cell.variant).get("shots", ALL)
        by_seed = groups.setdefault((_family(cell), cell.score), {}).setdefault(shots, {})
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
    best = [max(by_score.values(), key=_total) for _, by_score in sorted(found.items(), key=_place)]
    return [line for line in best if len(line.auroc) > 1 or len(line.accuracy) > 1]


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
