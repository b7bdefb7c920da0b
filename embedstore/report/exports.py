"""The report for machines: results.csv and results.json, full precision, metrics as fractions in [0, 1]."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from typing import Any

from embedstore.report.content import Content
from embedstore.report.fits import Correlation
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in content.cells:
        writer.writerow([_field(getattr(cell, name)) for name in COLUMNS])
    return text.getvalue()


def to_json(content: Content) -> str:
    """Strict JSON, format 1.

    ``{"format": 1, "version", "store", "cells": [{…}], "absent": [{"model", "id_dataset", "method", "variant",
    "reason", "created"}], "correlations": [{"id_dataset", "ood", "method", "variant", "score", "templates", "n",
    "r_squared", "slope", "intercept", "reason", "points": [{"model", "id_accuracy", "auroc"}]}], "notes":
    [{"id_dataset", "text", "models"}], "outdated": int, "models": {name: provenance with its "fingerprint", or null
    where the store has none}}``.
    A cell has the columns of the CSV. A value that does not exist is null. A correlation is over means over the seeds;
    its ``templates`` is null where the method reads no prompts.
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
        "models": {
            name: model and {**model.to_json(), "fingerprint": model.fingerprint()}
            for name, model in content.models.items()
        },
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _field(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else repr(value)


def _correlation(fit: Correlation) -> dict[str, Any]:
    value = asdict(fit)
    points = value.pop("points")
    del value["label"]
    return {**value, "n": len(points), "points": points}
