"""Where classification fails: the worst classes, what is taken for what, and which prompts do badly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from embedstore.records import Result
from embedstore.report.names import label, named, row_order
from embedstore.report.summary import percent
from embedstore.report.table import setting

WORST = 10
# What guesses by the class names alone, which is how pseudo-labels are given.
_BY_NAMES = ("zero-shot", "mcm")


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


def weak_spots(results: Iterable[Result]) -> list[WeakSpots]:
    """One per ID set whose results say anything of single classes or prompts."""
    results = list(results)
    found = []
    for name in sorted({result.id_dataset for result in results}):
        here = [result for result in results if result.id_dataset == name and result.absent is None]
        best = _best(here, "class_accuracy")
        tables = [*(_classes(best) if best else ()), *(_confusions(best) if best else ())]
        model = best.model if best else None
        pseudo = _best([result for result in here if result.method in _BY_NAMES], "confused", model)
        if pseudo is not None and pseudo is not best:
            tables += _confusions(pseudo, pseudo_labels=True)
        agreeing = _best([result for result in here if result.method == "plp"], "class_agreement", model)
        tables += _agreement(agreeing) if agreeing else ()
        prompts = _best(here, "template_accuracy", model)
        tables += _templates(prompts) if prompts else ()
        if tables:
            found.append(WeakSpots(name, tuple(tables)))
    return found


def _best(results: Iterable[Result], detail: str, model: str | None = None) -> Result | None:
    """The most accurate classifier (by the mean over its seeds) that has `detail`, of `model` if that one has it."""
    groups: dict[tuple[str | None, ...], list[Result]] = {}
    for result in results:
        if result.details.get(detail) and result.id_accuracy is not None:
            key = (result.model, result.method, result.variant, setting(result)[1])
            groups.setdefault(key, []).append(result)
    if not groups:
        return None
    chosen = min(groups.values(), key=lambda group: (group[0].model != model, *_rank(group)))
    return min(chosen, key=lambda result: setting(result)[0] or 0)


def _rank(group: Sequence[Result]) -> tuple[object, ...]:
    first = group[0]
    accuracy = fmean(result.id_accuracy for result in group if result.id_accuracy is not None)
    return (-accuracy, row_order(first.method, first.variant, ""), first.model)


def _who(result: Result) -> str:
    return f"{named(result.method, result.variant)}, {result.model}"


def _classes(best: Result) -> Iterable[Table]:
    known = [(str(name), value, int(n)) for name, value, n in best.details["class_accuracy"] if value is not None]
    if known:
        worst = sorted(known, key=lambda item: item[1])[:WORST]
        taken = _taken_for(best.details)
        rows = tuple((name, percent(value), f"{n:,}", taken.get(name, "")) for name, value, n in worst)
        what = f"The {len(worst)} classes" if len(known) > len(worst) else "The classes"
        yield Table(
            f"{what} of {best.id_dataset} in which the best classifier ({_who(best)}) is wrong most often, in percent.",
            ("Class", "Accuracy", "Test images", "Most often taken for"),
            rows,
            f"Over all images the accuracy is {percent(best.id_accuracy)} %.",
            words=(3,),
        )


def _taken_for(details: Mapping[str, object]) -> dict[str, str]:
    """By class, the one that it is most often taken for; ``confused`` has the most frequent first."""
    found: dict[str, str] = {}
    for true, guessed, _ in _pairs(details):
        found.setdefault(true, guessed)
    return found


def _pairs(details: Mapping[str, object]) -> list[tuple[str, str, int]]:
    pairs = details.get("confused")
    return [(str(true), str(guessed), int(n)) for true, guessed, n in pairs] if isinstance(pairs, list) else []


def _confusions(result: Result, *, pseudo_labels: bool = False) -> Iterable[Table]:
    sizes = {str(name): int(n) for name, _, n in result.details.get("class_accuracy", ())}
    pairs = _pairs(result.details)[:WORST]
    if pairs:
        caption = "What the best classifier takes for what most often"
        if pseudo_labels:
            caption = "What pseudo-labels take for what most often, by the class names and the test images"
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
        templates = setting(result)[1]
        yield Table(
            f"ID accuracy of every single prompt ({label(result.model, templates)}), in percent.",
            ("Prompt", "ID accuracy"),
            tuple((text, percent(value)) for text, value in sorted(known, key=lambda item: -item[1])),
            f"Of all of them together: {percent(result.id_accuracy)} %.",
            folded=len(known) > WORST,
        )
