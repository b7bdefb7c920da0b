"""The tables of the page: numbers as they are printed, with what is best in each column and which footnote belongs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from embedstore.records import Provenance
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.fits import Correlation
from embedstore.report.means import Mean, means, over_seeds
from embedstore.report.summary import DASH, count, listing, percent
from embedstore.report.table import Absence, Cell, row_order

# What a reader who is new to the field needs in order to read a row, and what the method had to know.
GLOSSARY = {
    "knn": "cosine similarity to the nearest ID training image, without labels. Its ID accuracy is by a vote of the "
    "20 nearest.",
    "mcm": "softmax over the cosines to the class names (maximum concept matching, pseudo-MSP). No training images.",
    "plp": "pseudo-label probing: a linear layer trained on the labels that the text encoder gives to the training "
    "images. No true labels.",
    "linear": "a linear layer trained on the true labels.",
    "mahalanobis": "distance to the nearest class mean, in units of the classes' covariance. True labels.",
    "relative-mahalanobis": "the same, less the distance to the mean of all training images. True labels.",
    "msp": "score: the largest softmax probability.",
    "energy": "score: the log-sum-exp of the logits.",
}


@dataclass(frozen=True)
class Number:
    """A table cell; ``best`` marks the best value of its column, ``spread`` is the deviation over seeds, if any."""

    text: str
    best: bool = False
    spread: str = ""


@dataclass(frozen=True)
class Row:
    """One method of one model: ``numbers`` is accuracy, then AUROC and FPR95 of each OOD set."""

    label: str
    numbers: tuple[Number, ...]
    footnote: int | None = None


@dataclass(frozen=True)
class Column:
    """An OOD set as a column head."""

    label: str
    size: str


@dataclass(frozen=True)
class MainTable:
    """The main table of one ID data set; ``footnotes`` are numbered from one.

    ``seeds`` is ``"over 3 seeds"`` where numbers are means, ``has_spread`` whether any of them differs between seeds.
    """

    id_dataset: str
    columns: tuple[Column, ...]
    models: tuple[tuple[str, tuple[Row, ...]], ...]
    footnotes: tuple[str, ...]
    glossary: tuple[tuple[str, str], ...]
    has_gaps: bool
    seeds: str
    has_spread: bool


def main_table(id_dataset: str, cells: Iterable[Cell], absences: Iterable[Absence]) -> MainTable:
    """Models × methods by OOD sets, of one ID data set."""
    here = [cell for cell in cells if cell.id_dataset == id_dataset]
    absent = [absence for absence in absences if absence.id_dataset == id_dataset]
    oods = sorted({cell.ood for cell in here})
    averaged = means(here)
    best = _best(averaged, oods)
    footnotes = list(dict.fromkeys(f"{absence.method}: {absence.reason}" for absence in absent))
    models = []
    for model in sorted({cell.model for cell in here} | {absence.model for absence in absent}):
        mine = [mean for mean in averaged if mean.model == model]
        orders = sorted({mean.order for mean in mine})
        rows = [(order, _row([mean for mean in mine if mean.order == order], oods, best)) for order in orders]
        for absence in absent:
            if absence.model == model:
                number = footnotes.index(f"{absence.method}: {absence.reason}") + 1
                dashes = (Number(DASH),) * (1 + 2 * len(oods))
                rows.append(((row_order(absence.method, ""), ""), Row(absence.method, dashes, number)))
        models.append((model, tuple(row for _, row in sorted(rows, key=lambda pair: pair[0]))))
    terms = {cell.method for cell in here} | {cell.score for cell in here} | {absence.method for absence in absent}
    gaps = any(number.text == DASH for _, rows in models for row in rows if not row.footnote for number in row.numbers)
    return MainTable(
        id_dataset=id_dataset,
        columns=tuple(Column(dataset_label(ood), _size(here, ood)) for ood in oods),
        models=tuple(models),
        footnotes=tuple(footnotes),
        glossary=tuple((term, meaning) for term, meaning in GLOSSARY.items() if term in terms),
        has_gaps=gaps,
        seeds=over_seeds(averaged),
        has_spread=any(number.spread for _, rows in models for row in rows for number in row.numbers),
    )


def _best(table: Sequence[Mean], oods: Sequence[str]) -> list[float | None]:
    """The best value of each column, as stored: rounding first would make ties that are none."""
    columns = [max((mean.id_accuracy for mean in table if mean.id_accuracy is not None), default=None)]
    for ood in oods:
        column = [mean for mean in table if mean.ood == ood]
        columns.append(max((mean.auroc for mean in column if mean.auroc is not None), default=None))
        columns.append(min((mean.fpr95 for mean in column if mean.fpr95 is not None), default=None))
    return columns


def _row(table: Sequence[Mean], oods: Sequence[str], best: Sequence[float | None]) -> Row:
    by_ood = {mean.ood: mean for mean in table}
    values: list[tuple[float | None, float | None]] = [(table[0].id_accuracy, None)]
    for ood in oods:
        mean = by_ood.get(ood)
        values += [(mean.auroc, mean.spread), (mean.fpr95, None)] if mean else [(None, None)] * 2
    numbers = (
        Number(percent(value), value is not None and value == top, _spread(spread))
        for (value, spread), top in zip(values, best, strict=True)
    )
    return Row(table[0].label, tuple(numbers))


def _spread(value: float | None) -> str:
    """``"± 0.4"``; nothing for what would be ± 0.0, as that of a method that does not depend on the seed."""
    text = percent(value)
    return "" if value is None or float(text) == 0 else f"±\N{NO-BREAK SPACE}{text}"


def _size(cells: Iterable[Cell], ood: str) -> str:
    sizes = {cell.n_ood for cell in cells if cell.ood == ood and cell.n_ood is not None}
    return count(sizes.pop(), "image") if len(sizes) == 1 else ""


@dataclass(frozen=True)
class AbsentMethod:
    """A method that could not run, why, and the models that this is true of."""

    method: str
    reason: str
    models: tuple[str, ...]


def absent_methods(absences: Iterable[Absence]) -> list[AbsentMethod]:
    """Each reason once."""
    models: dict[tuple[str, str], dict[str, None]] = {}
    for absence in absences:
        models.setdefault((absence.method, absence.reason), {})[absence.model] = None
    return [AbsentMethod(method, reason, tuple(names)) for (method, reason), names in models.items()]


@dataclass(frozen=True)
class FitTable:
    """R² by method and OOD set, of one ID data set. ``reasons`` say why a value is missing."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    models: str
    reasons: tuple[str, ...]


