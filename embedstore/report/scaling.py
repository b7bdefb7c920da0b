"""Accuracy and AUROC against what a model costs: parameters of its image tower, operations an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from embedstore.records import Provenance
from embedstore.report.means import Mean, means
from embedstore.report.plots import DEFAULT_LABEL, Drawing, View, drawing, plain
from embedstore.report.summary import DASH, count, percent
from embedstore.report.table import Cell

FEWEST_MODELS = 2
_MOST_TICKS = 6  # that a panel has room for


@dataclass(frozen=True)
class Cost:
    """One model: parameters in millions and 1e9 operations an image, None if unknown; accuracy and AUROC in [0, 1]."""

    model: str
    parameters: float | None
    gflops: float | None
    accuracy: float | None
    auroc: float | None

    @property
    def texts(self) -> tuple[str, ...]:
        """For the table: millions of parameters, 1e9 operations, percent, percent."""
        sizes = (DASH if value is None else f"{value:,.3g}" for value in (self.parameters, self.gflops))
        return (*sizes, percent(self.accuracy), percent(self.auroc))


@dataclass(frozen=True)
class Scaling:
    """One ID set.

    ``label`` names the score whose AUROC, the mean over ``oods`` OOD sets, is drawn; ``classifier`` has the accuracy.
    """

    id_dataset: str
    label: str
    classifier: str
    oods: int
    drawing: Drawing
    costs: tuple[Cost, ...]


def scaling(cells: Iterable[Cell], models: Mapping[str, Provenance | None]) -> list[Scaling]:
    """One per ID set with at least two models whose size or cost is known."""
    averaged = means(cells)
    found = []
    for number, name in enumerate(sorted({mean.id_dataset for mean in averaged})):
        here = [mean for mean in averaged if mean.id_dataset == name and mean.auroc is not None]
        drawn = _row(here)
        costs = [_cost(model, models.get(model), those) for model, those in _by_model(drawn).items()]
        panels = _panels(name, costs)
        if panels:
            oods = len({mean.ood for mean in drawn})
            whole = drawing(f"cost-{number}", "", panels)
            found.append(Scaling(name, drawn[0].label, drawn[0].classifier, oods, whole, tuple(costs)))
    return found


def _row(here: Sequence[Mean]) -> list[Mean]:
    """The one score that all models are compared by: 1-NN, else the first of those that the most models have."""
    by_label: dict[str, list[Mean]] = {}
    for mean in sorted(here, key=lambda mean: mean.order):
        by_label.setdefault(mean.label, []).append(mean)
    spread = {label: len({mean.model for mean in those}) for label, those in by_label.items()}
    first = max(by_label, key=lambda label: (label == DEFAULT_LABEL, spread[label]), default=None)
    return by_label[first] if first is not None else []


def _by_model(drawn: Sequence[Mean]) -> dict[str, list[Mean]]:
    """Models that have the score on every OOD set of it: means over other sets cannot be compared."""
    every = {mean.ood for mean in drawn}
    by_model: dict[str, list[Mean]] = {}
    for mean in sorted(drawn, key=lambda mean: mean.model):
        by_model.setdefault(mean.model, []).append(mean)
    return {model: those for model, those in by_model.items() if {mean.ood for mean in those} == every}


def _cost(model: str, made: Provenance | None, those: Sequence[Mean]) -> Cost:
    parameters = None if made is None or not made.parameters else made.parameters / 1e6
    gflops = None if made is None or not made.gflops else made.gflops
    auroc = fmean(mean.auroc for mean in those if mean.auroc is not None)
    return Cost(model, parameters, gflops, those[0].id_accuracy, auroc)


def _panels(id_dataset: str, costs: Sequence[Cost]) -> dict[str, dict[str, View]]:
    """A panel for each pair of quantities that two models have."""
    across = {"parameters": "parameters (millions)", "gflops": "GFLOPs an image"}
    up = {"accuracy": "ID accuracy", "auroc": "AUROC"}
    panels = {}
    for x, x_title in across.items():
        for y, y_title in up.items():
            points = [(cost.model, getattr(cost, x), getattr(cost, y)) for cost in costs]
            known = [point for point in points if point[1] is not None and point[2] is not None]
            if len(known) >= FEWEST_MODELS:
                title = f"{y_title} against {'size' if x == 'parameters' else 'cost'}"
                panels[title] = {"": _view(id_dataset, known, x_title, y_title)}
    return panels


def _view(id_dataset: str, points: Sequence[tuple[str, float, float]], across: str, up: str) -> View:
    from plotly import graph_objects as go

    trace: Any = go.Scatter(
        x=[x for _, x, _ in points],
        y=[100 * y for _, _, y in points],
        text=[plain(model) for model, _, _ in points],
        mode="markers",
        meta="points",
        hovertemplate=f"<b>%{{text}}</b><br>%{{x:.3g}} {across}<br>{up} %{{y:.1f}} %<extra></extra>",
    )
    sizes = [x for _, x, _ in points]
    low, high = min(sizes) / 1.5, max(sizes) * 1.5
    axis = {"type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": _ticks(low, high)}
    layout = go.Layout(xaxis={**axis, "title": {"text": across}}, yaxis={"title": {"text": f"{up} (%)"}})
    description = (
        f"Scatter plot of {count(len(points), 'model')}: {across}, on a logarithmic axis, against {up} on "
        f"{id_dataset}. The numbers are in the table that follows."
    )
    return View("", description, {"data": [trace.to_plotly_json()], "layout": layout.to_plotly_json()})


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends: those that begin with 1, 2 or 5, or with 1 where that would be too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        found = [tick for tick in ticks if low <= tick <= high]
        if len(found) <= _MOST_TICKS:
            break
    return found
