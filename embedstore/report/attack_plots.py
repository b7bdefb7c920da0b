"""Curves of attacks: AUROC against the number of steps, and by attack, or against the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedstore.report.attack_files import Crafted, across, place
from embedstore.report.attacked import CLEAN, FLOAT, steps_of
from embedstore.report.choice import MOST_METHODS
from embedstore.report.commands import dataset_label
from embedstore.report.judged import Judged
from embedstore.report.plots import View, plain
from embedstore.report.summary import count, listing, percent

_Panels = dict[str, dict[str, View]]
_STEPS, _BUDGETS, _ATTACKS = ": steps", ": budgets", ": attacks"  # what titles end with, a number after it or not
_NO_STEPS = "Features on the way are kept of the attacked model alone, and none of this one were tested."
_NAMES_IN_A_LINE = 4
_UNTESTED = "Fewer than two of the attacks were tested with this model."


@dataclass(frozen=True)
class Stages:
    """The numbers of one model's curves over the steps of one attack: under ``steps``, for every method its label."""

    attack: str
    model: str
    steps: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[str, ...]], ...]


def series(rows: Sequence[Judged]) -> dict[str, int]:
    """The number of each method's line, the same in every plot of an ID set; at most eight, the best when clean."""
    highest: dict[str, float] = {}
    for row in rows:
        highest[row.method] = max(row.clean, highest.get(row.method, 0.0))
    kept = sorted(highest, key=lambda method: -highest[method])[:MOST_METHODS]
    ordered = sorted(kept, key=lambda method: min(row.order for row in rows if row.method == method))
    return {method: number for number, method in enumerate(ordered)}


def explained(titles: Iterable[str]) -> str:
    """What the curves under these titles of :func:`curves` are, in a sentence; empty without any."""
    kinds = {
        _STEPS: "after so many steps",
        _BUDGETS: "within so large a budget (the most that an image may change)",
        _ATTACKS: "of each attack",
    }
    titles = list(titles)
    said = [words for kind, words in kinds.items() if any(kind in title for title in titles)]
    return (
        f"The AUROC of each method against the images {listing(said)}: the lower, the more they fool it."
        if said
        else ""
    )


def curves(
    rows: Sequence[Judged], made: Mapping[str, Crafted], lines: Mapping[str, int]
) -> tuple[_Panels, list[Stages]]:
    """The panels of one ID set, every model in each so that a menu has them in one order; and the numbers over steps.

    Parameters
    ----------
    lines : mapping of str to int
        What :func:`series` gave.
    """
    stepped, tables = _stages(rows, made, lines)
    panels = {**stepped, **_by_attack(rows, made, lines)}
    drawn = {model for views in panels.values() for model in views}
    models = [model for model in dict.fromkeys(row.model for row in rows) if model in drawn]
    return {
        title: {
            model: views.get(model, View("not available", _NO_STEPS if title in stepped else _UNTESTED, None))
            for model in models
        }
        for title, views in panels.items()
    }, tables


def _stages(
    rows: Sequence[Judged], made: Mapping[str, Crafted], lines: Mapping[str, int]
) -> tuple[_Panels, list[Stages]]:
    """A panel for each attack of an ID set with features of steps on the way, and the numbers in it.

    The clean images are step 0, the features before rounding the last one, where it is known how many there were.
    """
    panels, tables = _Panels(), list[Stages]()
    for attack in dict.fromkeys(row.attack for row in rows):
        views = {}
        last = made[attack].steps if attack in made else None
        for model in dict.fromkeys(row.model for row in rows):
            mine = [row for row in rows if (row.attack, row.model) == (attack, model) and row.method in lines]
            by_row = [(row, _curve(row, last)) for row in mine]
            by_row = [(row, curve) for row, curve in by_row if curve]
            if by_row:
                steps = sorted({step for _, curve in by_row for step in curve})
                texts = [
                    (row.label, lines[row.method], tuple(percent(curve.get(step)) for step in steps))
                    for row, curve in by_row
                ]
                tables.append(Stages(attack, model, tuple(f"{step:,}" for step in steps), tuple(texts)))
                points = [(row, [(step, curve[step]) for step in sorted(curve)]) for row, curve in by_row]
                said = f"against the steps of {attack}. The numbers are in the table that follows."
                views[model] = _view(points, lines, "steps", said)
        if views:
            panels[f"{attack}{_STEPS}"] = views
    return panels, tables


