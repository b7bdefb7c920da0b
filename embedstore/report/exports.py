"""The report for machines: results.csv and results.json, full precision, metrics as fractions in [0, 1].

docs/report.md is the description of both; tests/test_report_files.py holds one to the other.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

from embedstore.report.attacked import ADVERSARIAL, CLEAN, attacks, with_whole_bank
from embedstore.report.compare import Comparison, Difference
from embedstore.report.content import Content
from embedstore.report.fits import Correlation
from embedstore.report.means import Mean, means
from embedstore.report.summary import auroc
from embedstore.report.table import Cell

JSON_FORMAT = 1
COLUMNS = tuple(field.name for field in fields(Cell))

# A spreadsheet runs a text that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(content: Content) -> str:
    """One line per cell under the names in ``COLUMNS``; an empty field where there is no value.

    Each variant of a method, seed and template set has its own cells; means over the seeds are on the page alone.
    A name that a spreadsheet would run as a formula gets a leading quote ``'``.
    """
    return _table(COLUMNS, content.cells)


def comparison_csv(comparison: Comparison) -> str:
    """One line per row of the comparison, under the names of :class:`Difference`'s fields; otherwise as the results."""
    return _table(tuple(field.name for field in fields(Difference)), comparison.rows)


def to_json(content: Content, files: Sequence[str] = (), comparison: Comparison | None = None) -> str:
    """Strict JSON, format 1: what docs/report.md says. A value that does not exist is null.

    ``files`` are the names of the files of the report, relative to its folder.
    """
    value = {
        "format": JSON_FORMAT,
        "version": content.version,
        "store": content.location,
        "cells": [asdict(cell) for cell in content.cells],
        "absent": [asdict(absence) for absence in content.absences],
        "correlations": [_correlation(fit) for fit in content.correlations],
        "notes": [asdict(note) for note in content.notes],
        "outdated": content.outdated,
        "groups": {name: list(sets) for name, sets in content.groups.items()},
        "comparison": comparison and {"before": comparison.before, "after": comparison.after},
        "files": list(files),
        "models": {
            name: model and {**model.to_json(), "fingerprint": model.fingerprint()}
            for name, model in content.models.items()
        },
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def best(cells: Iterable[Cell]) -> list[Mean]:
    """The best AUROC of each ID set, OOD set and model (means over the seeds), the best model of a pair of sets first.

    Of equals it is the one that is read first. Of an attack ``D`` it is one row against ``D/clean`` and, after these
    and in the same order, the same row against ``D/adversarial``: the best when clean of those that were tested against
    both. What became of it is what the attack is for, and another row may be the best then. A model without such a row
    has its best against ``D/clean`` alone. ``D/float`` and ``D/step-K`` are left out, and rows without the train images
    that an attack aimed at are no candidates: all are in the full tables.
    """
    by_place: dict[tuple[str, str, str], list[Mean]] = {}
    for mean in sorted(with_whole_bank(means(cells)), key=lambda mean: mean.order):
        if mean.auroc is not None:
            by_place.setdefault((mean.id_dataset, mean.ood, mean.model), []).append(mean)
    left = {name: attacks(ood for at, ood, _ in by_place if at == name) for name, _, _ in by_place}
    ranked: list[tuple[tuple[str, str, int, float, str], Mean]] = []
    for (id_dataset, ood, model), rows in by_place.items():
        name, _, split = ood.partition("/")
        if name not in left[id_dataset]:
            top = max(rows, key=auroc)
            ranked.append(((id_dataset, ood, 0, -auroc(top), model), top))
        elif split == CLEAN:
            after = {mean.row: mean for mean in by_place.get((id_dataset, f"{name}/{ADVERSARIAL}", model), ())}
            top = max([mean for mean in rows if mean.row in after] or rows, key=auroc)
            pair = filter(None, (top, after.get(top.row)))
            ranked += [((id_dataset, ood, at, -auroc(top), model), mean) for at, mean in enumerate(pair)]
    return [mean for _, mean in sorted(ranked, key=lambda pair: pair[0])]


def _table(columns: Sequence[str], rows: Iterable[Cell | Difference]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_field(getattr(row, name)) for name in columns])
    return text.getvalue()


def _field(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else repr(value)


def _correlation(fit: Correlation) -> dict[str, Any]:
    names = ("id_dataset", "ood", "method", "variant", "score", "templates")
    low, high = fit.interval or (None, None)
    return {
        **{name: getattr(fit, name) for name in names},
        "r_squared": fit.r_squared,
        "r_squared_low": low,
        "r_squared_high": high,
        "slope": fit.slope,
        "intercept": fit.intercept,
        "reason": fit.reason,
        "n": len(fit.points),
        "points": [asdict(point) for point in fit.points],
    }
