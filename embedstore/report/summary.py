"""What the report found, in sentences. Numbers are rounded here and in the tables, and nowhere before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.report.attacked import attacks, ordinary, with_whole_bank
from embedstore.report.commands import dataset_label
from embedstore.report.fits import Correlation
from embedstore.report.means import ALL_SETS, Mean, over_groups, over_seeds
from embedstore.report.names import options
from embedstore.report.plots import DEFAULT_LABEL

if TYPE_CHECKING:  # content.py imports modules that use this one
    from embedstore.report.content import Content

DASH = "–"
Groups = Mapping[str, Sequence[str]]

_NAMED_ONE_BY_ONE = 2  # OOD sets of which a sentence says each; of more, a table does
_FEW_MODELS = 6  # of five, the 95 % interval of an R² of 0.9 is 0.17 to 0.99
_WIDE = 0.5

# Methods that learn from the labels of the ID train split, unless an option gives them others; a comparison should not
# pass over that in silence.
_SUPERVISED = frozenset({"linear", "logistic", "mahalanobis", "relative-mahalanobis", "prototypes", "vim", "nnguide"})


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal and no sign: ``"97.3"``; a dash where there is no value."""
    return DASH if value is None else f"{100 * value:.1f}"


def listing(words: Iterable[str]) -> str:
    """``"a"``, ``"a and b"``, ``"a, b and c"``."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def count(number: int, noun: str) -> str:
    """``"1 model"``, ``"5 models"``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def outdated(content: Content) -> str | None:
    """What to say about results that were left out because their inputs changed; None where there are none."""
    if not content.outdated:
        return None
    be = "is" if content.outdated == 1 else "are"
    return f"{count(content.outdated, 'result')} {be} out of date and left out: run probe again."


def paragraphs(content: Content) -> list[str]:
    """The summary: what it is about and what was found; of several ID sets each has a paragraph of its own."""
    about = [text for text in (_scope(content), outdated(content)) if text]
    averaged = once(content.means)
    found = []
    for id_dataset in sorted({mean.id_dataset for mean in averaged}):
        table = [mean for mean in averaged if mean.id_dataset == id_dataset]
        best, accuracy = (
            _best(id_dataset, ordinary(table), content.groups),
            _accuracy(id_dataset, with_whole_bank(table)),
        )
        found.append(" ".join([*best, *accuracy, *_fits(id_dataset, content)]))
    return [" ".join(about), *found] if len(found) > 1 else [" ".join([*about, *found])]


def _scope(content: Content) -> str:
    if not content.cells:
        why = "no method could run" if content.absences else "every result is out of date"
        return f"There are no figures to show: {why}."
    models, methods, oods = (len({getattr(c, name) for c in content.cells}) for name in ("model", "method", "ood"))
    left = attacks({cell.ood for cell in content.cells})
    oods -= len({cell.ood for cell in content.cells if cell.ood.partition("/")[0] in left})
    against = [count(oods, "out-of-distribution (OOD) set")] if oods else []
    against += [f"the images of {count(len(left), 'attack')} on OOD images"] if left else []
    absent = len({absence.method for absence in content.absences} - {cell.method for cell in content.cells})
    unable = f"; {count(absent, 'other method')} could not run" if absent else ""
    seeds = over_seeds(content.means)
    narrowed = content.narrowing.said
    return (
        f"{count(models, 'model')} and {count(methods, 'method')} {'are shown' if narrowed else 'were probed'} with "
        f"{listing(content.datasets)} as in-distribution (ID) data against "
        f"{listing(against)}{f'; the numbers are means {seeds}' if seeds else ''}{unable}."
        f"{f' The report is narrowed to {listing(narrowed)}.' if narrowed else ''}"
    )


def _best(id_dataset: str, table: Sequence[Mean], groups: Groups) -> Iterable[str]:
    clauses = []
    for against, column in _targets(table, groups):
        if not column:
            continue
        best = leaders(column, auroc)
        clause = f"{against}, {_winner(best[0].auroc, best[0].label, best)}"
        rest = [mean for mean in column if not supervised(mean)]
        if supervised(best[0]) and rest:
            best = leaders(rest, auroc)
            clause += f", without training labels {_winner(best[0].auroc, best[0].label, best)}"
        clauses.append(clause)
    if clauses:
        yield f"With {id_dataset} as ID data the best AUROC is, {'; '.join(clauses)}."
    known = {mean.ood for mean in table if mean.auroc is not None}
    partial = [name for name, sets in groups.items() if not known.issuperset(sets)]
    if partial:
        some = listing(f"the {name} sets" for name in partial)
        yield f"Not all of {some} have results, so no mean is given for them."


