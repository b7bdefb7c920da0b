"""The smaller tables of the page: absent methods, R², points, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from embedstore.records import Provenance
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.fits import Correlation
from embedstore.report.summary import DASH, count, listing, percent
from embedstore.report.table import Absence


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
        models.setdefault((absence.label, absence.reason), {})[absence.model] = None
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
    reasons: dict[str, list[Correlation]] = {}
    for fit in fits:
        if fit.reason:
            reasons.setdefault(fit.reason, []).append(fit)
    known = {(fit.label, fit.ood): _r_squared(fit) for fit in fits}
    labels = list(dict.fromkeys(fit.label for fit in fits if fit.r_squared is not None))
    oods = sorted({fit.ood for fit in fits})
    numbers = sorted({len(fit.points) for fit in fits if fit.r_squared is not None})
    return FitTable(
        columns=tuple(dataset_label(ood) for ood in oods),
        rows=tuple((name, tuple(known.get((name, ood), DASH) for ood in oods)) for name in labels),
        models=f"{numbers[0]} to {count(numbers[-1], 'model')}" if len(numbers) > 1 else count(sum(numbers), "model"),
        # Named where it concerns some of the fits only.
        reasons=tuple(
            f"{reason}." if len(which) == len(fits) else f"{_which(which, fits)}: {reason}."
            for reason, which in reasons.items()
        ),
    )


def _which(some: Sequence[Correlation], fits: Sequence[Correlation]) -> str:
    """The names of some fits, with their OOD sets where those are not all that the method has."""
    said = []
    for label in dict.fromkeys(fit.label for fit in some):
        oods = [dataset_label(fit.ood) for fit in some if fit.label == label]
        whole = len(oods) == sum(fit.label == label for fit in fits)
        said += [label] if whole else [f"{label} on {ood}" for ood in oods]
    return listing(said)


def _r_squared(fit: Correlation) -> str:
    """R² has no sign; where AUROC falls with accuracy, and not by accident, an arrow says so."""
    if fit.r_squared is None:
        return DASH
    return f"{fit.r_squared:.2f}{'↘' if fit.falls else ''}"


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


PROVENANCE_COLUMNS = ("Architecture", "Pretrained", "SHA-256", "Image", "Precision", "Width", "Extracted", "Probed")


def provenance_rows(content: Content) -> list[ModelRow]:
    """One row per model, under ``PROVENANCE_COLUMNS``."""
    return [
        _provenance(name, made, _days(map(datetime.isoformat, content.extracted.get(name, ()))), _probed(content, name))
        for name, made in content.models.items()
    ]


def _provenance(name: str, made: Provenance | None, extracted: str, probed: str) -> ModelRow:
    if made is None:
        return ModelRow(name, (*(DASH,) * (len(PROVENANCE_COLUMNS) - 1), probed), missing=True)
    width = f"{made.feature_dim}" + (f" → {made.joint_dim}" if made.joint_dim != made.feature_dim else "")
    short = made.weights_sha256[:12]
    precision = f"{made.precision} → {made.dtype}"
    values = (made.architecture, made.pretrained, short, image_size(made.preprocess), precision, width)
    return ModelRow(name, (*values, extracted, probed))


def image_size(preprocess: Mapping[str, object]) -> str:
    """``"224 × 224"`` from what a provenance says of preprocessing; a dash where it does not say."""
    size = preprocess.get("size", preprocess.get("input_size"))
    if isinstance(size, int):
        return f"{size} × {size}"
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) >= 2:
        return f"{size[-2]} × {size[-1]}"
    return DASH


def _probed(content: Content, model: str) -> str:
    return _days(result.created for result in content.results if result.model == model and result.created)


def _days(moments: Iterable[str]) -> str:
    """``"2026-01-30 to 2026-01-31"`` from moments in ISO 8601; a dash where there are none."""
    days = sorted({moment[:10] for moment in moments})
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