def _by_attack(rows: Sequence[Judged], made: Mapping[str, Crafted], lines: Mapping[str, int]) -> _Panels:
    """A panel for each OOD set attacked in several ways, and one for attacks that differ in the budget alone."""
    groups: dict[str, list[Crafted]] = {}
    for name in dict.fromkeys(row.attack for row in rows):
        attack = made.get(name)
        if attack is not None and attack.ood is not None:
            groups.setdefault(attack.ood, []).append(attack)
    panels: dict[str, dict[str, View | None]] = {}
    models = list(dict.fromkeys(row.model for row in rows))
    for ood, some in groups.items():
        kinds: dict[str | None, list[Crafted]] = {}
        for attack in some:
            kinds.setdefault(attack.but_budget, []).append(attack)
        several = [those for kind, those in kinds.items() if kind is not None and len(those) > 1]
        name = dataset_label(ood)
        for number, those in enumerate(several, start=1):
            title = f"{name}{_BUDGETS}" + (f" ({number})" if len(several) > 1 else "")
            panels[title] = {model: _compared(model, rows, ood, those, lines, ranked=True) for model in models}
        if len(some) > 1 and [some] != several:
            panels[f"{name}{_ATTACKS}"] = {
                model: _compared(model, rows, ood, some, lines, ranked=False) for model in models
            }
    known = {title: {model: view for model, view in views.items() if view} for title, views in panels.items()}
    return {title: views for title, views in known.items() if views}


def _curve(row: Judged, last: int | None) -> dict[int, float]:
    """AUROC by steps; empty where no step on the way is known."""
    by_step = {steps_of(f"{row.attack}/{split}"): mean.auroc for split, mean in row.known.items()}
    found = {step: value for step, value in by_step.items() if step is not None and value is not None}
    if not found:
        return {}
    whole = row.auroc(FLOAT)
    return {**found, 0: row.clean, **({last: whole} if last is not None and whole is not None else {})}


def _compared(
    model: str,
    rows: Sequence[Judged],
    ood: str,
    attacks: Sequence[Crafted],
    lines: Mapping[str, int],
    *,
    ranked: bool,
) -> View | None:
    """Of one model; `ranked` attacks are placed by their budgets. None where fewer than two were tested."""
    mine = {(row.attack, row.method): row for row in rows if row.model == model and row.method in lines}
    names = [attack.name for attack in attacks if any(name == attack.name for name, _ in mine)]
    if len(names) < 2:
        return None
    budgets = {attack.name: attack.budget for attack in attacks if attack.budget is not None}
    short = {name: plain(name.removeprefix(f"{ood.partition('/')[0]}-")) for name in names}
    curves = []
    for method in lines:
        known = [mine[name, method] for name in names if (name, method) in mine]
        if not known:
            continue
        points: list[tuple[Any, float]] = [
            (place(budgets[row.attack]) if ranked else short[row.attack], row.adversarial) for row in known
        ]
        # One number where all are of the same images; of a choice each, clean images would have several.
        if len({row.clean for row in known}) == 1:
            points.insert(0, (0 if ranked else CLEAN, known[0].clean))
        curves.append((known[0], sorted(points) if ranked else points))
    said = f"on {dataset_label(ood)} after {count(len(names), 'attack')}. The numbers are in the tables before."
    return _view(curves, lines, across(budgets.values()) if ranked else "", said, joined=ranked)


def _view(
    curves: Sequence[tuple[Judged, Sequence[tuple[Any, float]]]],
    lines: Mapping[str, int],
    x: str,
    said: str,
    *,
    joined: bool = True,
) -> View:
    from plotly import graph_objects as go

    traces = [
        go.Scatter(
            x=[at for at, _ in points],
            y=[round(100 * value, 2) for _, value in points],
            mode="lines+markers" if joined else "markers",
            meta=f"series {lines[row.method]}",
            text=[plain(row.label)] * len(points),
            hovertemplate=f"<b>%{{text}}</b><br>{x} %{{x}}<br>AUROC %{{y:.1f}} %<extra></extra>",
        )
        for row, points in curves
    ]
    first = curves[0][0]
    axis: dict[str, Any] = {"title": {"text": x}, "type": "linear" if joined else "category"}
    if not joined:
        names = list(dict.fromkeys(at for _, points in curves for at, _ in points))
        # Every attack has its name; of many, every second one is a line lower, so that none is written on another.
        low = len(names) > _NAMES_IN_A_LINE
        texts = [f"<br>{name}" if low and number % 2 else name for number, name in enumerate(names)]
        axis |= {"tickmode": "array", "tickvals": names, "ticktext": texts}
    layout = go.Layout(xaxis=axis, yaxis={"title": {"text": "AUROC (%)"}})
    description = f"AUROC of {count(len(curves), 'score')} of {first.model} with {first.id_dataset} as ID data, {said}"
    return View("", description, {"data": [t.to_plotly_json() for t in traces], "layout": layout.to_plotly_json()})
