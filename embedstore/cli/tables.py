"""The table and the rows of what `probe` found. Percent and rounding happen here only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from embedstore.records import Result

DASH = "–"
Groups = Mapping[str, Sequence[str]]

_MOST_SETS = 8  # in one table; more are shown below each other
_LEADING, _WIDE = 60, 19  # letters of the columns before them, and of one of them


def as_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One flat row per model, method, variant, seed, score and OOD set, or per method that could not run."""
    rows: list[dict[str, Any]] = []
    for result in results:
        head = {
            "model": result.model,
            "id": result.id_dataset,
            "seed": result.params.get("seed"),
            "method": result.method,
            "variant": result.variant,
            "id_accuracy": result.id_accuracy,
            "seconds": result.seconds,
        }
        if result.absent is not None:
            rows.append({**head, "absent": result.absent})
        for score, by_set in result.metrics.items():
            rows += [{**head, "score": score, "ood": name, **values} for name, values in by_set.items()]
    return rows


def print_results(
    console: Console, results: Sequence[Result], refused: Sequence[str], groups: Groups | None = None
) -> None:
    """The table: models × methods down, OOD sets across; AUROC and FPR95 in percent; notes below.

    Parameters
    ----------
    groups : mapping of str to sequence of str, optional
        OOD sets by group (near, far), each of which gets a column with the mean of its sets.
    """
    sets = list(dict.fromkeys(name for result in results for by in result.metrics.values() for name in by))
    shown = {name: members for name, members in (groups or {}).items() if any(each in sets for each in members)}
    at_once = len(sets) if len(sets) <= _MOST_SETS else max(1, (console.width - _LEADING) // _WIDE)
    for first in range(0, max(1, len(sets)), max(1, at_once)):
        last = first + at_once >= len(sets)
        console.print(_table(results, sets[first : first + at_once], shown if last else {}, begins=first == 0))
    if any(result.metrics for result in results):
        console.print(_legend(results))
    for note in dict.fromkeys([*_absences(results), *_findings(results), *_notes(results), *refused]):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _table(results: Sequence[Result], sets: Sequence[str], groups: Groups, *, begins: bool) -> Table:
    """The table of some OOD sets; accuracy and time only where it begins."""
    table = Table(title=f"in-distribution: {results[0].id_dataset} · AUROC ± / FPR95, %", title_justify="left")
    for name in ("model", "method", "score"):
        table.add_column(name, overflow="fold")
    ends = ("ID accuracy", "seconds") if begins else ()
    for name in [*ends[:1], *sets, *(f"mean {name}" for name in groups), *ends[1:]]:
        table.add_column(name, justify="right", overflow="fold")
    last_model = None
    for group in _by_method(results):
        first = group[0]
        if last_model not in (None, first.model):
            table.add_section()
        last_model = first.model
        name = f"{first.method} ({first.variant})" if first.variant else first.method
        accuracy = _spread([each.id_accuracy for each in group if each.id_accuracy is not None])
        cost = f"{sum(each.seconds for each in group):.1f}"
        for score in dict.fromkeys(score for each in group for score in each.metrics):
            by_seed = [each.metrics[score] for each in group if score in each.metrics]
            cells = [_cell([by_set[ood] for by_set in by_seed if ood in by_set]) for ood in sets]
            cells += [_mean_cell(by_seed, members) for members in groups.values()]
            if begins:
                cells = [accuracy, *cells, cost if score == next(iter(first.metrics)) else ""]
            table.add_row(first.model, name, score, *cells)
        if first.absent is not None:
            table.add_row(first.model, name, *[DASH] * (1 + len(ends) + len(sets) + len(groups)))
    return table


def _by_method(results: Sequence[Result]) -> Iterable[list[Result]]:
    """Results that differ in nothing but the seed, together."""
    groups: dict[tuple[str, str, str, bool], list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.method, result.variant, result.absent is None), []).append(result)
    return groups.values()


def _cell(by_seed: Sequence[Mapping[str, float]]) -> str:
    """AUROC ± its uncertainty / FPR95 of one OOD set: means over the seeds."""
    if not by_seed:
        return DASH
    values = [metrics["auroc"] for metrics in by_seed]
    if len(values) > 1:
        give = statistics.stdev(values)
    else:
        (metrics,) = by_seed
        give = (metrics["auroc_high"] - metrics["auroc_low"]) / 2 if "auroc_low" in metrics else math.nan
    sign = "σ" if len(values) > 1 else "±"
    around = "" if math.isnan(give) else f"{sign}{100 * give:.1f}"
    return f"{100 * statistics.fmean(values):.1f}{around} / {100 * statistics.fmean(m['fpr95'] for m in by_seed):.1f}"


def _mean_cell(by_seed: Sequence[Mapping[str, Mapping[str, float]]], members: Sequence[str]) -> str:
    """Means over the sets of a group, and over the seeds; nothing unless every set is there."""
    if any(name not in by_set for by_set in by_seed for name in members):
        return DASH
    auroc, fpr95 = (
        statistics.fmean(by_set[name][metric] for by_set in by_seed for name in members)
        for metric in ("auroc", "fpr95")
    )
    return f"{100 * auroc:.1f} / {100 * fpr95:.1f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return DASH
    around = f"σ{100 * statistics.stdev(values):.1f}" if len(values) > 1 and statistics.stdev(values) else ""
    return f"{100 * statistics.fmean(values):.1f}{around}"


def _legend(results: Sequence[Result]) -> str:
    seeds = {result.params["seed"] for result in results if "seed" in result.params}
    interval = "± is half of the 95 % interval (DeLong)"
    return interval if len(seeds) < 2 else f"{interval}; σ the deviation over {len(seeds)} seeds"


def _notes(results: Sequence[Result]) -> list[str]:
    return [f"{result.model}: {note}" for result in results for note in result.notes]


def _absences(results: Sequence[Result]) -> list[str]:
    """Each reason once, with the methods that it keeps from running."""
    methods: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.absent:
            name = f"{result.method} ({result.variant})" if result.variant else result.method
            methods.setdefault((result.model, result.absent), []).append(name)
    return [f"{model}: no {', '.join(dict.fromkeys(names))}: {why}" for (model, why), names in methods.items()]


def _findings(results: Sequence[Result]) -> list[str]:
    """How good the pseudo-labels are: the first thing to look at when PLP disappoints."""
    return [
        f"{result.model}: {100 * result.details['agreement']:.1f} % of the pseudo-labels are the true labels"
        for result in results
        if "agreement" in result.details
    ]
