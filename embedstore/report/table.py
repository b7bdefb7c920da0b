"""The rows of the report: a cell per model, ID data set, method, score and OOD set; and the methods that are absent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from embedstore.records import Result
from embedstore.report.names import label, named, options, row_order

# Seed and template set; None where the method uses no randomness or reads no prompts.
Setting = tuple[int | None, str | None]
# Model, ID data set, method and variant; then score, OOD set and setting.
MethodKey = tuple[str, str, str, str]
CellKey = tuple[str, str, str, str, str, str, Setting]

_METRICS = (
    *("auroc", "auroc_low", "auroc_high", "fpr95", "fpr95_low", "fpr95_high", "fpr95_ood_positive"),
    *("aupr_in", "aupr_out", "detection_error"),
)


@dataclass(frozen=True)
class Cell:
    """One number of the study and what belongs to it. Metrics are fractions in [0, 1], None where there is no value.

    ``variant`` has the options in which the method differs from its defaults (``"k=10, metric=l2"``); ``ood`` is
    ``"name/split"``; ``seed`` and ``templates`` are None where the method does not depend on them, though results of
    older versions name them always; the bounds ``…_low`` and ``…_high`` are of 95 % intervals; ``id_accuracy`` is that
    of the classifier behind `method`.
    """

    model: str
    id_dataset: str
    method: str
    variant: str
    score: str
    ood: str
    seed: int | None
    templates: str | None
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    fpr95: float | None
    fpr95_low: float | None
    fpr95_high: float | None
    fpr95_ood_positive: float | None
    aupr_in: float | None
    aupr_out: float | None
    detection_error: float | None
    n_id: int | None
    n_ood: int | None
    id_accuracy: float | None
    created: str

    @property
    def label(self) -> str:
        """What its table row is called: ``"plp · energy"``, ``"knn (k=10) · cosine"``."""
        return label(named(self.method, self.variant), self.score)


@dataclass(frozen=True)
class Absence:
    """A method that could not run with these options for a model and ID data set, and why."""

    model: str
    id_dataset: str
    method: str
    variant: str
    reason: str
    created: str

    @property
    def label(self) -> str:
        """What its table row is called: ``"knn (k=10)"``."""
        return named(self.method, self.variant)


@dataclass(frozen=True)
class Note:
    """A remark of `probe`, and the models that it was made about."""

    id_dataset: str
    text: str
    models: tuple[str, ...]


def cells(results: Iterable[Result]) -> list[Cell]:
    """Every cell that some result covers, in reading order.

    Where several results with the same options, seed and template set cover a cell, the newest wins.
    """
    found = [_cell(key, result) for key, result in _newest(results).items()]
    return sorted(found, key=_reading_order)


def absences(results: Iterable[Result]) -> list[Absence]:
    """Methods for which the newest word is that they could not run, in reading order.

    A method that ran with the same options, whatever seed and template set, is not absent.
    """
    results = list(results)
    ran = {key[:4] for key in _newest(results)}
    found = [
        Absence(*key, reason=result.absent, created=result.created)
        for key, result in {_method(result): result for result in _absent(results)}.items()
        if key not in ran and result.absent is not None
    ]
    return sorted(
        found, key=lambda absence: (absence.id_dataset, absence.model, row_order(absence.method, absence.variant, ""))
    )


def in_use(results: Iterable[Result]) -> list[Result]:
    """The results that no newer one with the same options, seed and template set replaces, each once, oldest first."""
    results = list(results)
    newest, settings = _newest(results), _settings(results)
    ran = {(*key[:4], key[6]) for key in newest}
    absent = {(*_method(result), settings[id(result)]): result for result in _absent(results)}
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
    results = list(results)
    settings = _settings([*results, *by])
    covered = {key for result in by for key in _keys(result, settings)}
    spoken = {_method(result) for result in by}
    return [
        result
        for result in results
        if any(key not in covered for key in _keys(result, settings))
        or (result.absent is not None and _method(result) not in spoken)
    ]


def setting(result: Result) -> Setting:
    """Seed and template set that a result names."""
    seed, templates = result.params.get("seed"), result.params.get("templates")
    return (seed if isinstance(seed, int) else None, templates if isinstance(templates, str) else None)


def tested_split(result: Result) -> str:
    """``"name/split"`` of the ID images that a result was tested on."""
    return f"{result.id_dataset}/{options(result.variant).get('test_split', 'test')}"


def _settings(results: Iterable[Result]) -> dict[int, Setting]:
    """Seed and template set that each result depends on, by its ``id``.

    A result names those that its method reads; older versions named both for all methods. So what any result of a
    method leaves out, no other depends on.
    """
    results = list(results)
    silent: set[tuple[MethodKey, int]] = set()
    for result in results:
        silent |= {(_method(result), place) for place, value in enumerate(setting(result)) if value is None}
    found = {}
    for result in results:
        seed, templates = setting(result)
        method = _method(result)
        found[id(result)] = (None if (method, 0) in silent else seed, None if (method, 1) in silent else templates)
    return found


def _keys(result: Result, settings: Mapping[int, Setting]) -> list[CellKey]:
    return [
        (*_method(result), score, ood, settings[id(result)])
        for score, by_set in result.metrics.items()
        for ood in by_set
    ]


def _newest(results: Iterable[Result]) -> dict[CellKey, Result]:
    results = sorted(results, key=when)
    settings = _settings(results)
    return {key: result for result in results for key in _keys(result, settings)}


def _absent(results: Iterable[Result]) -> list[Result]:
    """Oldest first, so that a dictionary of them keeps the newest."""
    return sorted((result for result in results if result.absent is not None), key=when)


def _method(result: Result) -> MethodKey:
    return (result.model, result.id_dataset, result.method, result.variant)


def _reading_order(cell: Cell) -> tuple[object, ...]:
    row = (cell.id_dataset, cell.model, row_order(cell.method, cell.variant, cell.score))
    return (*row, cell.templates or "", cell.ood, -1 if cell.seed is None else cell.seed)


def when(result: Result | Cell) -> datetime:
    """When a result was made, for sorting; one that does not say is older than all that do."""
    try:
        moment = datetime.fromisoformat(result.created)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _cell(key: CellKey, result: Result) -> Cell:
    model, id_dataset, method, variant, score, ood, (seed, templates) = key
    metrics = result.metrics[score][ood]
    return Cell(
        model=model,
        id_dataset=id_dataset,
        method=method,
        variant=variant,
        score=score,
        ood=ood,
        seed=seed,
        templates=templates,
        **{name: _value(metrics, name) for name in _METRICS},
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
