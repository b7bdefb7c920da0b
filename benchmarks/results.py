"""What a run of benchmarks found: as JSON, as a table on the screen, and as one in a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.pairs import Comparison

if TYPE_CHECKING:
    from rich.table import Table

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

_COLUMNS = ("stage", "against", "times faster", "ours", "reference", "rounds", "aim")


@dataclass(frozen=True)
class Results:
    """Of one or more benchmarks, measured one after the other.

    Attributes
    ----------
    machine : mapping
        As :func:`benchmarks.machine.machine`, when the first began.
    threads : int
        That each side was given.
    scale : float
        The part of the full size that the data had.
    of : mapping of str to sequence of Comparison
        By benchmark.
    """

    machine: Mapping[str, Any]
    threads: int
    scale: float
    of: Mapping[str, Sequence[Comparison]]

    @classmethod
    def read(cls, path: Path) -> Results:
        """From a file that :meth:`write` wrote."""
        value = json.loads(path.read_text())
        value["of"] = {name: [Comparison(**each) for each in found] for name, found in value["of"].items()}
        return cls(**value)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def markdown(self) -> str:
        """The conditions, and a table."""
        lines = [self.conditions(), "", f"| {' | '.join(_COLUMNS)} |", "|---|---|---|---:|---:|---:|---|"]
        cells = (_cells(comparison) for comparison in self.comparisons())
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)]) + "\n"

    def conditions(self) -> str:
        """On what, with what and when: a sentence or two."""
        on = self.machine
        versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
        size = "" if self.scale == 1 else f"Data of {self.scale:g} times the full size, for which the aims are not. "
        return (
            f"{size}{on['date']}, {on['cpu']}, {on['cores']} cores, {on['ram_gb']:g} GB; {self.threads} threads each; "
            f"load when it began {on['load']:g}; Python {on['python']}, {versions}."
        )

    def comparisons(self) -> list[Comparison]:
        """Of all benchmarks, in order."""
        return [comparison for found in self.of.values() for comparison in found]


def table(found: Sequence[Comparison]) -> Table:
    """For the screen, of one stage."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*_COLUMNS[1:], title=escape(found[0].stage), title_justify="left")
    table.columns[0].min_width = 24
    for comparison in found:
        table.add_row(*map(escape, _cells(comparison)[1:]))
    return table


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises
    ------
    ValueError
        The page has not one of each, in this order.
    """
    before, after = split_at_marks(page)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def split_at_marks(page: Path) -> tuple[str, str]:
    """What stands before the marks and after them; raises as :func:`put_into`."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"{page} must hold {BEGIN} once, and {END} once after it")
    return before, after


def _cells(c: Comparison) -> tuple[str, ...]:
    ratio = f"{number(c.ratio)} ({number(c.low)}–{number(c.high)})"
    return c.stage, c.reference, ratio, seconds(c.ours), seconds(c.theirs), str(c.rounds), _aim(c)


def _aim(c: Comparison) -> str:
    if c.reached is None:
        return "–"
    asked = ([f"≥ {number(c.aim)}"] if c.aim is not None else []) + (
        [f"< {seconds(c.limit)}"] if c.limit is not None else []
    )
    return f"{', '.join(asked)}: {'reached' if c.reached else '**missed**'}"


def number(value: float) -> str:
    """With three digits, or more where there are more before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def seconds(value: float) -> str:
    """In seconds, milliseconds or microseconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{number(value * 1e6)} µs"
