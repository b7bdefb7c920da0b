"""What has become faster or slower since other results, as ratios of ratios: on any machine, more or less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.pairs import Comparison
from benchmarks.results import Results, number

SLOWER = 1.25  # beyond the spread, which is no accident


@dataclass(frozen=True)
class Change:
    """One comparison then and now; None where it is only now, or no longer there."""

    benchmark: str
    then: Comparison | None
    now: Comparison | None

    @property
    def factor(self) -> float:
        """How much faster it is now than then: the new ratio over the old one. Both must be there."""
        assert self.then is not None
        assert self.now is not None
        return self.now.ratio / self.then.ratio

    @property
    def faster_by(self) -> float:
        """At least so much, the spread of both taken off: the least ratio now over the largest then."""
        assert self.then is not None
        assert self.now is not None
        return self.now.low / self.then.high

    @property
    def slower_by(self) -> float:
        """At least so much, the spread of both taken off: the least ratio then over the largest now."""
        assert self.then is not None
        assert self.now is not None
        return self.then.low / self.now.high

    @property
    def is_regression(self) -> bool:
        """Whether it is slower by more than :data:`SLOWER` beyond the spread."""
        return self.then is not None and self.now is not None and self.slower_by > SLOWER

    def __str__(self) -> str:
        either = self.now or self.then
        assert either is not None
        what = f"{self.benchmark}: {either.stage}, against {either.reference}: "
        if self.then is None or self.now is None:
            return what + ("new" if self.then is None else "no longer measured")
        ratios = f"{number(self.then.ratio)} times faster then, {number(self.now.ratio)} now ({number(self.factor)} x)"
        if self.is_regression:
            return f"{what}SLOWER, by {number(self.slower_by)} x beyond the spread: {ratios}"
        if self.slower_by > 1:
            return f"{what}slower: {ratios}"
        return what + ("faster: " if self.faster_by > 1 else "as before: ") + ratios


def changes(then: Results, now: Results) -> Iterator[Change]:
    """Every comparison of either, those of `then` first.

    Raises
    ------
    ValueError
        They are of data of different size, or of different numbers of threads.
    """
    for what in ("scale", "threads"):
        if getattr(then, what) != getattr(now, what):
            raise ValueError(
                f"the results are of {what} {getattr(then, what):g} and {getattr(now, what):g}: they cannot be compared"
            )
    before, after = _by_name(then), _by_name(now)
    for key in [*before, *(key for key in after if key not in before)]:
        yield Change(key[0], before.get(key), after.get(key))


def _by_name(results: Results) -> dict[tuple[str, str, str], Comparison]:
    return {(name, c.stage, c.reference): c for name, found in results.of.items() for c in found}
