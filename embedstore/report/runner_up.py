"""Is the best method really ahead of the next one? Paired tests on the scores of the same images."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from embedstore.errors import NotAvailable, StoreCorrupt
from embedstore.metrics import auroc_difference
from embedstore.records import FloatArray, Result
from embedstore.report.means import Interval, Mean, mean_interval
from embedstore.report.table import Cell, setting


@dataclass(frozen=True)
class Lead:
    """By how much one AUROC exceeds another, in [-1, 1], with a 95 % interval."""

    difference: float
    interval: Interval

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return not self.interval[0] <= 0 <= self.interval[1]


def runner_up(best: Mean, table: Iterable[Mean]) -> Mean | None:
    """The best of another method or another model; of equals, the one that is read first.

    Other scores and options of the same method on the same model are no rivals.
    """
    rivals = [mean for mean in table if (mean.model, mean.method) != (best.model, best.method)]
    known = [mean for mean in rivals if mean.auroc is not None]
    return max(
        sorted(known, key=lambda mean: (mean.order, mean.model)), key=lambda mean: mean.auroc or 0.0, default=None
    )


class Scores:
    """Per-image scores, read when they are compared, and two results' at a time."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results: dict[tuple[str, ...], list[Result]] = {}
        for result in results:
            self._results.setdefault(_place(result), []).append(result)

    def lead(self, best: Mean, rival: Mean) -> Lead:
        """The AUROC of `best` minus that of `rival`, on the images that both have scores of.

        The mean over OOD sets and seeds where they are means: seed by seed where both have the same, else every seed
        of one with every seed of the other. Its interval is the mean of theirs: no narrower than that of the mean need
        be, since the deviation of a mean is at most the mean deviation. It is about the images, not about the seeds.

        Raises
        ------
        NotAvailable
            Scores are missing, damaged, or not of the same images.
        """
        sets = dict.fromkeys(cell.ood for cell in best.cells)
        return _mean(_mean(self._lead(a, b) for a, b in _pairs(best.cells, rival.cells, ood)) for ood in sets)

    def _lead(self, a: Cell, b: Cell) -> Lead:
        arrays = []
        for mine, other in zip(self._of(a), self._of(b), strict=True):
            if mine.shape != other.shape:
                raise NotAvailable("their scores are not of the same images")
            both = ~(np.isnan(mine) | np.isnan(other))
            if not both.any():
                raise NotAvailable("they have no image in common")
            arrays.append((mine[both], other[both]))
        (a_id, b_id), (a_ood, b_ood) = arrays
        found = auroc_difference(a_id, a_ood, b_id, b_ood)
        return Lead(found.difference, (found.interval.low, found.interval.high))

    def _of(self, cell: Cell) -> tuple[FloatArray, FloatArray]:
        """(N,) of the ID test split and (M,) of the OOD set, NaN where an image has none."""
        for result in reversed(self._results.get(_place(cell), [])):
            seed, templates = setting(result)
            same = cell.seed in (None, seed) and cell.templates in (None, templates)
            if same and cell.ood in result.metrics.get(cell.score, {}):
                return _read(result, cell)
        raise NotAvailable("their scores are not kept")


def _place(item: Result | Cell) -> tuple[str, ...]:
    return (item.model, item.id_dataset, item.method, item.variant, item.created)


def _read(result: Result, cell: Cell) -> tuple[FloatArray, FloatArray]:
    own = f"{cell.id_dataset}/"
    splits = [name.removeprefix("images/") for name in result.inputs]
    # The split that was tested has scores, the one that was trained on has none.
    tested = [name for name in splits if name.startswith(own) and name not in result.metrics[cell.score]]
    try:
        names = dict.fromkeys([f"{own}test", *sorted(tested)])
        inside = next((x for x in (result.scores.get(f"{cell.score}/{name}") for name in names) if x is not None), None)
        outside = result.scores.get(f"{cell.score}/{cell.ood}")
    except StoreCorrupt as error:
        raise NotAvailable("the scores of one are damaged") from error
    if inside is None or outside is None:
        raise NotAvailable("their scores are not kept")
    return np.asarray(inside), np.asarray(outside)


def _pairs(best: Sequence[Cell], rival: Sequence[Cell], ood: str) -> Iterable[tuple[Cell, Cell]]:
    """The cells of two rows that are compared, on one OOD set."""
    a, b = ({cell.seed: cell for cell in cells if cell.ood == ood} for cells in (best, rival))
    return [(a[seed], b[seed]) for seed in a] if a.keys() == b.keys() else product(a.values(), b.values())


def _mean(leads: Iterable[Lead]) -> Lead:
    known = list(leads)
    interval = mean_interval([lead.interval for lead in known])
    if interval is None:
        raise NotAvailable("they share no OOD set")
    return Lead(statistics.fmean(lead.difference for lead in known), interval)
