"""The rows of the report: a cell per model, ID data set, method, score and OOD set; and the methods that are absent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from embedstore.records import Result

# The order in which a reader meets the methods: no labels needed first, then those that learn from labels.
METHOD_ORDER = ("knn", "mcm", "plp", "linear", "mahalanobis", "relative-mahalanobis")
_SCORE_ORDER = ("cosine", "msp", "energy", "distance")

# Seed and template set, as `probe` stores them; None where a result does not say.
Setting = tuple[int | None, str | None]
CellKey = tuple[str, str, str, str, str, Setting]


@dataclass(frozen=True)
class Cell:
    """One number of the study and what belongs to it. Metrics are fractions in [0, 1], None where there is no value.

    ``ood`` is ``"name/split"``; ``seed`` and ``templates`` are what `probe` was given, whether the method depends on
    them or not; ``id_accuracy`` is that of the classifier behind `method`.
    """

    model: str
    id_dataset: str
    method: str
    score: str
    ood: str
    seed: int | None
    templates: str | None
    auroc: float | None
    fpr95: float | None
    aupr_in: float | None
    aupr_out: float | None
    n_id: int | None
    n_ood: int | None
    id_accuracy: float | None
    created: str

    @property
    def label(self) -> str:
        """What its table row is called: ``"plp · energy"``."""
        return label(self.method, self.score)


@dataclass(frozen=True)
class Absence:
    """A method that could not run for a model and ID data set, and why."""

    model: str
    id_dataset: str
    method: str
    reason: str
    created: str


@dataclass(frozen=True)
class Note:
    """A remark of `probe`, and the models that it was made about."""

    id_dataset: str
    text: str
    models: tuple[str, ...]


def cells(results: Iterable[Result]) -> list[Cell]:
    """Every cell that some result covers, in reading order.

    Where several results with the same seed and template set cover a cell, the newest wins.
    """
    found = [_cell(key, result) for key, result in _newest(results).items()]
    return sorted(found, key=_reading_order)


def absences(results: Iterable[Result]) -> list[Absence]:
    """Methods for which the newest word is that they could not run, in reading order.

    A method that ran, with whatever parameters, is not absent.
    """
    results = list(results)
    ran = {key[:3] for key in _newest(results)}
    found = [
        Absence(result.model, result.id_dataset, result.method, result.absent, result.created)
        for key, result in {_method(result): result for result in _absent(results)}.items()
        if key not in ran and result.absent is not None
    ]
    return sorted(found, key=lambda absence: (absence.id_dataset, absence.model, row_order(absence.method, "")))


def in_use(results: Iterable[Result]) -> list[Result]:
    """The results that no newer one with the same seed and template set replaces, each once, oldest first."""
    results = list(results)
    newest = _newest(results)
    ran = {(*key[:3], key[5]) for key in newest}
    absent = {(*_method(result), setting(result)): result for result in _absent(results)}
    chosen = {id(result) for result in newest.values()}
    chosen |= {id(result) for key, result in absent.items() if key not in ran}
    return sorted((result for result in results if id(result) in chosen), key=when)


def notes(results: Iterable[Result]) -> list[Note]:
    """Each remark once, with the models that it holds for: the methods of one run all repeat it."""
    about: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        for text in result.notes:
            about.setdefault((result.id_dataset, text), {})[result.model] = None
    return [Note(dataset, text, tuple(sorted(models))) for (dataset, text), models in sorted(about.items())]


def uncovered(results: Iterable[Result], by: Sequence[Result]) -> list[Result]:
    """Those of `results` that have something to say which no result in `by` says again."""
    covered = set(_newest(by))
    spoken = {_method(result) for result in by}
    return [
        result
        for result in results
        if any(key not in covered for key in _keys(result))
        or (result.absent is not None and _method(result) not in spoken)
    ]


def label(method: str, score: str | None) -> str:
    """What a table row is called: ``"plp · energy"``."""
    return f"{method} · {score}" if score else method


def setting(result: Result) -> Setting:
    """Seed and template set that `probe` was given."""
    seed, templates = result.params.get("seed"), result.params.get("templates")
    return (seed if isinstance(seed, int) else None, templates if isinstance(templates, str) else None)


def row_order(method: str, score: str) -> tuple[int, str, int, str]:
    """Sort key of table rows; methods and scores that this version does not know come last, by name."""
    return (*_rank(method, METHOD_ORDER), *_rank(score, _SCORE_ORDER))


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _keys(result: Result) -> list[CellKey]:
    return [
        (*_method(result), score, ood, setting(result)) for score, by_set in result.metrics.items() for ood in by_set
    ]


def _newest(results: Iterable[Result]) -> dict[CellKey, Result]:
    return {key: result for result in sorted(results, key=when) for key in _keys(result)}


def _absent(results: Iterable[Result]) -> list[Result]:
    """Oldest first, so that a dictionary of them keeps the newest."""
    return sorted((result for result in results if result.absent is not None), key=when)


def _method(result: Result) -> tuple[str, str, str]:
    return (result.model, result.id_dataset, result.method)


def _reading_order(cell: Cell) -> tuple[object, ...]:
    row = (cell.id_dataset, cell.model, row_order(cell.method, cell.score))
    return (*row, cell.templates or "", cell.ood, -1 if cell.seed is None else cell.seed)


def when(result: Result | Cell) -> datetime:
    """When a result was made, for sorting; one that does not say is older than all that do."""
    try:
        moment = datetime.fromisoformat(result.created)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _cell(key: CellKey, result: Result) -> Cell:
    model, id_dataset, method, score, ood, (seed, templates) = key
    metrics = result.metrics[score][ood]
    return Cell(
        model=model,
        id_dataset=id_dataset,
        method=method,
        score=score,
        ood=ood,
        seed=seed,
        templates=templates,
        auroc=_value(metrics, "auroc"),
        fpr95=_value(metrics, "fpr95"),
        aupr_in=_value(metrics, "aupr_in"),
        aupr_out=_value(metrics, "aupr_out"),
        n_id=_count(metrics, "n_id"),
        n_ood=_count(metrics, "n_ood"),
        id_accuracy=_value({"": result.id_accuracy}, ""),
        created=result.created,
    )


def _value(metrics: Mapping[str, float | None], name: str) -> float | None:
    # NaN is "no value" too: JSON has no NaN, and a table must not rank it.
    value = metrics.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _count(metrics: Mapping[str, float], name: str) -> int | None:
    value = _value(metrics, name)
    return None if value is None else int(value)
