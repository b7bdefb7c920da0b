"""The report for people: one HTML file that needs nothing else, no network and no server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from embedstore.report.commands import commands, dataset_label
from embedstore.report.content import Content
from embedstore.report.main_table import main_table
from embedstore.report.plots import Panel, first_label, panels
from embedstore.report.summary import listing, outdated, sentences
from embedstore.report.views import (
    PROVENANCE_COLUMNS,
    absent_methods,
    fit_table,
    libraries,
    point_tables,
    provenance_rows,
)


def render(content: Content, title: str | None = None) -> str:
    """The page.

    Every name in it is text: Jinja2 escapes what goes into markup, :func:`script_json` what goes into a script.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    datasets = content.datasets
    sections = [_relation(number, name, content) for number, name in enumerate(datasets)]
    drawn = {panel["element"]: panel["views"] for section in sections for panel in section["panels"]}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_file("page.html"))
    return template.render(
        title=title or default_title(datasets),
        summary=sentences(content),
        tables=[main_table(name, content.cells, content.absences) for name in datasets],
        relations=sections,
        absent=absent_methods(content.absences),
        notes=content.notes,
        outdated=outdated(content),
        superseded=content.superseded,
        provenance_columns=PROVENANCE_COLUMNS,
        provenance=provenance_rows(content),
        libraries=libraries(content.models),
        commands=commands(content),
        content=content,
        # Our own files and plotly's: the only things on the page that are not escaped.
        style=Markup(_file("style.css")),  # noqa: S704
        script=Markup(_file("report.js")) if drawn else None,  # noqa: S704
        plotly=Markup(_plotly()) if drawn else None,  # noqa: S704
        figures=Markup(script_json(drawn)),  # noqa: S704
    )


def default_title(datasets: list[str]) -> str:
    """``"Out-of-distribution detection on cifar10"``."""
    return f"Out-of-distribution detection on {listing(datasets)}" if datasets else "Out-of-distribution detection"


def script_json(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _relation(number: int, id_dataset: str, content: Content) -> dict[str, Any]:
    """What the R² section says about one ID data set."""
    fits = [fit for fit in content.correlations if fit.id_dataset == id_dataset]
    drawn = panels(fits)
    labels = list(dict.fromkeys(label for panel in drawn for label in panel.views))
    return {
        "id_dataset": id_dataset,
        "element": f"relation-{number}",
        "fits": fit_table(fits),
        "panels": [_panel(f"plot-{number}-{index}", panel) for index, panel in enumerate(drawn)],
        "columns": _columns(len(drawn)),
        "labels": labels,
        "first": first_label(drawn) if drawn else None,
        "points": [table for table in point_tables(fits) if table.label in labels],
    }


def _columns(panels: int) -> int:
    """How many panels stand side by side where there is room: up to four, and no last row of a single one."""
    if panels <= 4:
        return max(2, panels)
    return 3 if panels % 3 == 0 or panels % 4 == 1 else 4


def _panel(element: str, panel: Panel) -> Mapping[str, Any]:
    return {
        "element": element,
        "label": dataset_label(panel.ood),
        "views": {label: asdict(view) for label, view in panel.views.items()},
    }


def _file(name: str) -> str:
    return files("embedstore.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
