"""``python -m benchmarks NAME``: one command for each benchmark; ``all`` of them; what they found, and what changed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks.changes import changes
from benchmarks.machine import cores, machine
from benchmarks.pairs import Comparison, Disagreement, compare
from benchmarks.results import Results, put_into, split_at_marks, table

# Where each is: a module and its function that yields stages. Modules are imported once the threads are set.
BENCHMARKS = {
    "start": "start",
    "store": "store",
    "decode": "decode",
    "fast": "decode",
    "scan": "scan",
    "probe": "probes",
    "together": "probes",
    "logistic": "probes",
    "knn": "neighbors",
    "mahalanobis": "mahalanobis",
    "metrics": "metrics",
}

_WITH_OPTIONS = ("overlap", "scale", "growth", "downstream")  # these are no pairs, and have a command of their own

_FOUND = Path("build/bench.json")
_PATH = click.Path(path_type=Path, dir_okay=False)
_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)


class _Commands(click.Group):
    """Imports a benchmark only when it is asked for, since the threads are to be set before numpy is loaded."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*BENCHMARKS, *_WITH_OPTIONS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in BENCHMARKS:
            return _command(cmd_name)
        if cmd_name in _WITH_OPTIONS:
            command: click.Command = getattr(importlib.import_module(f"benchmarks.{cmd_name}"), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)


def _measured(function: Callable[..., None]) -> Callable[..., None]:
    """The options of everything that measures."""
    for option in (
        click.option("--json", "json_file", type=_PATH, help="Write the results there."),
        click.option(
            "--threads",
            type=click.IntRange(1),
            default=cores,
            envvar="OMP_NUM_THREADS",
            show_envvar=True,
            show_default="all cores",
            help="Of each side.",
        ),
        click.option(
            "--scale",
            type=click.FloatRange(0.01, 10),
            default=1.0,
            show_default=True,
            help="Times the full number of rows.",
        ),
    ):
        function = option(function)
    return function


@click.group(cls=_Commands)
def main() -> None:
    """Measure embedstore on this machine, each stage against what a user would run instead."""


def _command(name: str) -> click.Command:
    @click.command(name, short_help=f"Measure {name}.")
    @_measured
    def measure(scale: float, threads: int, json_file: Path | None) -> None:
        from rich.console import Console

        before = machine()
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(threads)
        found: list[Comparison] = []
        results = Results(before, threads, scale, {name: found})
        screen = Console() if sys.stdout.isatty() else Console(width=120)
        screen.print(results.conditions())
        stages = getattr(importlib.import_module(f"benchmarks.{BENCHMARKS[name]}"), name)
        try:
            for stage in stages(scale):
                compared = compare(stage)
                screen.print(table(compared))
                found += compared
        except Disagreement as error:
            raise click.ClickException(str(error)) from error
        if json_file is not None:
            results.write(json_file)

    return measure


@main.command("all")
@_measured
@click.option("--into", type=_THERE, help="A page with two marks; the table goes between them.")
def run_all(scale: float, threads: int, json_file: Path | None, into: Path | None) -> None:
    """Every benchmark of pairs, each in a process of its own; results go to build/bench.json."""
    if into is not None:
        _check_marks(into)
    results, failed = measure_each(list(BENCHMARKS), scale, threads)
    results.write(json_file or _FOUND)
    click.echo(f"results are in {json_file or _FOUND}")
    if into is not None:
        put_into(into, results.markdown())
    if failed:
        raise click.ClickException(f"these failed: {', '.join(failed)}")


def measure_each(names: Sequence[str], scale: float, threads: int) -> tuple[Results, list[str]]:
    """The results of those that succeed, and the names of the others; each prints its own table."""
    before, of, failed = machine(), dict[str, Sequence[Comparison]](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            file = Path(folder, f"{name}.json")
            command = [sys.executable, "-m", "benchmarks", name, "--json", str(file)]
            command += ["--scale", str(scale), "--threads", str(threads)]
            if subprocess.run(command, check=False).returncode:  # noqa: S603
                failed.append(name)
            else:
                of.update(Results.read(file).of)
    return Results(before, threads, scale, of), failed


@main.command("table")
@click.argument("results", type=_THERE)
@click.option("--into", type=_THERE, help="A page with two marks; the table goes between them.")
def show_table(results: Path, into: Path | None) -> None:
    """The table of results that were measured before, in Markdown."""
    text = Results.read(results).markdown()
    if into is None:
        click.echo(text, nl=False)
    else:
        _check_marks(into)
        put_into(into, text)


@main.command("compare")
@click.argument("then", type=_THERE)
@click.argument("now", type=_THERE)
def compare_results(then: Path, now: Path) -> None:
    """What changed between two results. Exits with 1 where something is slower by 1.25 x beyond the spread."""
    old, new = Results.read(then), Results.read(now)
    if old.machine["cpu"] != new.machine["cpu"]:
        click.echo(f"then on {old.machine['cpu']}, now on {new.machine['cpu']}: ratios may differ for that alone")
    try:
        found = list(changes(old, new))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    for change in found:
        click.echo(str(change))
    slower = sum(change.is_regression for change in found)
    if slower:
        raise click.ClickException(f"{slower} of {len(found)} are slower")


def _check_marks(page: Path) -> None:
    try:
        split_at_marks(page)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
