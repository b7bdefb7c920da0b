"""Panels of plots that a menu changes, which report.js draws; and the scatter plots of R², a panel per OOD set.

Colours are not set here: the page has a light and a dark look, and its style sheet is where both are said. A trace says
in ``meta`` what it is (``"points"``, ``"fit"``, ``"series"`` and its number, ``"id"``, ``"ood"``).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.report.commands import dataset_label
from embedstore.report.fits import MIN_MODELS, Correlation

# The plot of the paper: the score of the nearest neighbour, which needs neither labels nor text.
DEFAULT_LABEL = "knn · cosine"

_BAND = 15  # places at which the band's edges, which are curved, are computed
_DECIMALS = 4  # of a percent: all that can be seen, and a page has tens of thousands of numbers


@dataclass(frozen=True)
class View:
    """What a panel shows of one choice: a Plotly figure, the line above it, and what it shows in words.

    Without a figure the description says why.
    """

    caption: str
    description: str
    figure: dict[str, Any] | None


@dataclass(frozen=True)
class Panel:
    """One OOD set: its view by method label (``"knn · cosine"``)."""

    ood: str
    views: dict[str, View]


@dataclass(frozen=True)
class Placed:
    """A panel on the page: the id of its element, its heading, and its view by choice."""

    element: str
    title: str
    views: Mapping[str, View]


@dataclass(frozen=True)
class Drawing:
    """Panels that one menu changes together.

    ``menu`` is what the menu chooses ("Method"); there is none where there is one choice. ``columns`` is how many stand
    side by side where there is room.
    """

    element: str
    menu: str
    choices: tuple[str, ...]
    first: str
    panels: tuple[Placed, ...]
    columns: int

    def figures(self) -> dict[str, dict[str, Any]]:
        """For report.js: ``{element of the panel: {choice: view}}``."""
        return {panel.element: {choice: asdict(view) for choice, view in panel.views.items()} for panel in self.panels}


def drawing(element: str, menu: str, titled: Mapping[str, Mapping[str, View]], first: str | None = None) -> Drawing:
    """Panels by their titles, placed under an id that nothing else on the page has; opens with ``first``."""
    choices = tuple(dict.fromkeys(choice for views in titled.values() for choice in views))
    placed = tuple(
        Placed(f"{element}-plot-{number}", title, views) for number, (title, views) in enumerate(titled.items())
    )
    return Drawing(element, menu, choices, choices[0] if first is None else first, placed, side_by_side(len(placed)))


def side_by_side(panels: int) -> int:
    """How many panels stand side by side where there is room: up to four, and no last row of a single one."""
    if panels <= 4:
        return max(2, panels)
    return 3 if panels % 3 == 0 or panels % 4 == 1 else 4


def plain(text: str) -> str:
    """A name as Plotly shows it: it reads its texts as HTML, and knows no &quot;."""
    return html.escape(text, quote=False)


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
    if fit.line is None or fit.interval is None:
        return View("no R²", _described(fit, fit.reason or "no R²"), _figure(fit, None))
    x = [point.id_accuracy for point in fit.points]
    low, high = fit.interval
    falls = ", falling" if fit.falls else ""
    caption = f"R² {fit.line.r_squared:.2f} ({low:.2f}–{high:.2f}){falls}"
    at = np.linspace(min(x), max(x), _BAND)
    below, above = fit.line.band(at)
    band = 100 * np.stack((np.append(at, at[::-1]), np.append(below, above[::-1])), axis=1)
    return View(caption, _described(fit, f"{caption}, with its 95 % interval"), _figure(fit, band))


def _described(fit: Correlation, finding: str) -> str:
    return (
        f"Scatter plot of {len(fit.points)} models: ID accuracy on {fit.id_dataset} against the AUROC of {fit.label} "
        f"on {dataset_label(fit.ood)}. {finding}. The numbers are in the table that follows."
    )


def _figure(fit: Correlation, band: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    """``band`` is the (M, 2) outline of where the true line lies, in percent."""
    from plotly import graph_objects as go

    x = [_percent(point.id_accuracy) for point in fit.points]
    y = [_percent(point.auroc) for point in fit.points]
    figure = []
    if fit.line is not None:
        ends = [min(x), max(x)]
        line = [_percent(fit.line.intercept + fit.line.slope * end / 100) for end in ends]
        figure.append(go.Scatter(x=ends, y=line, mode="lines", hoverinfo="skip", name="least squares", meta="fit"))
    figure.append(
        go.Scatter(
            x=x,
            y=y,
            text=[plain(point.model) for point in fit.points],
            mode="markers",
            name="models",
            meta="points",
            hovertemplate="<b>%{text}</b><br>ID accuracy %{x:.1f}<br>AUROC %{y:.1f}<extra></extra>",
        )
    )
    # The band of few models is wider than any plot, so the points set the axis.
    margin = 0.12 * (max(y) - min(y)) or 1.0
    layout = go.Layout(
        xaxis_title="ID accuracy, 20-NN (%)",
        yaxis_title="AUROC (%)",
        yaxis_range=[min(y) - margin, max(y) + margin],
        shapes=[] if band is None else [{"type": "path", "path": _path(band), "layer": "below", "line": {"width": 0}}],
    )
    return {"data": [trace.to_plotly_json() for trace in figure], "layout": layout.to_plotly_json()}


def _percent(fraction: float) -> float:
    return round(100 * fraction, _DECIMALS)


def _path(outline: npt.NDArray[np.float64]) -> str:
    return "M" + " L".join(f"{x:.2f},{y:.2f}" for x, y in outline.tolist()) + " Z"
