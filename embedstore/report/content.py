"""Everything that a report says, gathered from a store once; what is written afterwards reads no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

from embedstore.errors import NotAvailable, StoreCorrupt, UnknownName
from embedstore.records import Provenance, Result
from embedstore.report.attack_files import Crafted, crafted
from embedstore.report.attack_gallery import AttackGallery, attack_galleries
from embedstore.report.choice import detectors
from embedstore.report.completeness import State, states
from embedstore.report.distributions import Curve, curves
from embedstore.report.fits import ACCURACY_METHOD, Correlation, correlations
from embedstore.report.gallery import Gallery, galleries
from embedstore.report.means import Mean, means
from embedstore.report.narrow import EVERYTHING, Narrowing
from embedstore.report.table import Absence, Cell, Note, absences, cells, in_use, notes, uncovered
from embedstore.store import Store


@dataclass(frozen=True)
class Content:
    """What a report says.

    Attributes
    ----------
    location : str
        Of the store, without secrets.
    version : str
        Of embedstore.
    cells, absences, notes, correlations
        The rows of the sections.
    results : tuple of Result
        Those that own a cell or an absence.
    outdated : int
        Results that were left out because what they were computed from has changed since, and not computed again.
    superseded : int
        Results that were left out because newer ones with the same options, seed and template set cover the same
        cells.
    models : mapping of str to Provenance or None
        Of every model in the report; None where the store has results of it and nothing else.
    sources : mapping of ``"name/split"`` to str
        Where the rows of every split that was used came from, as far as the store knows.
    templates : mapping of str to mapping of str to sequence of str
        The template sets that each model in the store has embedded, by data set.
    groups : mapping of str to tuple of ``"name/split"``
        The OOD sets of the benchmark that the report is narrowed to, by group ("near", "far"), also those without
        results; empty where it is about all there is.
    narrowing : Narrowing
        What the report was asked to be about.
    extracted : mapping of str to tuple of datetime
        By model, when the splits that its results read were first written to, oldest first; as far as it is known.
    curves, galleries
        How the best model's scores of ID and OOD images lie, and which images fool it.
    attacks, attack_galleries
        What is known of the attacks whose images were tested, and some of those images.
    states
        How many rows of every split are embedded, failed and pending.
    """

    location: str
    version: str
    cells: tuple[Cell, ...] = ()
    absences: tuple[Absence, ...] = ()
    notes: tuple[Note, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    results: tuple[Result, ...] = ()
    outdated: int = 0
    superseded: int = 0
    models: Mapping[str, Provenance | None] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    narrowing: Narrowing = EVERYTHING
    curves: tuple[Curve, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    attacks: tuple[Crafted, ...] = ()
    attack_galleries: tuple[AttackGallery, ...] = ()
    states: tuple[State, ...] = ()
    extracted: Mapping[str, tuple[datetime, ...]] = field(default_factory=dict)

    @cached_property
    def means(self) -> tuple[Mean, ...]:
        """The cells over their seeds, which most of what is written begins with."""
        return tuple(means(self.cells))

    @property
    def datasets(self) -> list[str]:
        """The ID data sets that there is something to say about, sorted."""
        return sorted({c.id_dataset for c in self.cells} | {absence.id_dataset for absence in self.absences})


def gather(store: Store, narrowing: Narrowing = EVERYTHING) -> Content:
    """Read the results of a store, and set aside what is out of date.

    Of the per-image scores only those of the best model and of the best detector of each attack are read, a result at a
    time, and thumbnails of the images that fool them, where their source lies on this machine.

    Raises
    ------
    NotAvailable
        If the store holds no results at all, or none of what the report is narrowed to.
    UnknownName
        If no result is of a model or method that it is narrowed to.
    """
    everything, now = all_results(store), _Now(store)
    stored = narrowing.apply(everything)
    # R² needs the accuracies of one method, whichever others the report is narrowed to.
    voting = replace(narrowing, methods=(ACCURACY_METHOD,)).keep(everything) if narrowing.methods else []
    fresh = [result for result in stored if now.agrees(result)]
    outdated = uncovered([result for result in stored if not now.agrees(result)], by=fresh)
    used, table = in_use(fresh), cells(fresh)
    names = sorted({result.model for result in used})
    chosen, made = detectors(table, used), crafted(store, used)
    return Content(
        location=without_secrets(store.location),
        version=version("embedstore"),
        cells=tuple(table),
        absences=tuple(absences(fresh)),
        notes=(*notes(used), *narrowing.notes(used)),
        correlations=tuple(correlations(table, cells(result for result in voting if now.agrees(result)))),
        results=tuple(used),
        outdated=len(outdated),
        superseded=len(stored) - len(used) - len(outdated),
        models={name: store.provenance(name) if name in now.models else None for name in names},
        sources=_sources(store, used),
        templates={name: store.class_sets(name) for name in names if name in now.models},
        groups=narrowing.groups,
        narrowing=narrowing,
        curves=tuple(curves(chosen.values())),
        galleries=tuple(galleries(store, chosen)),
        attacks=tuple(made),
        attack_galleries=tuple(attack_galleries(store, table, used, made)),
        states=tuple(states(store, used)),
        extracted=_extracted(store, used),
    )


def all_results(store: Store) -> list[Result]:
    """The results of a store as they are, oldest first; NotAvailable where there are none."""
    stored = list(store.results())
    if not stored:
        raise NotAvailable(
            f"{store.location} holds no results yet; "
            f"run `embedstore probe --store {store.location} --model … --id … --ood …`"
        )
    return stored


def up_to_date(store: Store, results: Sequence[Result]) -> list[Result]:
    """Those of a store's results whose inputs have not changed since."""
    now = _Now(store)
    return [result for result in results if now.agrees(result)]


