"""Accuracy and OOD metric of many models, from results or from a published CSV, for :mod:`embedstore.correlation`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedstore.errors import SourceError, UnknownName, UsageError
from embedstore.records import Result

Unit = Literal["fraction", "percent"]
Row = tuple[int, dict[str, str]]  # the line it ends on, and its cells by column

_TOP = {"fraction": 1.0, "percent": 100.0}


@dataclass(frozen=True)
class Points:
    """One point a model, or a row of a CSV, as fractions.

    Attributes
    ----------
    models : tuple of N str
    x, y : (N,) float64
        Accuracy and OOD metric, in [0, 1].
    benchmark, family : tuple of N str, or None
        None where the file has no such column, and for results.
    left_out : tuple of str
        What has no value, and which is lacking: each with its model, of a CSV also its line.
    """

    models: tuple[str, ...]
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    benchmark: tuple[str, ...] | None
    family: tuple[str, ...] | None
    left_out: tuple[str, ...]


def read_points(
    path: str | PathLike[str],
    *,
    accuracy_unit: Unit,
    metric_unit: Unit,
    accuracy: str = "accuracy",
    metric: str = "auroc",
) -> Points:
    """Read published numbers: a CSV with the columns ``model``, an accuracy, an OOD metric, and perhaps others.

    Papers print percent and programs fractions. No unit is guessed, so that 0.9 is never taken for 0.9 %.

    Parameters
    ----------
    path : path of a UTF-8 file
        Comma-separated, with a header. Its columns ``benchmark`` and ``family`` are used if they are there, others are
        not. A row whose accuracy or metric is empty is left out, and named in the result.
    accuracy_unit, metric_unit : {"fraction", "percent"}
        What the two columns hold.
    accuracy, metric : str
        Names of the two columns.

    Raises
    ------
    SourceError
        The file cannot be read.
    UnknownName
        A column is not there.
    UsageError
        Naming line and column: something is not a number, or not within its unit; a percent column never exceeds 1; a
        row is too long or short; a model occurs twice in one benchmark.
    """
    for unit in (accuracy_unit, metric_unit):
        if unit not in _TOP:
            raise UnknownName("unit", str(unit), _TOP)
    name = fspath(path)
    header, rows = _table(name)
    for column in ("model", accuracy, metric):
        if column not in header:
            raise UnknownName(f"column of {name}", column, header)
    kept, left_out, seen = [], [], dict[tuple[str, str], int]()
    for line, row in rows:
        model, where = row["model"], row.get("benchmark", "")
        if not model:
            raise UsageError(f"{name}, line {line}, column 'model': is empty")
        if (model, where) in seen:
            inside = f" in benchmark {where!r}" if where else ""
            raise UsageError(f"{name}, line {line}: {model!r}{inside} was already on line {seen[model, where]}")
        seen[model, where] = line
        empty = [column for column in (accuracy, metric) if not row[column]]
        if empty:
            left_out.append(f"line {line}, {model}: no {' and no '.join(empty)}")
        else:
            kept.append((line, row))
    return Points(
        models=tuple(row["model"] for _, row in kept),
        x=_column(name, kept, accuracy, accuracy_unit),
        y=_column(name, kept, metric, metric_unit),
        benchmark=tuple(row["benchmark"] for _, row in kept) if "benchmark" in header else None,
        family=tuple(row["family"] for _, row in kept) if "family" in header else None,
        left_out=tuple(left_out),
    )


def result_points(
    results: Iterable[Result], *, accuracy_method: str = "knn", metric: str = "auroc", methods: Collection[str] = ()
) -> dict[str, Points]:
    """One point a model for every ID set, method, score and OOD set: means over the seeds, the newest figure of each.

    Parameters
    ----------
    results : iterable of Result
    accuracy_method : str
        Whose ID accuracy is x; of its default options, so that x is the same for every y.
    metric : str
        A metric of the results; is y.
    methods : collection of str
        Only these; all if empty.

    Returns
    -------
    dict of str to Points
        By ``"ID set: method (variant) · score, OOD set"``, the oldest first; the variant tells template sets apart
        where there are several. Models without an accuracy are left out, and named.

    Raises
    ------
    UnknownName
        No result has that metric.
    """
    # By what a figure is of, then by model, then by the run's options and seed: sorted, so that the newest is the last.
    accuracies: dict[tuple[str, str, str], dict[str, float]] = {}
    values: dict[str, dict[str, dict[str, float]]] = {}
    about: dict[str, tuple[str, str]] = {}
    known: set[str] = set()
    there = sorted((result for result in results if result.absent is None), key=lambda result: result.created)
    several = len({result.params["templates"] for result in there if "templates" in result.params}) > 1
    for result in there:
        run = json.dumps(result.params, sort_keys=True)
        # No metric set changes an accuracy.
        as_it_is = result.variant in ("", f"metrics={result.params.get('metrics')}")
        if result.method == accuracy_method and as_it_is and result.id_accuracy is not None:
            prompts = str(result.params.get("templates", ""))
            accuracies.setdefault((result.id_dataset, result.model, prompts), {})[run] = result.id_accuracy
        marks = [result.variant, str(result.params.get("templates", "")) if several else ""]
        mark = f" ({', '.join(filter(None, marks))})" if any(marks) else ""
        for score, by_set in result.metrics.items():
            for ood, metrics in by_set.items():
                known |= set(metrics)
                if metric in metrics and (not methods or result.method in methods):
                    name = f"{result.id_dataset}: {result.method}{mark} · {score}, {ood}"
                    values.setdefault(name, {}).setdefault(result.model, {})[run] = metrics[metric]
                    about[name] = result.id_dataset, str(result.params.get("templates", ""))
    if known and metric not in known:
        raise UnknownName("metric", metric, known)
    return {name: _of_models(by_model, *about[name], accuracies) for name, by_model in values.items()}


def _of_models(
    by_model: Mapping[str, Mapping[str, float]],
    id_name: str,
    prompts: str,
    accuracies: Mapping[tuple[str, str, str], Mapping[str, float]],
) -> Points:
    x = {model: _accuracy(accuracies, id_name, model, prompts) for model in sorted(by_model)}
    with_both = [model for model, value in x.items() if value is not None]
    return Points(
        models=tuple(with_both),
        x=np.array([x[model] for model in with_both], dtype=np.float64),
        y=np.array([fmean(by_model[model].values()) for model in with_both]),
        benchmark=None,
        family=None,
        left_out=tuple(f"{model}: no ID accuracy" for model in sorted(by_model) if model not in with_both),
    )


def _accuracy(
    accuracies: Mapping[tuple[str, str, str], Mapping[str, float]], id_name: str, model: str, prompts: str
) -> float | None:
    """Mean over the seeds; of a classifier that reads prompts by the same ones as y, or by the default's, or by any."""
    found = {by[2]: values for by, values in accuracies.items() if by[:2] == (id_name, model)}
    chosen = next((found[each] for each in (prompts, "", "plp", *sorted(found)) if each in found), None)
    return None if chosen is None else fmean(chosen.values())


