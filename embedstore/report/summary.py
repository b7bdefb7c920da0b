"""What the report found, in sentences. Numbers are rounded here and in the tables, and nowhere before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.means import Mean, means, over_seeds
from embedstore.report.names import options
from embedstore.report.plots import DEFAULT_LABEL

DASH = "–"

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


def sentences(content: Content) -> list[str]:
    """The summary, one sentence an element."""
    said = [_scope(content)]
    averaged = _once(means(content.cells))
    for id_dataset in sorted({mean.id_dataset for mean in averaged}):
        table = [mean for mean in averaged if mean.id_dataset == id_dataset]
        said += [*_best(id_dataset, table), *_accuracy(id_dataset, table), *_fits(id_dataset, content)]
    stale = outdated(content)
    return [*said, stale] if stale else said


def _scope(content: Content) -> str:
    if not content.cells:
        why = "no method could run" if content.absences else "every result is out of date"
        return f"There are no figures to show: {why}."
    models, methods, oods = (len({getattr(c, name) for c in content.cells}) for name in ("model", "method", "ood"))
    seeds = over_seeds(means(content.cells))
    return (
        f"{count(models, 'model')} and {count(methods, 'method')} were probed with {listing(content.datasets)} as "
        f"in-distribution (ID) data against {count(oods, 'out-of-distribution (OOD) set')}"
        f"{f'; the numbers are means {seeds}' if seeds else ''}."
    )


def _best(id_dataset: str, table: Sequence[Mean]) -> Iterable[str]:
    clauses = []
    for ood in sorted({mean.ood for mean in table}):
        column = [mean for mean in table if mean.ood == ood and mean.auroc is not None]
        if not column:
            continue
        best = _leaders(column, _auroc)
        clause = f"against {dataset_label(ood)}, {_winner(best[0].auroc, best[0].label, best)}"
        unsupervised = [mean for mean in column if not _supervised(mean)]
        if _supervised(best[0]) and unsupervised:
            best = _leaders(unsupervised, _auroc)
            clause += f", without training labels {_winner(best[0].auroc, best[0].label, best)}"
        clauses.append(clause)
    if clauses:
        yield f"With {id_dataset} as ID data the best AUROC is, {'; '.join(clauses)}."


def _accuracy(id_dataset: str, table: Sequence[Mean]) -> Iterable[str]:
    # Scores and OOD sets of a classifier share its accuracy.
    known = {(mean.model, mean.classifier): mean for mean in table if mean.id_accuracy is not None}
    if known:
        best = _leaders(known.values(), lambda mean: mean.id_accuracy or 0.0)
        said = _winner(best[0].id_accuracy, best[0].classifier, best)
        yield f"The best ID accuracy on {id_dataset} is {said}."


def _once(table: Iterable[Mean]) -> list[Mean]:
    """Without rows that measure the same scores by another metric set, which are neither rivals nor ties."""
    found: dict[tuple[object, ...], Mean] = {}
    for mean in table:
        chosen = frozenset(pair for pair in options(mean.variant).items() if pair[0] != "metrics")
        key = (mean.model, mean.id_dataset, mean.method, chosen, mean.score, mean.ood, mean.templates)
        found.setdefault(key, mean)
    return list(found.values())


def _supervised(mean: Mean) -> bool:
    return mean.method in _SUPERVISED and options(mean.variant).get("labels", "true") == "true"


def _auroc(mean: Mean) -> float:
    return mean.auroc or 0.0


def _leaders(table: Iterable[Mean], value: Callable[[Mean], float]) -> list[Mean]:
    """All that share the largest value, those that need the least first."""
    table = sorted(table, key=lambda mean: (mean.order, mean.model))
    top = max(map(value, table))
    return [mean for mean in table if value(mean) == top]


def _winner(fraction: float | None, name: str, leaders: Sequence[Mean]) -> str:
    tie = f", tied with {count(len(leaders) - 1, 'other')}" if len(leaders) > 1 else ""
    # A line may end between the options of a long name, and nowhere else in it.
    name = name.replace(" · ", _whole(" · ")).replace(" (", _whole(" ("))
    return f"{_in_words(fraction)} ({name}, {leaders[0].model}{tie})"


def _in_words(fraction: float | None) -> str:
    return _whole(f"{percent(fraction)} %")


def _whole(text: str) -> str:
    """The same, not to be broken over two lines."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _fits(id_dataset: str, content: Content) -> Iterable[str]:
    shown = [fit for fit in content.correlations if fit.id_dataset == id_dataset and fit.label == DEFAULT_LABEL]
    values = [f"{fit.r_squared:.2f} for {dataset_label(fit.ood)}" for fit in shown if fit.r_squared is not None]
    if values:
        yield (
            f"Over the models, R² between ID accuracy (20-NN) and the AUROC of the nearest-neighbour score is "
            f"{listing(values)}."
        )
