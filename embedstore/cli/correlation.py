"""``embedstore correlation``: whether better classification goes with better detection."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click

from embedstore import errors
from embedstore.cli.options import json_option

if TYPE_CHECKING:
    from embedstore.correlation import Group
    from embedstore.points import Points, Unit


@click.command()
@click.option("--store", "location", metavar="PATH", help="A feature store that `probe` has written results into.")
@click.option("--csv", "table", metavar="FILE", help="Or published numbers: columns model, accuracy, auroc, or others.")
@click.option("--id", "id_name", metavar="NAME", help="Only this in-distribution data set (with --store).")
@click.option(
    "--accuracy", metavar="METHOD|COLUMN", help="The x axis: ID accuracy of this method (knn), or a column (accuracy)."
)
@click.option("--method", "methods", multiple=True, metavar="METHOD", help="Only these scores' methods. Repeatable.")
@click.option("--metric", default="auroc", show_default=True, help="The y axis: auroc, fpr95, aupr_in, … or a column.")
@click.option(
    "--unit", type=click.Choice(["fraction", "percent"]), help="What the CSV's numbers are; must be given with --csv."
)
@click.option("--family", "families", multiple=True, metavar="NAME=PATTERN", help="As 'clip=ViT-*'. Repeatable.")
@json_option
def correlation(
    location: str | None,
    table: str | None,
    id_name: str | None,
    accuracy: str | None,
    methods: tuple[str, ...],
    metric: str,
    unit: str | None,
    families: tuple[str, ...],
    as_json: bool,
) -> None:
    """Does better classification go with better detection? R² over the models, with intervals and influence.

    \b
    Examples:
      embedstore correlation --store clip.zarr --method knn
      embedstore correlation --csv published.csv --unit percent --accuracy accuracy
    """
    from embedstore.cli import console
    from embedstore.correlation import by_group
    from embedstore.points import read_points, result_points
    from embedstore.store import Store

    if (location is None) == (table is None):
        raise errors.UsageError("give either --store or --csv")
    if table is not None:
        if unit is None:
            raise errors.UsageError("say with --unit whether the numbers of --csv are fraction or percent")
        if id_name is not None or methods:
            raise errors.UsageError("--id and --method choose results of a --store; a --csv is taken as it is")
        of = cast("Unit", unit)
        column = accuracy or "accuracy"
        sets = {"": read_points(table, accuracy_unit=of, metric_unit=of, accuracy=column, metric=metric)}
    else:
        assert location is not None
        if unit is not None:
            raise errors.UsageError("--unit is that of a --csv; a store holds fractions")
        results = [each for each in Store.open(location).results() if id_name in (None, each.id_dataset)]
        _check_methods([*methods, *([accuracy] if accuracy else [])])
        sets = result_points(results, accuracy_method=accuracy or "knn", metric=metric, methods=methods)
    if not any(len(points.models) for points in sets.values()):
        raise errors.NotAvailable(
            f"there are no points: no model has both an ID accuracy (of {accuracy or 'knn'}) and {metric}; run "
            "`embedstore probe` first"
        )
    found: dict[str, dict[str, Group]] = {}
    for name, points in sets.items():
        groups = _groups(points, families)
        found[name] = by_group(points.x, points.y, groups)
    _check_families(families, {model for points in sets.values() for model in points.models})
    if as_json:
        click.echo(
            json.dumps(
                [_row(name, group, sets[name], one) for name, each in found.items() for group, one in each.items()]
            )
        )
    else:
        _print(console.human(), found, sets, metric)


def _check_methods(names: Sequence[str]) -> None:
    from embedstore.evaluate import METHODS

    for name in names:
        if name not in METHODS:
            raise errors.UnknownName("method", name, METHODS)


def _check_families(families: Sequence[str], models: set[str]) -> None:
    for text in families:
        pattern = text.partition("=")[2]
        if not fnmatch.filter(models, pattern):
            raise errors.UsageError(f"--family {text}: no model matches; there are {', '.join(sorted(models))}")


def _groups(points: Points, families: Sequence[str]) -> list[str]:
    """The group of every point: its benchmark and its family, as the CSV says or as --family does."""
    patterns: list[tuple[str, str]] = []
    for text in families:
        name, _, pattern = text.partition("=")
        if not (name and pattern):
            raise errors.UsageError(f"--family {text}: it must read NAME=PATTERN, as 'clip=ViT-*'")
        patterns.append((name, pattern))
    named = list(points.family or [""] * len(points.models))
    if patterns:
        named = [
            next((name for name, pattern in patterns if fnmatch.fnmatchcase(model, pattern)), "others")
            for model in points.models
        ]
    benchmarks = points.benchmark or ("",) * len(named)
    return [" · ".join(filter(None, pair)) for pair in zip(benchmarks, named, strict=True)]


def _row(name: str, group: str, points: Points, one: Group) -> dict[str, Any]:
    head = {"name": name, "group": group, "models": [points.models[row] for row in one.rows]}
    figures: Mapping[str, Any] = {} if one.correlation is None else asdict(one.correlation)
    return {
        **head,
        "reason": one.reason,
        "x": [points.x[r] for r in one.rows],
        "y": [points.y[r] for r in one.rows],
        **figures,
    }


def _print(out: Any, found: Mapping[str, Mapping[str, Group]], sets: Mapping[str, Points], metric: str) -> None:
    from rich.table import Table

    table = Table(title=f"ID accuracy against {metric}, over models", title_justify="left")
    for name in ("against", "group"):
        table.add_column(name, overflow="fold")
    for name in ("models", "R²", "95 % interval", "Pearson", "Spearman", "Kendall", "R² without …"):
        table.add_column(name, justify="right")
    reasons: dict[str, list[str]] = {}
    for name, groups in found.items():
        for group, one in groups.items():
            if one.correlation is None:
                reasons.setdefault(str(one.reason), []).append(" · ".join(filter(None, (name, group))))
                continue
            c = one.correlation
            low, high = c.interval
            figures = [
                f"{c.r_squared:.3f}",
                f"{low:.2f}–{high:.2f}",
                f"{c.pearson:.2f}",
                f"{c.spearman:.2f}",
                f"{c.kendall:.2f}",
            ]
            table.add_row(name, group, str(c.n), *figures, _most_influential(c.without, c.r_squared, one, sets[name]))
    if table.rows:
        out.print(table)
    total = sum(map(len, found.values()))
    whys = []
    for why, names in reasons.items():
        whys.append(f"{why} ({names[0] if total > 1 == len(names) else f'{len(names)} of {total}'})")
    whys = [
        f"{why} ({names[0] if total > 1 == len(names) else f'{len(names)} of {total}'})"
        for why, names in reasons.items()
    ]
    left_out = [text for points in sets.values() for text in points.left_out]
    for reason in dict.fromkeys([*whys, *(f"left out: {text}" for text in left_out)]):
        out.print(f"note: {reason}", markup=False, soft_wrap=True)


def _most_influential(without: Sequence[float | None], whole: float, one: Group, points: Points) -> str:
    """The model whose absence changes R² most, and to what."""
    known = [
        (abs(value - whole), value, row) for value, row in zip(without, one.rows, strict=True) if value is not None
    ]
    if not known:
        return "–"
    _, value, row = max(known)
    return f"{value:.3f} {points.models[row]}"
