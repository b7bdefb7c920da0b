"""Accuracy and AUROC against what a model costs: parameters of its image tower, operations an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from embedstore.records import Provenance
from embedstore.report.attacked import ordinary, which_models
from embedstore.report.commands import dataset_label
from embedstore.report.lacks import NO_AUROC, Lack, some
from embedstore.report.means import Mean, means
from embedstore.report.plots import DEFAULT_LABEL, Drawing, View, drawing, plain
from embedstore.report.summary import DASH, count, listing, percent
from embedstore.report.table import Cell

FEWEST_MODELS = 2
_MOST_TICKS = 6  # that a panel has room for
_SIZE = "against the size and cost of the models"


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


def scaling(cells: Iterable[Cell], models: Mapping[str, Provenance | None]) -> tuple[list[Scaling], list[Lack]]:
    """One per ID set with at least two models whose size or cost is known; and what is left out of each, and why."""
    every = means(cells)
    averaged = ordinary(every)
    found, lacks = [], list[Lack]()
    for number, name in enumerate(sorted({mean.id_dataset for mean in averaged})):
        here = [mean for mean in averaged if mean.id_dataset == name]
        drawn = _row([mean for mean in here if mean.auroc is not None])
        costs = [_cost(model, models.get(model), those) for model, those in _by_model(drawn).items()]
        panels = _panels(name, costs)
        if panels:
            oods = len({mean.ood for mean in drawn})
            whole = drawing(f"cost-{number}", "", panels)
            found.append(Scaling(name, drawn[0].label, drawn[0].classifier, oods, whole, tuple(costs)))
        which = which_models([mean for mean in every if mean.id_dataset == name], here)
        lacks += _lacks(name, here, drawn, costs, models, which)
    return found, lacks


def _lacks(
    id_dataset: str,
    here: Sequence[Mean],
    drawn: Sequence[Mean],
    costs: Sequence[Cost],
    models: Mapping[str, Provenance | None],
    which: str,
) -> Iterable[Lack]:
    everyone = sorted({mean.model for mean in here})
    what = f"accuracy and AUROC {_SIZE}"
    if not drawn:
        yield Lack(id_dataset, what, NO_AUROC)
    elif len(everyone) < FEWEST_MODELS:
        one = f"there is one model{which}, {everyone[0]}, and it takes two"
        yield Lack(id_dataset, what, f"{one}; `embedstore extract --model` embeds with another")
    else:
        reasons = [*_untested(everyone, drawn, costs), *_unrecorded(costs, models)]
        if _pairs(costs):
            yield from (Lack(id_dataset, f"{what}, for {some(which)}", why) for which, why in reasons)
            yield from _no_accuracy(id_dataset, drawn, costs)
        else:
            said = "; ".join(f"of {some(which)} {why}" for which, why in reasons)
            yield Lack(id_dataset, what, f"it takes two models, and {said}")


def _untested(everyone: Iterable[str], drawn: Sequence[Mean], costs: Iterable[Cost]) -> Iterable[tuple[list[str], str]]:
    """Models without the score on some OOD set, and what they lack."""
    compared = {cost.model for cost in costs}
    by_lack: dict[tuple[str, ...], list[str]] = {}
    for model in everyone:
        if model not in compared:
            lacking = {mean.ood for mean in drawn} - {mean.ood for mean in drawn if mean.model == model}
            by_lack.setdefault(tuple(sorted(lacking)), []).append(model)
    for oods, which in by_lack.items():
        yield which, f"there is no AUROC of {drawn[0].label} against {listing(map(dataset_label, oods))}"


def _unrecorded(costs: Iterable[Cost], models: Mapping[str, Provenance | None]) -> Iterable[tuple[list[str], str]]:
    """Models of which parameters or operations are not known, and why."""
    by_lack: dict[tuple[bool, str], list[str]] = {}
    for cost in costs:
        known = {"parameters": cost.parameters, "GFLOPs": cost.gflops}
        lacking = " or ".join(name for name, value in known.items() if value is None)
        if lacking:
            by_lack.setdefault((models.get(cost.model) is None, lacking), []).append(cost.model)
    for (elsewhere, lacking), which in by_lack.items():
        if elsewhere:
            yield which, "the store holds results alone, without the provenance that has their size"
        else:
            advice = "`embedstore extract` into a new store records them"
            yield which, f"no {lacking} are recorded, as by early versions; {advice}"


def _no_accuracy(id_dataset: str, drawn: Sequence[Mean], costs: Sequence[Cost]) -> Iterable[Lack]:
    without = [cost.model for cost in costs if cost.accuracy is None]
    if without:
        which = f", for {some(without)}" if any(y == "accuracy" for _, y in _pairs(costs)) else ""
        why = f"{drawn[0].classifier} has no ID accuracy there, which takes labels of the ID images"
        yield Lack(id_dataset, f"ID accuracy {_SIZE}{which}", why)


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


_ACROSS = {"parameters": "parameters (millions)", "gflops": "GFLOPs an image"}
_UP = {"accuracy": "ID accuracy", "auroc": "AUROC"}


def _pairs(costs: Sequence[Cost]) -> dict[tuple[str, str], list[tuple[str, float, float]]]:
    """Points by the two quantities, those that two models have."""
    found = {}
    for x in _ACROSS:
        for y in _UP:
            points = [(cost.model, getattr(cost, x), getattr(cost, y)) for cost in costs]
            known = [point for point in points if point[1] is not None and point[2] is not None]
            if len(known) >= FEWEST_MODELS:
                found[x, y] = known
    return found


def _panels(id_dataset: str, costs: Sequence[Cost]) -> dict[str, dict[str, View]]:
    """A panel for each pair of quantities that two models have."""
    return {
        f"{_UP[y]} against {'size' if x == 'parameters' else 'cost'}": {
            "": _view(id_dataset, points, _ACROSS[x], _UP[y])
        }
        for (x, y), points in _pairs(costs).items()
    }


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
