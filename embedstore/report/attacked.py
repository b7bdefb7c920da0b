"""Which OOD sets an attack left: clean and manipulated images, and features of them, under the name of one data set.

They measure robustness, and have a section of their own. In a mean over OOD sets, in R² and in the lead of the summary
they would count the same images several times, some of which were made so that detection fails.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from embedstore.records import Result
from embedstore.report.names import options

CLEAN, ADVERSARIAL, FLOAT = "clean", "adversarial", "float"
LEFT_OUT = "train_left_out"  # what a variant says of `probe --without`
_STEP = re.compile(r"step-(\d{1,9})")


class _Against(Protocol):
    @property
    def id_dataset(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def ood(self) -> str: ...


class _OfModel(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def ood(self) -> str: ...


_Item = TypeVar("_Item", bound=_Against)


def attacks(oods: Iterable[str]) -> list[str]:
    """The data sets among OOD sets (``"name/split"``) that an attack left: those with both its splits. Sorted."""
    splits: dict[str, set[str]] = {}
    for ood in oods:
        dataset, _, split = ood.partition("/")
        splits.setdefault(dataset, set()).add(split)
    return sorted(name for name, found in splits.items() if {CLEAN, ADVERSARIAL} <= found)


def steps_of(ood: str) -> int | None:
    """After how many steps the features of a split ``step-K`` were kept; None of any other split."""
    found = _STEP.fullmatch(ood.partition("/")[2])
    return int(found[1]) if found else None


def ordinary(items: Iterable[_Item]) -> list[_Item]:
    """Those that are neither against what an attack left nor, beside an attack, without the train images it aimed at.

    Of an ID set that was tested against nothing else, those against the clean images, which are no worse than others:
    of the first attack by name, since several may have begun with the same images, and would make a mean of nothing.
    """
    items = with_whole_bank(items)
    kept = {name: _ordinary(oods) for name, oods in _oods(items).items()}
    return [item for item in items if item.ood in kept[item.id_dataset]]


def which_models(every: Iterable[_OfModel], kept: Iterable[_OfModel]) -> str:
    """Which models are counted of one ID set, in words that follow "model"; empty where all are.

    The others met the images of attacks alone.

    Parameters
    ----------
    every, kept : iterable
        Rows of one ID set, and those of them that :func:`ordinary` left.
    """
    kept = list(kept)
    if {item.model for item in every} == {item.model for item in kept}:
        return ""
    cleans = {item.ood for item in kept if item.ood.partition("/")[2] == CLEAN}
    only = next(iter(cleans)) if len(cleans) == 1 and cleans == {item.ood for item in kept} else None
    return " with an ordinary OOD set" if only is None else f" tested against {only.replace('/', ':')}"


def with_whole_bank(items: Iterable[_Item]) -> list[_Item]:
    """Those that left no train images out, of ID sets that were tested against an attack; all of others.

    Without the images that an attack aimed at (`probe --without targets.txt`) a detector is a control of the attack
    study: it shows whether they alone are to blame, and is nothing that one would choose. So it is no candidate for
    the best of anything, unless an ID set has nothing else.
    """
    items = list(items)
    attacked = _attacked((item.id_dataset, item.variant, [item.ood]) for item in items)
    return [item for item in items if not (item.id_dataset in attacked and LEFT_OUT in options(item.variant))]


def results_with_whole_bank(results: Iterable[Result]) -> list[Result]:
    """The same of results, for what is said of classifiers."""
    results = list(results)
    attacked = _attacked(
        (each.id_dataset, each.variant, each.metrics[score]) for each in results for score in each.metrics
    )
    return [each for each in results if not (each.id_dataset in attacked and LEFT_OUT in options(each.variant))]


def _attacked(tested: Iterable[tuple[str, str, Iterable[str]]]) -> set[str]:
    """The ID sets that were tested against an attack, with all train images too, of (ID set, variant, OOD sets)."""
    oods: dict[str, set[str]] = {}
    whole = set()
    for id_dataset, variant, names in tested:
        oods.setdefault(id_dataset, set()).update(names)
        if LEFT_OUT not in options(variant):
            whole.add(id_dataset)
    return {name for name in whole if attacks(oods[name])}


def _oods(items: Iterable[_Item]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item.id_dataset, set()).add(item.ood)
    return found


def _ordinary(oods: set[str]) -> set[str]:
    left = attacks(oods)
    others = {ood for ood in oods if ood.partition("/")[0] not in left}
    return others or {f"{name}/{CLEAN}" for name in left[:1]}


def decisive(oods: Collection[str], left: Collection[str]) -> set[str]:
    """By which of some OOD sets a choice among rows is made: not by those that the attacks `left` made.

    Where there is nothing else it is made by the clean images, and by all where there are none of these.
    """
    others = {ood for ood in oods if ood.partition("/")[0] not in left}
    return others or {ood for ood in oods if ood.partition("/")[2] == CLEAN} or set(oods)


def in_main_table(items: Iterable[_Item]) -> tuple[list[_Item], list[str]]:
    """Those that have a column in the main table, and the attacks that leave some out.

    An attack whose features were kept on the way would fill the table with columns that its own section draws.
    """
    items = list(items)
    oods = {item.ood for item in items}
    crowded = {name for name in attacks(oods) if any(steps_of(ood) is not None for ood in oods if _is_of(ood, name))}
    hidden = {ood for ood in oods for name in crowded if _is_of(ood, name) and _is_on_the_way(ood)}
    return [item for item in items if item.ood not in hidden], sorted(crowded)


def _is_of(ood: str, attack: str) -> bool:
    return ood.partition("/")[0] == attack


def _is_on_the_way(ood: str) -> bool:
    return ood.partition("/")[2] == FLOAT or steps_of(ood) is not None
