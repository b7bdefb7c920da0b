"""Ours against what a user would run instead: in turns on the same data, as ratios.

Other work on a machine changes from one minute to the next, and seconds with it. What runs in turns is disturbed alike,
so the ratio of two neighbours holds where the seconds do not.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

ROUNDS = 5
_FEW_ROUNDS, _LONG_ROUND = 3, 20.0  # fewer where a round takes more seconds than this
_MANY_ROUNDS, _SHORT = 15, 10.0  # more where so many fit into these seconds

Run = Callable[[], Any]


class Disagreement(Exception):
    """Ours and the reference give different answers, so comparing their times would mean nothing."""


class Timed(NamedTuple):
    """What a run returns that knows its own time better than the clock around it."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class Reference:
    """What a user would run instead.

    Attributes
    ----------
    name : str
    run : callable
        Does the work; returns its answer, or that as :class:`Timed`.
    check : callable
        Of ours' answer and this one's; raises :class:`Disagreement` unless they are the same.
    aim : float or None
        How many times faster than this ours is to be.
    """

    name: str
    run: Run
    check: Callable[[Any, Any], None]
    aim: float | None = None


@dataclass(frozen=True)
class Stage:
    """One piece of work, ours and its references. All runs must leave everything as they found it.

    Attributes
    ----------
    name : str
        With the size of the data.
    ours : callable
        As the run of a :class:`Reference`.
    references : sequence of Reference
    limit : float or None
        Seconds that ours is to stay below.
    """

    name: str
    ours: Run
    references: Sequence[Reference]
    limit: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Ours against one reference.

    Attributes
    ----------
    stage, reference : str
    ratio, low, high : float
        How many times faster ours is: the reference's seconds over ours of the same round; median, least and most.
    ours, theirs : float
        Median seconds.
    rounds : int
    aim : float or None
        The ratio to reach.
    limit : float or None
        The seconds that ours is to stay below.
    """

    stage: str
    reference: str
    ratio: float
    low: float
    high: float
    ours: float
    theirs: float
    rounds: int
    aim: float | None
    limit: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the aim, and the limit, is reached; None where there is neither."""
        if self.aim is None and self.limit is None:
            return None
        return (self.aim is None or self.ratio >= self.aim) and (self.limit is None or self.ours < self.limit)


def compare(stage: Stage, rounds: int | None = None) -> list[Comparison]:
    """Run everything once to warm up and to compare the answers, then in rounds; who begins changes every round.

    Parameters
    ----------
    stage : Stage
    rounds : int, optional
        Five if not given; three where a round takes more than 20 seconds, up to fifteen where they fit into 10.

    Raises
    ------
    Disagreement
        Before anything is timed.
    """
    runs = [stage.ours, *(reference.run for reference in stage.references)]
    warm = [_timed(run) for run in runs]
    for reference, answer in zip(stage.references, warm[1:], strict=True):
        try:
            reference.check(warm[0].value, answer.value)
        except Disagreement as error:
            raise Disagreement(f"{stage.name}, against {reference.name}: {error}") from error
    began = time.perf_counter()
    del warm, answer  # large ones would be kept while the others run
    first = _round(runs, 0)
    rounds = rounds or _rounds(time.perf_counter() - began)
    seconds = [first, *(_round(runs, number) for number in range(1, rounds))]
    return [_comparison(stage, reference, seconds, place) for place, reference in enumerate(stage.references, 1)]


def _rounds(seconds: float) -> int:
    if seconds > _LONG_ROUND:
        return _FEW_ROUNDS
    return max(ROUNDS, min(_MANY_ROUNDS, int(_SHORT / seconds)))


def _round(runs: Sequence[Run], number: int) -> list[float]:
    """Seconds of each, in the order of `runs`."""
    seconds = [0.0] * len(runs)
    for place in ((number + step) % len(runs) for step in range(len(runs))):
        seconds[place] = _timed(runs[place]).seconds
    return seconds


def _timed(run: Run) -> Timed:
    gc.collect()  # so that nobody cleans up after the one before
    began = time.perf_counter()
    answer = run()
    seconds = time.perf_counter() - began
    return answer if isinstance(answer, Timed) else Timed(answer, seconds)


def _comparison(stage: Stage, reference: Reference, seconds: Sequence[Sequence[float]], place: int) -> Comparison:
    ratios = [of_round[place] / of_round[0] for of_round in seconds]
    return Comparison(
        stage=stage.name,
        reference=reference.name,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        ours=statistics.median(of_round[0] for of_round in seconds),
        theirs=statistics.median(of_round[place] for of_round in seconds),
        rounds=len(seconds),
        aim=reference.aim,
        limit=stage.limit,
    )


def close(ours: Any, theirs: Any, tolerance: float, *, relative: bool = False) -> None:
    """Raise :class:`Disagreement` unless two arrays are within a tolerance everywhere, of 1 or of the reference's size.

    Written so that NaN fails.
    """
    import numpy as np

    mine, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if mine.shape != other.shape:
        raise Disagreement(f"shapes {mine.shape} and {other.shape}")
    apart = np.abs(mine - other)
    if relative:
        apart = apart / np.abs(other)
    worst = float(apart.max())
    if not worst <= tolerance:
        raise Disagreement(f"answers differ by up to {worst:.2g}, and {tolerance:g} is allowed")
