"""The table below the summary: the best method for each OOD set and group of them, and how far ahead it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedstore.errors import NotAvailable
from embedstore.report.attacked import ordinary
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.means import Interval, Mean, over_groups
from embedstore.report.names import by_group
from embedstore.report.runner_up import Lead, Scores, runner_up
from embedstore.report.summary import auroc, count, leaders, once, percent, supervised, whole

_DECIMALS = (1, 2, 3)
_CHANCE = 50.0


@dataclass(frozen=True)
class Finding:
    """The best AUROC against an OOD set, or on average over a group of them.

    ``detail`` says what kind of group, ``interval`` is that of the AUROC, ``lead`` what the comparison with the
    runner-up says, ``unsupervised`` the best without training labels where the best of all needs them; texts, empty
    where there is nothing to say.
    """

    against: str
    detail: str
    auroc: str
    interval: str
    label: str
    model: str
    tie: str
    lead: str
    unsupervised: str


@dataclass(frozen=True)
class Findings:
    """Those of one ID data set; ``cautions`` are sentences on how to read the intervals."""

    id_dataset: str
    rows: tuple[Finding, ...]
    cautions: tuple[str, ...]


def findings(content: Content) -> list[Findings]:
    """One per ID data set with an AUROC. Reads per-image scores, of the best row and its runner-up for each OOD set."""
    scores = Scores(content.results)
    found = []
    averaged = [mean for mean in once(ordinary(content.means)) if mean.auroc is not None]
    for id_dataset in sorted({mean.id_dataset for mean in averaged}):
        table = [mean for mean in averaged if mean.id_dataset == id_dataset]
        columns = [
            (name, f"mean of {count(column[0].sets, 'set')}", column)
            for name, column in over_groups(table, content.groups).items()
            if column[0].sets > 1
        ]
        for ood, _ in by_group({mean.ood for mean in table}, content.groups):
            columns.append((dataset_label(ood), "", [mean for mean in table if mean.ood == ood]))
        rows = tuple(_finding(against, detail, column, scores) for against, detail, column in columns)
        most = max(len({mean.row for mean in column}) for _, _, column in columns)
        found.append(Findings(id_dataset, rows, tuple(_cautions(rows, most, table))))
    return found


def _finding(against: str, detail: str, column: Sequence[Mean], scores: Scores) -> Finding:
    top = leaders(column, auroc)
    best, rival = top[0], runner_up(top[0], column)
    rest = [mean for mean in column if not supervised(mean)]
    other = leaders(rest, auroc)[0] if supervised(best) and rest else None
    return Finding(
        against=against,
        detail=detail,
        auroc=percent(best.auroc),
        interval=_bounds(best.auroc_interval),
        label=best.label,
        model=best.model,
        tie=f"tied with {count(len(top) - 1, 'other')}" if len(top) > 1 else "",
        # What ties with it needs no test.
        lead="" if rival is None or rival.auroc == best.auroc else _compared(best, rival, scores),
        unsupervised="" if other is None else f"Without training labels {percent(other.auroc)}, {_who(other, best)}.",
    )


def _compared(best: Mean, rival: Mean, scores: Scores) -> str:
    try:
        lead = scores.lead(best, rival)
    except NotAvailable as error:
        return f"Next is {_who(rival, best)}, with {percent(rival.auroc)}; not tested, because {error}."
    if not lead.significant:
        return f"No significant difference to the runner-up, {_who(rival, best)} ({points(lead)})."
    # On the images that both scored, which may be fewer than those of the table.
    side = "Ahead of" if lead.difference > 0 else "On the images that both scored, behind"
    return f"{side} {_who(rival, best)}, by {points(lead)}."


def points(lead: Lead) -> str:
    """``"1.2 points, 95 % interval 0.4–2.0"``; more decimals where one would make an end 0 that is not."""
    difference, low, high = 100 * lead.difference, *(100 * end for end in lead.interval)
    if lead.significant and difference < 0:
        difference, low, high = -difference, -high, -low
    near = (n for n in _DECIMALS if all(float(f"{value:.{n}f}") for value in (difference, low, high) if value))
    decimals = next(near, _DECIMALS[-1])
    size, start, end = (_signed(value, decimals) for value in (difference, low, high))
    between = f"{start}–{end}" if low > 0 else f"{start} to {end}"
    return f"{whole(f'{size} points')}, {whole('95 % interval')} {whole(between)}"


def _signed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.removeprefix("-")


def _who(mean: Mean, best: Mean) -> str:
    return f"{mean.label}, {'the same model' if mean.model == best.model else mean.model}"


def _bounds(interval: Interval | None) -> str:
    return "" if interval is None else f"{percent(interval[0])}–{percent(interval[1])}"


def _cautions(rows: Sequence[Finding], most: int, table: Sequence[Mean]) -> Iterable[str]:
    tested = any("interval" in row.lead for row in rows)
    if tested:
        yield (
            "Differences are in percentage points, between scores of the same images (the paired test of DeLong et "
            "al.). The runner-up is the best row of another method or model. Each interval is for one comparison: the "
            f"best of {count(most, 'row')} was chosen by these very numbers, so that a part of its lead may be luck."
        )
    if tested and any(mean.seeds > 1 for mean in table):
        yield "Intervals of differences are about the choice of images, not of seeds."
    if any(float(row.auroc) < _CHANCE for row in rows):
        yield "An AUROC below 50 is worse than chance: OOD images score higher than ID images."
    if any(mean.auroc == 1 and mean.auroc_interval for mean in table):
        yield (
            "An AUROC of exactly 100 has an exact bound for its interval (Clopper and Pearson), because DeLong's "
            "variance is 0 there: it is wider than the intervals of numbers just below 100."
        )
    if any(row.detail and (row.interval or "interval" in row.lead) for row in rows):
        yield "The interval of a mean over sets is the mean of their intervals, which is on the safe side."
