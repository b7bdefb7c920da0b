"""The report for people: one HTML file that needs nothing else, no network and no server."""

from __future__ import annotations

import json
from importlib.resources import files

from embedstore.report.choice import MOST_METHODS
from embedstore.report.commands import commands, dataset_label
from embedstore.report.compare import Comparison
from embedstore.report.completeness import STATE_COLUMNS, state_rows, warning
from embedstore.report.content import Content
from embedstore.report.distributions import BINS, MOST_POINTS
from embedstore.report.findings import findings
from embedstore.report.main_table import main_table
from embedstore.report.sections import sections
from embedstore.report.summary import listing, outdated, paragraphs, percent
from embedstore.report.views import (
    PROVENANCE_COLUMNS,
    absent_methods,
    libraries,
    provenance_rows,
)


def render(content: Content, title: str | None = None, comparison: Comparison | None = None) -> str:
    """The page.

    Every name in it is text: Jinja2 escapes what goes into markup, :func:`script_json` what goes into a script.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    datasets = content.datasets
    found = sections(content)
    drawn = {element: views for whole in found.drawings for element, views in whole.figures().items()}
    environment = Environment(
        loader=FunctionLoader(_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html")
    return template.render(
        title=title or default_title(datasets),
        summary=paragraphs(content),
        findings=findings(content),
        tables=[main_table(name, content.cells, content.absences, content.groups) for name in datasets],
        sections=found,
        most=MOST_METHODS,
        points=MOST_POINTS,
        bins=BINS,
        percent=percent,
        listing=listing,
        dataset_label=dataset_label,
        warning=warning(content.states),
        states=state_rows(content.states),
        state_columns=STATE_COLUMNS,
        absent=absent_methods(content.absences),
        notes=content.notes,
        outdated=outdated(content),
        superseded=content.superseded,
        provenance_columns=PROVENANCE_COLUMNS,
        provenance=provenance_rows(content),
        libraries=libraries(content.models),
        commands=commands(content, title, comparison.option if comparison else None),
        content=content,
        comparison=comparison,
        # Our own files and plotly's: the only things on the page that are not escaped.
        style=Markup(_file("style.css") + _file("table.css")),  # noqa: S704
        script=Markup((_file("report.js") if drawn else "") + _file("table.js") + _file("open.js")),  # noqa: S704
        plotly=Markup(_plotly()) if drawn else None,  # noqa: S704
        figures=Markup(script_json(drawn)),  # noqa: S704
    )


def default_title(datasets: list[str]) -> str:
    """``"Out-of-distribution detection on cifar10"``."""
    return f"Out-of-distribution detection on {listing(datasets)}" if datasets else "Out-of-distribution detection"


def script_json(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return files("embedstore.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
