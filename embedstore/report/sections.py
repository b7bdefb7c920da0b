"""What the sections below the main table show, and which of them there is nothing for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embedstore.report.choice import detectors
from embedstore.report.commands import dataset_label
from embedstore.report.completeness import missing_states
from embedstore.report.content import Content
from embedstore.report.few_shot import FewShot, few_shot
from embedstore.report.gallery import missing_galleries
from embedstore.report.lacks import Lack, told
from embedstore.report.plots import Drawing, drawing, first_label, panels
from embedstore.report.robustness import Robustness, robustness
from embedstore.report.scaling import Scaling, scaling
from embedstore.report.separation import Separation, missing_curves, separations
from embedstore.report.views import FitTable, PointTable, fit_table, point_tables
from embedstore.report.weak_spots import WeakSpots, weak_spots


@dataclass(frozen=True)
class Relation:
    """What the R² section says about one ID data set; ``drawing`` is None where no fit has enough models."""

    id_dataset: str
    element: str
    fits: FitTable
    drawing: Drawing | None
    points: tuple[PointTable, ...]


@dataclass(frozen=True)
class Sections:
    """Each by ID set, where there is something to show; ``missing`` says in sentences what is not shown, and why."""

    relations: tuple[Relation, ...]
    separations: tuple[Separation, ...]
    scalings: tuple[Scaling, ...]
    few_shots: tuple[FewShot, ...]
    robustness: tuple[Robustness, ...]
    weak_spots: tuple[WeakSpots, ...]
    missing: tuple[str, ...] = ()

    @property
    def drawings(self) -> list[Drawing]:
        """Everything that report.js draws."""
        drawn = [relation.drawing for relation in self.relations if relation.drawing is not None]
        drawn += [part.drawing for part in self.separations]
        drawn += [*(part.drawing for part in self.scalings), *(part.drawing for part in self.few_shots)]
        return [*drawn, *(part.drawing for part in self.robustness if part.drawing is not None)]


def sections(content: Content) -> Sections:
    """All that the page shows between its main table and its notes."""
    chosen = detectors(content.cells, content.results)
    scalings, no_scalings = scaling(content.cells, content.models)
    few_shots, no_few_shots = few_shot(content.cells)
    attacked, not_attacked = robustness(content)
    spots, no_spots = weak_spots(content.results)
    lacks = [
        *_barren(content),
        *missing_states(content.states, content.results, content.models),
        *missing_curves(chosen, content.cells, content.curves),
        *missing_galleries(chosen, content.cells, content.galleries),
        *no_scalings,
        *no_few_shots,
        *not_attacked,
        *no_spots,
    ]
    return Sections(
        relations=tuple(_relation(number, name, content) for number, name in enumerate(_fitted(content))),
        separations=tuple(separations(content.curves)),
        scalings=tuple(scalings),
        few_shots=tuple(few_shots),
        robustness=tuple(attacked),
        weak_spots=tuple(spots),
        # Without a single number the summary says why, and that holds for everything.
        missing=tuple(told(lacks, content.datasets)) if content.cells else (),
    )


def _barren(content: Content) -> Iterable[Lack]:
    """ID sets for which no method could run: one sentence is enough for all sections."""
    for name in sorted(set(content.datasets) - {cell.id_dataset for cell in content.cells}):
        yield Lack(name, "everything but the table", "no method could run, for the reasons above")


def _fitted(content: Content) -> list[str]:
    """ID sets of which the R² section has something to say, if only why there is no R²."""
    return sorted({fit.id_dataset for fit in content.correlations})


def _relation(number: int, id_dataset: str, content: Content) -> Relation:
    fits = [fit for fit in content.correlations if fit.id_dataset == id_dataset]
    found = panels(fits)
    element = f"relation-{number}"
    drawn = (
        drawing(element, "Method", {dataset_label(panel.ood): panel.views for panel in found}, first_label(found))
        if found
        else None
    )
    labels = drawn.choices if drawn else ()
    points = tuple(table for table in point_tables(fits) if table.label in labels)
    return Relation(id_dataset, element, fit_table(fits), drawn, points)
