"""What commands print: plain lines, and progress bars on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from embedstore.records import Result

if TYPE_CHECKING:
    from embedstore.extract import Outcome
    from embedstore.extract.plan import Plan

_SECONDS_BETWEEN_LINES = 10.0
_MOST_FAILURES = 5


def human(*, quiet: bool = False, as_json: bool = False) -> Console:
    """The console for people: stdout, or stderr where stdout is for ``--json``. Tables keep their width in a pipe."""
    console = Console(stderr=as_json, quiet=quiet, highlight=False, soft_wrap=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    return console


@contextmanager
def progress(console: Console, label: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """A bar with images (or other units) a second and the time left on a terminal; a line now and then elsewhere.

    Yields what to call with the rows just finished and all that there are to do.
    """
    last = time.perf_counter()
    done, first, since = 0, 0, 0.0  # the rate is counted from the first call on: before it, workers start

    def count(rows: int, total: int) -> str:
        nonlocal done, first, since
        done += rows
        if not since:
            first, since = done, time.perf_counter()
        if done == first:
            return ""
        rate = (done - first) / (time.perf_counter() - since)
        return f"{rate:,.0f} {unit}/s, {timedelta(seconds=round((total - done) / rate))} left"

    if not console.is_terminal:

        def line(rows: int, total: int) -> None:
            nonlocal last
            speed = count(rows, total)
            if speed and time.perf_counter() - last > _SECONDS_BETWEEN_LINES:
                last = time.perf_counter()
                console.print(f"{label}: {done:,} of {total:,}, {speed}", markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(label, total=None, rate="starting")

        def advance(rows: int, total: int) -> None:
            bars.update(task, advance=rows, total=total, rate=count(rows, total))

        yield advance


def each(console: Console, results: Iterable[Result], label: str) -> Iterator[Result]:
    """Pass results on; on a terminal, show which model is being worked on."""
    if not console.is_terminal:
        yield from results
        return
    with console.status(label) as status:
        for result in results:
            status.update(f"{label} · {result.method} took {result.seconds:.1f} s")
            yield result


def print_plan(console: Console, plan: Plan, price_per_hour: float | None) -> None:
    """What there is to do for one model and split, in four lines."""
    console.print(f"{plan.name} · {plan.model}: {plan.rows:,} rows in {plan.blocks:,} blocks", markup=False)
    console.print(f"  to do: {plan.rows_to_do:,} rows in {plan.blocks_to_do:,} blocks")
    read = "unknown" if plan.bytes_in is None else bytes_text(plan.bytes_in)
    console.print(f"  read: {read} · written: {bytes_text(plan.bytes_out)}")
    if plan.images_per_second is None or plan.seconds is None:
        return
    speed = f"{plan.images_per_second:,.0f} images/s on {plan.processes} device(s)"
    time_left = str(timedelta(seconds=round(plan.seconds)))
    cost = "" if price_per_hour is None else f", costs {plan.cost(price_per_hour):,.2f}"
    console.print(f"  measured on real rows: {speed}; takes {time_left}{cost}")


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that suits it: ``1.5 GB``."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


def print_outcome(console: Console, outcome: Outcome, *, verbose: bool = False) -> None:
    """One line per model and split; how the time was spent; the first failures by key and reason."""
    rate = f", {outcome.tried / outcome.seconds:,.0f} images/s" if outcome.tried else ", nothing left to do"
    console.print(
        f"{outcome.name} · {outcome.model}: {outcome.rows:,} rows = {outcome.ok:,} ok + {outcome.failed:,} failed + "
        f"{outcome.pending:,} pending{rate}",
        markup=False,
    )
    for note in outcome.notes:
        console.print(f"  note: {note}", markup=False)
    if outcome.tried:
        words = {"start": "starting", "read": "reading", "decode": "decoding", "wait": "waiting for them"}
        words |= {"encode": "in the model", "write": "writing"}
        times = ", ".join(f"{outcome.spent[stage]:.1f} s {word}" for stage, word in words.items())
        console.print(f"  time: {times} · bottleneck: {outcome.bottleneck()}", soft_wrap=True)
    shown = outcome.failures if verbose else outcome.failures[:_MOST_FAILURES]
    for failure in shown:
        text = f"  failed: {failure.key!r}: {failure.stage}: {failure.reason}"
        console.print(text, markup=False, soft_wrap=True)
    more = outcome.failed - len(shown)
    if more:
        count = f"… and {more:,} more" if shown else f"{more:,} failed before"
        console.print(f"  {count}; `embedstore info --store STORE --failures` lists all")
