"""Scores of both kinds, sorted once: what every detection metric is counted from."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class Ranking:
    """Scores of positives and of negatives in increasing order, and how the two interleave.

    A threshold t accepts what scores >= t. Everything here is a count, so it is the same after any strictly
    increasing map of the scores. Memory: a handful of int64 arrays as long as the scores.

    Parameters
    ----------
    positive : (P,) float64
        Ascending, P >= 1, no NaN.
    negative : (Q,) float64
        Likewise.
    """

    def __init__(self, positive: Float64, negative: Float64) -> None:
        self.positive = positive
        self.negative = negative

    @cached_property
    def alarms(self) -> Int64:
        """(P,) Negatives accepted when the threshold is this positive's score."""
        return len(self.negative) - np.searchsorted(self.negative, self.positive, side="left")

    @cached_property
    def alarms_above(self) -> Int64:
        """(P,) Negatives that score higher than this positive."""
        return len(self.negative) - np.searchsorted(self.negative, self.positive, side="right")

    @cached_property
    def won(self) -> Int64:
        """(P,) Twice the negatives that this positive beats, because a tie is half a win; never decreasing."""
        return 2 * len(self.negative) - self.alarms - self.alarms_above

    @cached_property
    def starts(self) -> Int64:
        """(G,) Where each group of equal positives begins, ascending."""
        new = self.positive[1:] != self.positive[:-1]
        return np.concatenate(([0], 1 + np.flatnonzero(new)))

    @cached_property
    def gained(self) -> Int64:
        """(G,) Positives in each group of equal ones."""
        return np.diff(self.starts, append=len(self.positive))

    @cached_property
    def flipped(self) -> Ranking:
        """The same with the kinds exchanged and the scores negated."""
        return Ranking(-self.negative[::-1], -self.positive[::-1])

    def group(self, index: int) -> tuple[int, int]:
        """Begin and end (exclusive) of the group of equal positives that holds the one at ``index``."""
        value = self.positive[index]
        begin, end = (int(np.searchsorted(self.positive, value, side=side)) for side in ("left", "right"))
        return begin, end


def rank(s_id: npt.ArrayLike, s_ood: npt.ArrayLike) -> Ranking:
    """Check and sort: ID scores are the positives.

    Raises
    ------
    UsageError
        As :func:`checked`.
    """
    return Ranking(np.sort(checked("ID scores", s_id)), np.sort(checked("OOD scores", s_ood)))


def checked(what: str, values: npt.ArrayLike) -> Float64:
    """The values as (N,) float64, in their order.

    Raises
    ------
    UsageError
        The array is empty, not one-dimensional, not real, or holds NaN.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise UsageError(f"{what} must be real numbers, got dtype {found.dtype}")
    if found.ndim != 1 or not found.size:
        raise UsageError(f"{what} must be a non-empty (N,) array, got shape {found.shape}")
    missing = int(np.isnan(found).sum())
    if missing:
        raise UsageError(f"{what} must not be NaN, but {missing} of {len(found)} are; leave those out")
    return found.astype(np.float64)


def exact_rate(tpr: float) -> Fraction:
    """A true positive rate as the decimal it is written as: the float 0.95 * n can land on either side of an integer.

    Raises
    ------
    UsageError
        It is outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise UsageError(f"tpr must lie in (0, 1], got {tpr!r}")
    return Fraction(repr(float(tpr)))