def _targets(table: Sequence[Mean], groups: Groups) -> Iterable[tuple[str, list[Mean]]]:
    """What the lead names a winner of: each of one or two OOD sets; of more, the groups that are whole; else all."""
    known = [mean for mean in table if mean.auroc is not None]
    sets = sorted({mean.ood for mean in known})
    if len(sets) <= _NAMED_ONE_BY_ONE:
        return [(f"against {dataset_label(ood)}", [mean for mean in known if mean.ood == ood]) for ood in sets]
    return [(_over(name, column), column) for name, column in over_groups(known, groups).items()]


def _over(name: str, column: Sequence[Mean]) -> str:
    if column[0].sets == 1:
        return f"against {dataset_label(column[0].cells[0].ood)} ({name})"
    return f"on average over {f'the {column[0].sets} OOD' if name == ALL_SETS else f'the {name}'} sets"


def _accuracy(id_dataset: str, table: Sequence[Mean]) -> Iterable[str]:
    # Scores and OOD sets of a classifier share its accuracy.
    known = {(mean.model, mean.classifier): mean for mean in table if mean.id_accuracy is not None}
    if known:
        best = leaders(known.values(), lambda mean: mean.id_accuracy or 0.0)
        said = _winner(best[0].id_accuracy, best[0].classifier, best)
        yield f"The best ID accuracy on {id_dataset} is {said}."


def once(table: Iterable[Mean]) -> list[Mean]:
    """Without rows that measure the same scores by another metric set, which are neither rivals nor ties."""
    found: dict[tuple[object, ...], Mean] = {}
    for mean in table:
        chosen = frozenset(pair for pair in options(mean.variant).items() if pair[0] != "metrics")
        key = (mean.model, mean.id_dataset, mean.method, chosen, mean.score, mean.ood, mean.templates)
        found.setdefault(key, mean)
    return list(found.values())


def supervised(mean: Mean) -> bool:
    """Whether it learned from the true labels of the training images."""
    return mean.method in _SUPERVISED and options(mean.variant).get("labels", "true") == "true"


def auroc(mean: Mean) -> float:
    """To rank by; 0 where there is none."""
    return mean.auroc or 0.0


def leaders(table: Iterable[Mean], value: Callable[[Mean], float]) -> list[Mean]:
    """All that share the largest value, those that need the least first."""
    table = sorted(table, key=lambda mean: (supervised(mean), mean.order, mean.model))
    top = max(map(value, table))
    return [mean for mean in table if value(mean) == top]


def _winner(fraction: float | None, name: str, best: Sequence[Mean]) -> str:
    tie = f", tied with {count(len(best) - 1, 'other')}" if len(best) > 1 else ""
    # A line may end between the options of a long name, and nowhere else in it.
    name = name.replace(" · ", whole(" · ")).replace(" (", whole(" ("))
    return f"{_in_words(fraction)} ({name}, {best[0].model}{tie})"


def _in_words(fraction: float | None) -> str:
    return whole(f"{percent(fraction)} %")


def whole(text: str) -> str:
    """The same, not to be broken over two lines."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _fits(id_dataset: str, content: Content) -> Iterable[str]:
    fits = [fit for fit in content.correlations if fit.id_dataset == id_dataset and fit.label == DEFAULT_LABEL]
    shown = sorted((found for fit in fits if (found := _r_squared(fit)) is not None), key=lambda found: found.r_squared)
    if not shown:
        return
    if len(shown) <= _NAMED_ONE_BY_ONE:
        values = listing(str(found) for found in sorted(shown, key=lambda found: found.ood))
    else:
        values = f"from {shown[0]} to {shown[-1]}, over {count(len(shown), 'OOD set')}"
    yield f"Over the models, R² between ID accuracy (20-NN) and the AUROC of the nearest-neighbour score is {values}."
    falling = [dataset_label(found.ood) for found in shown if found.falls]
    if falling:
        yield f"For {listing(falling)} the line falls: there the better classifiers detect worse."
    fewest, wide = min(found.models for found in shown), [found for found in shown if found.is_wide]
    reasons = [f"there are only {count(fewest, 'model')}"] if fewest < _FEW_MODELS else []
    if wide:
        which = "" if len(wide) == len(shown) else f" for {listing(dataset_label(found.ood) for found in wide)}"
        reasons.append(f"the interval is wide{which}")
    if reasons:
        yield f"Take this with caution: {listing(reasons)}."


@dataclass(frozen=True)
class _RSquared:
    """R² on one OOD set with its 95 % interval."""

    ood: str
    r_squared: float
    interval: tuple[float, float]
    models: int
    falls: bool

    @property
    def is_wide(self) -> bool:
        return self.interval[1] - self.interval[0] > _WIDE

    def __str__(self) -> str:
        low, high = self.interval
        numbers = f"{self.r_squared:.2f} for {dataset_label(self.ood)}"
        return f"{numbers} ({whole('95 % interval')} {low:.2f}–{high:.2f})"


def _r_squared(fit: Correlation) -> _RSquared | None:
    if fit.line is None or fit.interval is None:
        return None
    return _RSquared(fit.ood, fit.line.r_squared, fit.interval, len(fit.points), falls=fit.falls)
