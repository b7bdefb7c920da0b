"""What the sections of the page do not show, and why: each section finds that out from the data that it was given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from embedstore.report.summary import count, listing

# Reasons that several sections have in common, so that one sentence says them of all.
NO_AUROC = "no result in this report has an AUROC"
NO_LABELS = (
    "the ID test images have no labels; `embedstore extract` takes labels from shards, or from a folder with a "
    "sub-folder for each class"
)

_MOST_NAMES = 6  # that a sentence has room for


@dataclass(frozen=True)
class Lack:
    """Something that is not shown of one ID set: what, and why; of a sentence the beginning and the rest."""

    id_dataset: str
    what: str
    why: str


def told(lacks: Iterable[Lack], datasets: Collection[str]) -> list[str]:
    """A sentence for each reason, with all that it holds for.

    ``datasets`` are all ID sets of the report: those that a sentence is about are named where they are not all.
    """
    about: dict[tuple[str, str], dict[str, None]] = {}
    for lack in lacks:
        about.setdefault((lack.what, lack.why), {})[lack.id_dataset] = None
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (what, why), names in about.items():
        together.setdefault((why, tuple(names)), []).append(what)
    return [_sentence(whats, why, names, datasets) for (why, names), whats in together.items()]


def some(names: Sequence[str]) -> str:
    """``"a, b and c"``; of many the first, and how many more there are."""
    if len(names) <= _MOST_NAMES:
        return listing(names)
    shown = names[: _MOST_NAMES - 1]
    return listing([*shown, count(len(names) - len(shown), "other")])


def _sentence(whats: Sequence[str], why: str, names: Sequence[str], datasets: Collection[str]) -> str:
    what = "; ".join(whats)
    where = "" if set(names) >= set(datasets) else f", with {some(names)} as ID data"
    return f"{what[0].upper()}{what[1:]}{where}: {why}."
