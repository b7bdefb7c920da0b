"""Two stores, or one store at two times, side by side: which numbers changed, and what is in one of them only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from embedstore.errors import NotAvailable
from embedstore.records import Result
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content, all_results, up_to_date, without_secrets
from embedstore.report.means import Mean, means
from embedstore.report.narrow import EVERYTHING, Narrowing
from embedstore.report.summary import DASH, count, percent
from embedstore.report.table import cells, when
from embedstore.store import Store

MOST_SHOWN = 40  # rows on the page; all are in comparison.csv
_VISIBLE = 0.0005  # a difference that one decimal of a percentage can show


@dataclass(frozen=True)
class Difference:
    """One table row against one OOD set, before and after; means over the seeds, fractions in [0, 1].

    A value that one side lacks is None, and so is its difference (after minus before, in [-1, 1]). ``only`` is
    ``"before"`` or ``"after"`` where one side has no such row at all, else empty. ``seeds_…`` is 0 where a method uses
    no randomness.
    """

    model: str
    id_dataset: str
    ood: str
    method: str
    variant: str
    score: str
    templates: str | None
    label: str
    auroc_before: float | None
    auroc_after: float | None
    auroc_difference: float | None
    fpr95_before: float | None
    fpr95_after: float | None
    fpr95_difference: float | None
    seeds_before: int | None
    seeds_after: int | None
    only: str


@dataclass(frozen=True)
class Shown:
    """A row of the page's table: ``numbers`` are AUROC before, after, difference, then FPR95 alike, in percent."""

    model: str
    data: str
    label: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class OnlyIn:
    """What one side alone has: ``side`` in words, and by kind the names (``("models", ("a", "b"))``)."""

    side: str
    rows: int
    names: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Comparison:
    """Two sides: ``before`` and ``after`` say what they are; ``rows`` are in reading order.

    ``option`` is what ``--compare`` takes for it.
    """

    before: str
    after: str
    option: str
    rows: tuple[Difference, ...]

    @cached_property
    def shared(self) -> tuple[Difference, ...]:
        """The rows that both sides have."""
        return tuple(row for row in self.rows if not row.only)

    @property
    def changed(self) -> int:
        """How many of the shared rows differ by what one decimal can show."""
        return sum(_size(row) >= _VISIBLE for row in self.shared)

    @property
    def in_common(self) -> str:
        """How much both sides share, and how much of that changed, as a sentence."""
        if not self.shared:
            return "They have no number in common, so there is nothing to take a difference of."
        what = f"{count(len(self.shared), 'number')} in common (a model's score against an OOD set)"
        changed = f"{self.changed:,}" if self.changed else "none"
        be = "differs" if self.changed < 2 else "differ"
        return f"They have {what}, and {changed} of them {be} by 0.05 points or more."

    @property
    def largest(self) -> list[Shown]:
        """The shared rows that changed most, the largest change of AUROC or FPR95 first; at most 40."""
        ranked = sorted((row for row in self.shared if _size(row) >= _VISIBLE), key=_size, reverse=True)
        return [_shown(row) for row in ranked[:MOST_SHOWN]]

    @property
    def only(self) -> list[OnlyIn]:
        """What is in one side alone, before first."""
        found = [_only(self.rows, side, name) for side, name in (("before", self.before), ("after", self.after))]
        return [one for one in found if one.rows]


def compare(content: Content, store: Store, other: Store | datetime, narrowing: Narrowing = EVERYTHING) -> Comparison:
    """A report's content (after) against another store, or against what the same store held before a date (before).

    Of another store's results those that are out of date are left out, as in any report. Those before a date are taken
    as they were; what was overwritten since by `probe --recompute` is no longer known.

    Parameters
    ----------
    content : Content
        Of `store`, narrowed by `narrowing`, which is applied to the other side too.
    other : Store or datetime
        A datetime without a time zone is in UTC.

    Raises
    ------
    NotAvailable
        The other side has no results.
    """
    after = content.location
    if isinstance(other, Store):
        before = option = without_secrets(other.location)
        old = up_to_date(other, narrowing.keep(all_results(other)))
    else:
        moment = other if other.tzinfo else other.replace(tzinfo=UTC)
        before, after, option = f"{after} before {_date(moment)}", f"{after} now", moment.isoformat()
        old = _before(store, moment, narrowing)
    rows = differences(means(cells(old)), content.means)
    return Comparison(before, after, option, tuple(rows))


