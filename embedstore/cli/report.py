"""``embedstore report``: what `probe` found, as files to look at, to compute with and to print."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from embedstore import errors
from embedstore.cli.options import json_option, quiet_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from embedstore.report.means import Mean
    from embedstore.store import Store

_MOST_MODELS = 5  # that the terminal shows per OOD set


@click.command()
@store_option
@click.option("--out", required=True, metavar="DIR", help="Where report.html and the other files go.")
@click.option("--title", help="The page's heading.")
@click.option("--model", "--models", "models", multiple=True, metavar="MODEL", help="Only this model. Repeatable.")
@click.option(
    "--method",
    "--methods",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="Only this method. Repeatable.",
)
@click.option("--benchmark", metavar="NAME|FILE", help="Only the ID set and OOD sets of a benchmark or your TOML file.")
@click.option(
    "--compare", metavar="STORE|DATE", help="Show what changed from another store, or in this one since a date (UTC)."
)
@json_option
@quiet_option
def report(
    location: str,
    out: str,
    title: str | None,
    models: tuple[str, ...],
    methods: tuple[str, ...],
    benchmark: str | None,
    compare: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write what `probe` found as one HTML page, CSV, JSON, LaTeX tables and figures, with R² over the models.

    docs/report.md says what is in each file.

    \b
    Examples:
      embedstore report --store clip.zarr --out report
      embedstore report --store clip.zarr --out paper --benchmark cifar10 --method knn --method plp
      embedstore report --store clip.zarr --out changes --compare 2026-01-31
    """
    from embedstore.benchmarks import load_benchmark
    from embedstore.cli import console
    from embedstore.encoders import parse_model
    from embedstore.report import write_report
    from embedstore.report.exports import best
    from embedstore.report.narrow import Narrowing
    from embedstore.store import Store

    narrowing = Narrowing(
        models=tuple(parse_model(model).name for model in models),
        methods=methods,
        benchmark=None if benchmark is None else load_benchmark(benchmark),
        asked=benchmark or "",
    )
    other = None if compare is None else _other(compare)
    store = Store.open(location)
    to = console.human(quiet=quiet, as_json=as_json)
    with console.progress(to, "report", unit="files") as advance:
        done = write_report(store, out, title=title, narrowing=narrowing, other=other, progress=advance)
    table = best(done.content.cells)
    _print(to, table)
    for note in done.notes:
        to.print(f"note: {note}", soft_wrap=True, markup=False)
    to.print(f"Report: {done.page}", soft_wrap=True, markup=False)
    if as_json:
        files = [str(path) for path in done.files]
        click.echo(json.dumps({"report": str(done.page), "files": files, "best": [_row(mean) for mean in table]}))


def _other(text: str) -> Store | datetime:
    """A store, or a moment."""
    from embedstore.store import Store

    if not re.match(r"\d{4}-\d{2}-\d{2}", text):
        return Store.open(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise errors.UsageError(
            f"--compare {text}: {error}; a date reads 2026-01-31 or 2026-01-31T18:30, a store of that name ./{text}"
        ) from error


def _print(out: Console, table: Sequence[Mean]) -> None:
    """The best method of each model, a section per ID set and OOD set, percent; of an attack the best when clean."""
    from rich.markup import escape
    from rich.table import Table

    from embedstore.report.attacked import attacks
    from embedstore.report.commands import dataset_label
    from embedstore.report.summary import percent

    if not table:
        return
    shown = Table(title="best method of each model, %", title_justify="left", caption_justify="left")
    if attacks(mean.ood for mean in table):
        shown.caption = "against adversarial images: the method that is best against the clean ones"
    for name in ("ID", "against", "model", "method · score"):
        shown.add_column(name, overflow="fold")
    for name in ("AUROC", "95 % interval", "FPR95"):
        shown.add_column(name, justify="right", no_wrap=True)
    for (id_dataset, ood), group in groupby(table, key=lambda mean: (mean.id_dataset, mean.ood)):
        rows = list(group)
        shown.add_section()
        for mean in rows[:_MOST_MODELS]:
            names = (escape(name) for name in (id_dataset, dataset_label(ood), mean.model, mean.label))
            bounds = "–".join(percent(end) for end in mean.auroc_interval or ())
            shown.add_row(*names, percent(mean.auroc), bounds, percent(mean.fpr95))
        if len(rows) > _MOST_MODELS:
            shown.add_row("", "", f"… and {len(rows) - _MOST_MODELS} more")
    out.print(shown)


def _row(mean: Mean) -> dict[str, Any]:
    names = ("id_dataset", "ood", "model", "method", "variant", "score", "templates", "auroc", "fpr95", "seeds")
    low, high = mean.auroc_interval or (None, None)
    return {**{name: getattr(mean, name) for name in names}, "auroc_low": low, "auroc_high": high}