def without_secrets(location: str) -> str:
    """A path or URL without ``user:password@``, query and fragment: people show their reports to others."""
    if "://" not in location:
        return location
    parts = urlsplit(location)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Now:
    """The fingerprints that a store has now, each computed once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.models = frozenset(store.models())
        self._fingerprint = cache(self._compute)

    def agrees(self, result: Result) -> bool:
        """Whether all that `result` was computed from is unchanged, as far as this store knows.

        A store that keeps results alone has nothing to compare with, and they are taken as they are.
        """
        if result.model not in self.models:
            return True
        return all(self._fingerprint(result.model, what) in (mark, None) for what, mark in result.inputs.items())

    def _compute(self, model: str, what: str) -> str | None:
        """The fingerprint of one input; None where the store has no such thing (any more), "" where it is broken."""
        kind, *rest = what.split("/")
        try:
            if what == "model":
                return self._store.fingerprint(model)
            if kind == "images" and len(rest) == 2:
                return self._store.images(model, *rest).fingerprint
            if kind == "texts" and len(rest) == 2:
                return str(self._store.text_info(model, *rest)["fingerprint"])
        except (UnknownName, NotAvailable):
            return None
        except StoreCorrupt:
            return ""  # embeddings of rows that were replaced: nobody can compute that result again
        return None


def _extracted(store: Store, used: list[Result]) -> dict[str, tuple[datetime, ...]]:
    found: dict[str, set[datetime]] = {}
    for model, name in {(result.model, what) for result in used for what in result.inputs}:
        kind, *split = name.split("/")
        began = store.began(model, *split) if kind == "images" and len(split) == 2 else None
        if began is not None:
            found.setdefault(model, set()).add(began)
    return {model: tuple(sorted(moments)) for model, moments in found.items()}


def _sources(store: Store, results: list[Result]) -> dict[str, str]:
    used = sorted(
        {what.removeprefix("images/") for result in results for what in result.inputs if what.startswith("images/")}
    )
    known = {f"{dataset}/{split}" for dataset, splits in store.datasets().items() for split in splits}
    return {name: without_secrets(store.rows(*name.split("/")).source) for name in used if name in known}