def _table(name: str) -> tuple[list[str], list[Row]]:
    """The header, and the rows without the empty ones; cells without the space around them."""
    try:
        with open(name, encoding="utf-8-sig", newline="") as file:  # spreadsheets begin UTF-8 with a byte-order mark
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except OSError as error:
        raise SourceError(f"cannot read {name}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{name} is not a comma-separated file in UTF-8: {error}") from error
    lines = [(line, cells) for line, cells in lines if any(cells)]
    if not lines:
        raise UsageError(f"{name} is empty; its first line must name the columns: model, an accuracy, a metric")
    header = lines[0][1]
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise UsageError(f"{name}, line {lines[0][0]}: the column {twice[0]!r} is there twice")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise UsageError(f"{name}, line {line}: {len(cells)} cells under {len(header)} columns")
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def _column(name: str, rows: list[Row], column: str, unit: str) -> npt.NDArray[np.float64]:
    top = _TOP[unit]
    values = np.empty(len(rows))
    for i, (line, row) in enumerate(rows):
        try:
            values[i] = float(row[column])
        except ValueError:
            values[i] = math.nan
        if not 0 <= values[i] <= top:
            raise UsageError(
                f"{name}, line {line}, column {column!r}: {row[column]!r} is not a number between 0 and {top:g}, "
                f"as a {unit} is"
            )
    # Fractions read as percent would give the same R², and a wrong axis that nobody notices.
    if unit == "percent" and len(values) and values.max() <= 1:
        raise UsageError(
            f"{name}, column {column!r}: no value exceeds 1, so they look like fractions and not percent; give the "
            "unit as fraction (percentages below 1 must be written as fractions)"
        )
    return values / top
