"""What the sections below the main table show, and which of them there is nothing for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.few_shot import FewShot, few_shot
from embedstore.report.plots import Drawing, drawing, first_label, panels
from embedstore.report.scaling import Scaling, scaling
from embedstore.report.separation import Separation, separations
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
    """Each by ID set; empty where there is nothing to show, and then ``missing`` says why, a sentence each."""

    relations: tuple[Relation, ...]
    separations: tuple[Separation, ...]
    scalings: tuple[Scaling, ...]
    few_shots: tuple[FewShot, ...]
    weak_spots: tuple[WeakSpots, ...]
    missing: tuple[str, ...] = ()

    @property
    def drawings(self) -> list[Drawing]:
        """Everything that report.js draws."""
        drawn = [relation.drawing for relation in self.relations if relation.drawing is not None]
        drawn += [part.drawing for part in self.separations]
        return [*drawn, *(part.drawing for part in self.scalings), *(part.drawing for part in self.few_shots)]


def sections(content: Content) -> Sections:
    """All that the page shows between its main table and its notes."""
    found = Sections(
        relations=tuple(_relation(number, name, content) for number, name in enumerate(content.datasets)),
        separations=tuple(separations(content.curves)),
        scalings=tuple(scaling(content.cells, content.models)),
        few_shots=tuple(few_shot(content.cells)),
        weak_spots=tuple(weak_spots(content.results)),
    )
    # Without a single number the summary says why, and that holds for everything.
    return replace(found, missing=tuple(_missing(found))) if content.cells else found


def _missing(found: Sections) -> Iterable[str]:
    if not found.separations:
        yield (
            "ROC curves, histograms of scores, and the images that fool a detector: the results hold no scores of "
            "single images."
        )
    if not found.scalings:
        yield (
            "Accuracy and AUROC against the size of the models: it takes two models whose parameters or operations are "
            "recorded, and extraction by early versions recorded none."
        )
    if not found.few_shots:
        yield (
            "Accuracy and AUROC against the number of labels: no method was probed with several numbers of training "
            "images a class (the option shots of probe)."
        )
    if not found.weak_spots:
        yield (
            "Classes that fail: no result has an accuracy by class. It takes labels of the ID test images, and a probe "
            "by this version."
        )


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