def fit_table(fits: Sequence[Correlation]) -> FitTable:
    """The R² of one ID data set's fits; without rows where none of them has one."""
    reasons: dict[str, list[str]] = {}
    for fit in fits:
        if fit.reason:
            reasons.setdefault(fit.reason, []).append(f"{fit.label} on {dataset_label(fit.ood)}")
    known = {(fit.label, fit.ood): fit.r_squared for fit in fits}
    labels = list(dict.fromkeys(fit.label for fit in fits if fit.r_squared is not None))
    oods = sorted({fit.ood for fit in fits})
    numbers = sorted({len(fit.points) for fit in fits if fit.r_squared is not None})
    return FitTable(
        columns=tuple(dataset_label(ood) for ood in oods),
        rows=tuple((name, tuple(_two_places(known.get((name, ood))) for ood in oods)) for name in labels),
        models=f"{numbers[0]} to {count(numbers[-1], 'model')}" if len(numbers) > 1 else count(sum(numbers), "model"),
        # Named where it concerns some of the fits only.
        reasons=tuple(
            f"{reason}." if len(which) == len(fits) else f"{listing(which)}: {reason}."
            for reason, which in reasons.items()
        ),
    )


def _two_places(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


@dataclass(frozen=True)
class PointTable:
    """The numbers behind the scatter plots of one method: model, ID accuracy, AUROC of each OOD set."""

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def point_tables(fits: Sequence[Correlation]) -> list[PointTable]:
    """One table per method, of one ID data set's fits."""
    found = []
    for name in dict.fromkeys(fit.label for fit in fits):
        mine = sorted((fit for fit in fits if fit.label == name), key=lambda fit: fit.ood)
        accuracy = {point.model: point.id_accuracy for fit in mine for point in fit.points}
        auroc = {(point.model, fit.ood): point.auroc for fit in mine for point in fit.points}
        rows = tuple(
            (model, (percent(x), *(percent(auroc.get((model, fit.ood))) for fit in mine)))
            for model, x in sorted(accuracy.items())
        )
        found.append(PointTable(name, tuple(dataset_label(fit.ood) for fit in mine), rows))
    return found


@dataclass(frozen=True)
class ModelRow:
    """What made one model's embeddings, for the provenance table."""

    model: str
    values: tuple[str, ...]
    missing: bool = False


PROVENANCE_COLUMNS = ("Architecture", "Pretrained", "SHA-256", "Image", "Precision", "Width", "Probed")


def provenance_rows(content: Content) -> list[ModelRow]:
    """One row per model, under ``PROVENANCE_COLUMNS``."""
    return [_provenance(name, made, _probed(content, name)) for name, made in content.models.items()]


def _provenance(name: str, made: Provenance | None, probed: str) -> ModelRow:
    if made is None:
        return ModelRow(name, (*(DASH,) * (len(PROVENANCE_COLUMNS) - 1), probed), missing=True)
    width = f"{made.feature_dim}" + (f" → {made.joint_dim}" if made.joint_dim != made.feature_dim else "")
    short = made.weights_sha256[:12]
    precision = f"{made.precision} → {made.dtype}"
    values = (made.architecture, made.pretrained, short, image_size(made.preprocess), precision, width)
    return ModelRow(name, (*values, probed))


def image_size(preprocess: Mapping[str, object]) -> str:
    """``"224 × 224"`` from what a provenance says of preprocessing; a dash where it does not say."""
    size = preprocess.get("size", preprocess.get("input_size"))
    if isinstance(size, int):
        return f"{size} × {size}"
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) >= 2:
        return f"{size[-2]} × {size[-1]}"
    return DASH


def _probed(content: Content, model: str) -> str:
    days = sorted({result.created[:10] for result in content.results if result.model == model and result.created})
    return DASH if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def libraries(models: Mapping[str, Provenance | None]) -> list[str]:
    """One sentence per set of library versions that embedded something, with the models where the sets differ."""
    users: dict[str, list[str]] = {}
    for name, made in models.items():
        if made is not None and made.versions:
            users.setdefault(listing(f"{lib} {version}" for lib, version in sorted(made.versions.items())), []).append(
                name
            )
    if len(users) == 1:
        return [f"Embedded with {versions}." for versions in users]
    return [f"{listing(names)}: embedded with {versions}." for versions, names in users.items()]
