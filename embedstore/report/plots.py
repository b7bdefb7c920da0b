"""The scatter plots: one panel per OOD set, one figure per method, which report.js draws and colours.

Colours are not set here: the page has a light and a dark look, and its style sheet is where both are said.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedstore.report.commands import dataset_label
from embedstore.report.fits import MIN_MODELS, Correlation

# The plot of the paper: the score of the nearest neighbour, which needs neither labels nor text.
DEFAULT_LABEL = "knn · cosine"


@dataclass(frozen=True)
class View:
    """One method in one panel: a Plotly figure, the line above it, and what it shows in words."""

    caption: str
    description: str
    figure: dict[str, Any] | None


@dataclass(frozen=True)
class Panel:
    """One OOD set: its view by method label (``"knn · cosine"``)."""

    ood: str
    views: dict[str, View]


def panels(fits: Sequence[Correlation]) -> list[Panel]:
    """One panel per OOD set of the fits of one ID set, in the order of the OOD names; none where no fit has points."""
    drawn = [fit for fit in fits if len(fit.points) >= MIN_MODELS]
    names = sorted({fit.ood for fit in drawn})
    labels = {fit.label for fit in drawn}
    found = {(fit.ood, fit.label): fit for fit in fits if fit.label in labels}
    return [Panel(name, {fit.label: _view(fit) for (ood, _), fit in found.items() if ood == name}) for name in names]


def first_label(panels: Sequence[Panel]) -> str:
    """The method that the page opens with: 1-NN where it is drawn, else the first in reading order."""
    labels = [label for panel in panels for label, view in panel.views.items() if view.figure is not None]
    return DEFAULT_LABEL if DEFAULT_LABEL in labels else labels[0]


def _view(fit: Correlation) -> View:
    if len(fit.points) < MIN_MODELS:
        return View("not available", fit.reason or "", None)
    caption = f"R² {fit.r_squared:.2f}" if fit.r_squared is not None else "no R²"
    description = (
        f"Scatter plot of {len(fit.points)} models: ID accuracy on {fit.id_dataset} against the AUROC of {fit.label} "
        f"on {dataset_label(fit.ood)}. {fit.reason or caption}. The numbers are in the table that follows."
    )
    return View(caption, description, _figure(fit))


def _figure(fit: Correlation) -> dict[str, Any]:
    from plotly import graph_objects as go

    x = [100 * point.id_accuracy for point in fit.points]
    figure = []
    if fit.slope is not None and fit.intercept is not None:
        ends = [min(x), max(x)]
        line = [100 * fit.intercept + fit.slope * end for end in ends]
        figure.append(go.Scatter(x=ends, y=line, mode="lines", hoverinfo="skip", name="least squares"))
    figure.append(
        go.Scatter(
            x=x,
            y=[100 * point.auroc for point in fit.points],
            # Plotly reads its texts as HTML, so a name has to be escaped to be seen as it is; it knows no &quot;.
            text=[html.escape(point.model, quote=False) for point in fit.points],
            mode="markers",
            name="models",
            hovertemplate="<b>%{text}</b><br>ID accuracy %{x:.1f}<br>AUROC %{y:.1f}<extra></extra>",
        )
    )
    layout = go.Layout(xaxis_title="ID accuracy, 20-NN (%)", yaxis_title="AUROC (%)")
    return {"data": [trace.to_plotly_json() for trace in figure], "layout": layout.to_plotly_json()}