def differences(before: Iterable[Mean], after: Iterable[Mean]) -> list[Difference]:
    """Rows of both sides by model, ID set, OOD set, method, variant, score and template set, in reading order."""
    old, new = ({_key(mean): mean for mean in side} for side in (before, after))
    either = {**old, **new}
    return [
        _difference(either[key], old.get(key), new.get(key))
        for key in sorted(
            either, key=lambda key: (either[key].id_dataset, either[key].model, either[key].order, either[key].ood)
        )
    ]


def _before(store: Store, moment: datetime, narrowing: Narrowing) -> list[Result]:
    results = all_results(store)
    old = [result for result in results if when(result) < moment]
    if not old:
        first = _date(min(when(result) for result in results))
        raise NotAvailable(f"{store.location} has no results from before {_date(moment)}; the oldest is of {first}")
    return narrowing.keep(old)


def _date(moment: datetime) -> str:
    """``"2026-01-31"``, with the time where it is not midnight."""
    moment = moment.astimezone(UTC)
    midnight = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
    return moment.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M UTC")


def _key(mean: Mean) -> tuple[str, ...]:
    return (mean.model, mean.id_dataset, mean.ood, mean.method, mean.variant, mean.score, mean.templates or "")


def _difference(either: Mean, old: Mean | None, new: Mean | None) -> Difference:
    def values(metric: str) -> tuple[float | None, float | None, float | None]:
        a, b = (None if side is None else getattr(side, metric) for side in (old, new))
        return a, b, None if a is None or b is None else b - a

    auroc, fpr95 = values("auroc"), values("fpr95")
    return Difference(
        *(either.model, either.id_dataset, either.ood, either.method, either.variant, either.score, either.templates),
        either.label,
        *auroc,
        *fpr95,
        seeds_before=None if old is None else old.seeds,
        seeds_after=None if new is None else new.seeds,
        only="after" if old is None else "before" if new is None else "",
    )


def _size(row: Difference) -> float:
    return max(abs(row.auroc_difference or 0.0), abs(row.fpr95_difference or 0.0))


def _shown(row: Difference) -> Shown:
    numbers = (
        *(percent(row.auroc_before), percent(row.auroc_after), _signed(row.auroc_difference)),
        *(percent(row.fpr95_before), percent(row.fpr95_after), _signed(row.fpr95_difference)),
    )
    return Shown(row.model, f"{row.id_dataset} against {dataset_label(row.ood)}", row.label, numbers)


def _signed(difference: float | None) -> str:
    """``"+1.2"``, ``"−0.4"``, ``"0.0"``: points of percent."""
    if difference is None:
        return DASH
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _only(rows: Sequence[Difference], side: str, name: str) -> OnlyIn:
    mine = [row for row in rows if row.only == side]
    others = [row for row in rows if row.only != side]
    kinds: tuple[tuple[str, Callable[[Difference], str]], ...] = (
        ("models", lambda row: row.model),
        ("ID sets", lambda row: row.id_dataset),
        ("OOD sets", lambda row: dataset_label(row.ood)),
        ("methods", lambda row: row.label),
    )
    found = []
    for kind, name_of in kinds:
        known = {name_of(row) for row in others}
        new = tuple(dict.fromkeys(each for row in mine if (each := name_of(row)) not in known))
        if new:
            found.append((kind, new))
    return OnlyIn(name, len(mine), tuple(found))
