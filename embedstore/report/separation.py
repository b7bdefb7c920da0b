"""The section on how far apart ID and OOD images lie: a ROC plot, histograms, and the numbers in a table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedstore.errors import NotAvailable
from embedstore.report.attacked import ordinary
from embedstore.report.choice import MOST_METHODS, Detector
from embedstore.report.commands import dataset_label
from embedstore.report.distributions import ACCEPTED_AT, Curve, scores_against
from embedstore.report.lacks import NO_AUROC, Lack, some
from embedstore.report.means import Mean, means
from embedstore.report.plots import Drawing, View, drawing, side_by_side
from embedstore.report.summary import count, listing, percent
from embedstore.report.table import Cell


@dataclass(frozen=True)
class Legend:
    """A line of the ROC plot: its number, which says its colour, its label, AUROC and shares accepted."""

    series: int
    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Separation:
    """One ID set. The first panel of ``drawing`` holds ROC curves, the others are histograms, a method each.

    ``legends`` is by the label of the OOD set; ``side_by_side`` counts the histograms in a row; ``seeds`` is true where
    one seed of several is drawn.
    """

    id_dataset: str
    model: str
    drawing: Drawing
    side_by_side: int
    legends: tuple[tuple[str, tuple[Legend, ...]], ...]
    columns: tuple[str, ...]
    seeds: bool


def separations(curves: Sequence[Curve]) -> list[Separation]:
    """One per ID set that has curves."""
    names = dict.fromkeys(curve.id_dataset for curve in curves)
    return [
        _separation(f"separation-{number}", [curve for curve in curves if curve.id_dataset == name])
        for number, name in enumerate(names)
    ]


def missing_curves(
    detectors: Mapping[str, Sequence[Detector]], cells: Iterable[Cell], curves: Iterable[Curve]
) -> list[Lack]:
    """Why there are no curves of an ID set, or none of a method or an OOD set; of methods beyond the eighth nothing."""
    chosen = {name: ranked[:MOST_METHODS] for name, ranked in detectors.items()}
    shown = {(curve.id_dataset, curve.label, curve.ood) for curve in curves}
    return missing_scores("ROC curves and histograms of scores", chosen, cells, shown)


def missing_scores(
    what: str,
    chosen: Mapping[str, Sequence[Detector]],
    cells: Iterable[Cell],
    shown: Collection[tuple[str, str, str]],
) -> list[Lack]:
    """Why `what` is not shown of an ID set, a detector or an OOD set.

    Only scores of what is not there are read again: a report should not carry reasons about when there are none.

    Parameters
    ----------
    chosen
        By ID set the detectors that should be shown against every OOD set of it.
    shown
        What is: ID set, label of the detector, and OOD set.
    """
    averaged, lacks = ordinary(means(cells)), []
    for name in sorted({mean.id_dataset for mean in averaged}):
        here = [mean for mean in averaged if mean.id_dataset == name]
        if name not in chosen:
            lacks.append(Lack(name, what, NO_AUROC))
            continue
        oods = sorted({mean.ood for mean in here})
        reasons: dict[str, list[tuple[str, str]]] = {}
        for detector in chosen[name]:
            for ood in oods:
                why = "" if (name, detector.label, ood) in shown else _why_not(detector, ood, here)
                if why:
                    reasons.setdefault(why, []).append((detector.label, ood))
        labels = [detector.label for detector in chosen[name]]
        lacks += [Lack(name, what + _which(pairs, labels, oods), why) for why, pairs in reasons.items()]
    return lacks


def _why_not(detector: Detector, ood: str, here: Sequence[Mean]) -> str:
    """Empty where there is no reason."""
    if ood not in detector.results:
        row = (detector.model, detector.label, ood)
        if any((mean.model, mean.label, mean.ood) == row for mean in here):
            return f"there the AUROC of {detector.model}, the model that is shown, has no value"
        return f"{detector.model}, the model that is shown, was not tested so; `embedstore probe --ood` does that"
    try:
        scores_against(detector, ood)
    except NotAvailable as error:
        return str(error)
    return ""


def _which(pairs: Sequence[tuple[str, str]], labels: Sequence[str], oods: Sequence[str]) -> str:
    """Detectors and OOD sets in words: only the ones that are not all."""
    by_label = {label: [ood for which, ood in pairs if which == label] for label in dict.fromkeys(x for x, _ in pairs)}
    if len(pairs) == len(labels) * len(oods):
        return ""
    alike = {tuple(some_oods) for some_oods in by_label.values()}
    if len(alike) > 1:
        return " of " + some([f"{label}{_against(part, oods) or ' against all'}" for label, part in by_label.items()])
    of = "" if len(by_label) == len(labels) else f" of {some(list(by_label))}"
    return of + _against(next(iter(alike)), oods)


def _against(some_oods: Sequence[str], oods: Sequence[str]) -> str:
    return "" if len(some_oods) == len(oods) else f" against {listing(map(dataset_label, some_oods))}"


def _separation(element: str, curves: Sequence[Curve]) -> Separation:
    # The same colour in every plot.
    series = {label: number for number, label in enumerate(dict.fromkeys(curve.label for curve in curves))}
    by_ood = {ood: [curve for curve in curves if curve.ood == ood] for ood in sorted({curve.ood for curve in curves})}
    panels = {"ROC curves": {dataset_label(ood): _roc(those, series) for ood, those in by_ood.items()}}
    for label in series:
        panels[label] = {dataset_label(ood): _histogram(label, those) for ood, those in by_ood.items()}
    return Separation(
        id_dataset=curves[0].id_dataset,
        model=curves[0].model,
        drawing=drawing(element, "OOD set", panels),
        side_by_side=side_by_side(len(series)),
        legends=tuple((dataset_label(ood), _legends(those, series)) for ood, those in by_ood.items()),
        columns=("AUROC", *(f"at {100 * level:g} %" for level in ACCEPTED_AT)),
        seeds=any(curve.seeds > 1 for curve in curves),
    )


def _legends(curves: Sequence[Curve], series: dict[str, int]) -> tuple[Legend, ...]:
    return tuple(
        Legend(series[curve.label], curve.label, tuple(percent(value) for value in (curve.auroc, *curve.accepted)))
        for curve in curves
    )


def _roc(curves: Sequence[Curve], series: dict[str, int]) -> View:
    from plotly import graph_objects as go

    lines = [
        go.Scatter(
            x=_percents(curve.fpr, 2),
            y=_percents(curve.tpr, 2),
            mode="lines",
            meta=f"series {series[curve.label]}",
            hovertemplate="OOD accepted %{x:.1f} %<br>ID accepted %{y:.1f} %<extra></extra>",
        )
        for curve in curves
    ]
    layout = go.Layout(
        xaxis={"title": {"text": "OOD images accepted (%)"}, "range": [0, 100]},
        yaxis={"title": {"text": "ID images accepted (%)"}, "range": [0, 101]},
    )
    first = curves[0]
    said = f"{first.id_dataset} against {dataset_label(first.ood)}"
    best = max(curves, key=lambda curve: curve.auroc)
    description = (
        f"ROC curves of {count(len(curves), 'score')} of {first.model}: {said}. The largest AUROC is "
        f"{percent(best.auroc)} %, of {best.label}. The numbers are in the table that follows."
    )
    return View(said, description, _plotly(lines, layout))


def _histogram(label: str, curves: Sequence[Curve]) -> View:
    from plotly import graph_objects as go

    curve = next((curve for curve in curves if curve.label == label), None)
    if curve is None:
        return View("not available", "There are no scores of this method for this OOD set.", None)
    caption = f"AUROC {percent(curve.auroc)}"
    if len(curve.centres) == 1:
        return View(caption, "All images have the same score.", None)
    traces = [
        go.Scatter(
            x=[float(f"{centre:.5g}") for centre in curve.centres],
            y=_percents(shares, 2),
            mode="lines",
            fill="tozeroy",
            line_shape="hvh",
            meta=kind,
            hovertemplate=f"%{{y:.1f}} % of the {kind.upper()} images<extra></extra>",
        )
        for kind, shares in (("id", curve.id_share), ("ood", curve.ood_share))
    ]
    layout = go.Layout(
        xaxis={"title": {"text": "score"}, "nticks": 4}, yaxis={"title": {"text": "images (%)"}, "rangemode": "tozero"}
    )
    description = (
        f"Histograms of the score {label} of {curve.model}: {count(curve.n_id, 'ID image')} of {curve.id_dataset} and "
        f"{count(curve.n_ood, 'OOD image')} of {dataset_label(curve.ood)}. {caption} %."
    )
    return View(caption, description, _plotly(traces, layout))


def _percents(values: Sequence[float], digits: int) -> list[float]:
    return [round(100 * value, digits) for value in values]


def _plotly(traces: Sequence[Any], layout: Any) -> dict[str, Any]:
    return {"data": [trace.to_plotly_json() for trace in traces], "layout": layout.to_plotly_json()}
