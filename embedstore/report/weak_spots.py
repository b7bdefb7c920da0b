"""Where classification fails: the worst classes, what is taken for what, and which prompts do badly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from embedstore.records import Result
from embedstore.report.attacked import results_with_whole_bank
from embedstore.report.lacks import NO_LABELS, Lack
from embedstore.report.names import label, named, row_order
from embedstore.report.summary import DASH, listing, percent
from embedstore.report.table import setting

WORST = 10
# What guesses by the class names alone, which is how pseudo-labels are given.
_BY_NAMES = ("zero-shot", "mcm")
# What a result has to hold for each part, and which methods can have it: all where none is named.
_PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("the classes that fail", "class_accuracy", ()),
    ("what pseudo-labels take for what", "confused", _BY_NAMES),
    ("the classes whose training images get wrong pseudo-labels", "class_agreement", ("plp",)),
    ("the accuracy of every single prompt", "template_accuracy", ("zero-shot",)),
)
# They have no classes, or only those of the training labels.
_MAY_NOT_CLASSIFY = frozenset({"knn", "residual", "kmeans-mahalanobis"})
_EARLY = "results of early versions do not hold that; `embedstore probe --recompute` adds it"
_RARE = "none more than "


@dataclass(frozen=True)
class Table:
    """A small table: its caption, heads, and rows of texts, the first of each row a name.

    ``words`` are the places of other columns that hold no numbers; ``fine`` is said below; ``folded`` hides a long one.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fine: str = ""
    words: tuple[int, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class WeakSpots:
    """The tables of one ID set."""

    id_dataset: str
    tables: tuple[Table, ...]


def weak_spots(results: Iterable[Result]) -> tuple[list[WeakSpots], list[Lack]]:
    """One per ID set whose results say anything of single classes or prompts; and what is left out, and why.

    Results without the train images that an attack aimed at are left out: they are a control of the attack study, and
    no classifier whose weak spots one would ask for.
    """
    results = results_with_whole_bank(results)
    found, lacks = [], []
    for name in sorted({result.id_dataset for result in results if result.absent is None}):
        every = [result for result in results if result.id_dataset == name]
        here = [result for result in every if result.absent is None]
        best, most_accurate = _best(here, "class_accuracy"), _best(here)
        passed_over = most_accurate if best is not None and not _alike(best, most_accurate) else None
        who = "the best classifier" if passed_over is None else "the best classifier that has accuracies by class"
        tables = [*_classes(best, who), *_confusions(best, f"What {who} takes for what most often")] if best else []
        model = best.model if best else None
        pseudo = _best([result for result in here if result.method in _BY_NAMES], "confused", model)
        if pseudo is not None and pseudo is not best:
            tables += _confusions(
                pseudo, "What pseudo-labels take for what most often, by the class names and the test images"
            )
        agreeing = _best([result for result in here if result.method == "plp"], "class_agreement", model)
        tables += _agreement(agreeing) if agreeing else ()
        prompts = _best(here, "template_accuracy", model)
        tables += _templates(prompts) if prompts else ()
        if tables:
            found.append(WeakSpots(name, tuple(tables)))
        lacks += [
            Lack(name, what, why) for what, detail, methods in _PARTS if (why := _why_not(every, detail, methods))
        ]
        if passed_over is not None:
            lacks.append(Lack(name, f"the classes in which {_who(passed_over)} is wrong", _EARLY))
    return found, lacks


def _why_not(every: Iterable[Result], detail: str, methods: Sequence[str]) -> str:
    """Why no result of these methods (of any, if none are given) has a detail; empty where one has it."""
    of_these = [result for result in every if not methods or result.method in methods]
    ran = [result for result in of_these if result.absent is None]
    names = list(dict.fromkeys(result.method for result in ran))
    if any(detail in result.details for result in ran):
        return ""
    if not ran and of_these:
        return f"{listing(dict.fromkeys(result.method for result in of_these))} could not run, for the reasons above"
    if not ran:
        return f"that takes {' or '.join(methods)}, and this report has no result of it"
    if detail == "class_agreement":
        untold = any(result.details for result in ran) and not any("agreement" in result.details for result in ran)
        return "the ID training images have no labels, or more classes than there are prompts" if untold else _EARLY
    if any(result.id_accuracy is not None for result in ran):
        return _EARLY
    if set(names) - _MAY_NOT_CLASSIFY:
        return NO_LABELS
    others = [name for name in names if name != "knn"]
    said = [f"{listing(others)} {'has' if len(others) == 1 else 'have'} no classes"] if others else []
    said += ["knn classifies where both training and test images have labels"] if "knn" in names else []
    return ", and ".join(said)


def _best(results: Iterable[Result], detail: str | None = None, model: str | None = None) -> Result | None:
    """The most accurate classifier (by the mean over its seeds) that has `detail`, of `model` if that one has it.

    One may have a detail and no accuracy: pseudo-labels are held against the labels of the training images.
    """
    groups: dict[tuple[str | None, ...], list[Result]] = {}
    for result in results:
        if result.details.get(detail) if detail else result.id_accuracy is not None:
            groups.setdefault(_classifier(result), []).append(result)
    if not groups:
        return None
    chosen = min(groups.values(), key=lambda group: (group[0].model != model, *_rank(group)))
    return min(chosen, key=lambda result: setting(result)[0] or 0)


def _classifier(result: Result) -> tuple[str | None, ...]:
    return (result.model, result.method, result.variant, setting(result)[1])


def _alike(one: Result, other: Result | None) -> bool:
    """Whether they are the same classifier, or are as accurate."""
    return other is not None and (_classifier(one) == _classifier(other) or one.id_accuracy == other.id_accuracy)


def _rank(group: Sequence[Result]) -> tuple[object, ...]:
    first = group[0]
    known = [result.id_accuracy for result in group if result.id_accuracy is not None]
    return (-fmean(known or [0.0]), row_order(first.method, first.variant, ""), first.model)


def _who(result: Result) -> str:
    return f"{named(result.method, result.variant)}, {result.model}"


def _classes(best: Result, who: str) -> Iterable[Table]:
    known = [(str(name), value, int(n)) for name, value, n in best.details["class_accuracy"] if value is not None]
    if known:
        worst = sorted(known, key=lambda item: item[1])[:WORST]
        pairs = _pairs(best.details)
        rows = tuple((name, percent(value), f"{n:,}", _taken_for(name, value, pairs)) for name, value, n in worst)
        what = f"The {len(worst)} classes" if len(known) > len(worst) else "The classes"
        fine = f"Over all images the accuracy is {percent(best.id_accuracy)} %."
        if any(row[3].startswith(_RARE) for row in rows):
            fine += f" Of all pairs of classes, the result keeps the {len(pairs)} that are confused most often."
        yield Table(
            f"{what} of {best.id_dataset} in which {who} ({_who(best)}) is wrong most often, in percent.",
            ("Class", "Accuracy", "Test images", "Most often taken for"),
            rows,
            fine,
            words=(3,),
        )


def _taken_for(name: str, accuracy: float, pairs: Sequence[tuple[str, str, int]]) -> str:
    """The class that one is most often taken for. ``pairs`` are the most frequent confusions, the first ones first.

    Of a class without a pair among them no other pair is more frequent than the last of them.
    """
    found = next((guessed for true, guessed, _ in pairs if true == name), None)
    if found is not None:
        return found
    if accuracy == 1 or not pairs:
        return DASH
    most = pairs[-1][2]
    return f"{_RARE}{'once' if most == 1 else f'{most:,} times'}"


def _pairs(details: Mapping[str, object]) -> list[tuple[str, str, int]]:
    pairs = details.get("confused")
    return [(str(true), str(guessed), int(n)) for true, guessed, n in pairs] if isinstance(pairs, list) else []


def _confusions(result: Result, caption: str) -> Iterable[Table]:
    sizes = {str(name): int(n) for name, _, n in result.details.get("class_accuracy", ())}
    pairs = _pairs(result.details)[:WORST]
    if pairs:
        rows = tuple(
            (true, guessed, f"{n:,}", percent(n / sizes[true]) if sizes.get(true) else percent(None))
            for true, guessed, n in pairs
        )
        columns = ("Class", "Taken for", "Images", "% of the class")
        yield Table(f"{caption} ({_who(result)}).", columns, rows, words=(1,))


def _agreement(result: Result) -> Iterable[Table]:
    known = [(str(name), value) for name, value in result.details["class_agreement"] if value is not None]
    if known:
        worst = sorted(known, key=lambda item: item[1])[:WORST]
        whole = result.details.get("agreement")
        yield Table(
            f"Classes whose training images get the right pseudo-label least often ({result.model}), in percent.",
            ("Class", "Right pseudo-labels"),
            tuple((name, percent(value)) for name, value in worst),
            f"Over all training images {percent(whole)} % are right." if isinstance(whole, float) else "",
        )


def _templates(result: Result) -> Iterable[Table]:
    known = [(str(text), value) for text, value in result.details["template_accuracy"] if value is not None]
    if known:
        who = label(result.model, result.method, f"prompts {setting(result)[1]}")
        yield Table(
            f"ID accuracy of every single prompt ({who}), in percent.",
            ("Prompt", "ID accuracy"),
            tuple((text, percent(value)) for text, value in sorted(known, key=lambda item: -item[1])),
            f"Of all of them together: {percent(result.id_accuracy)} %.",
            folded=len(known) > WORST,
        )
