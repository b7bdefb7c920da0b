"""The command line: parse, call the library, print. Nothing else knows paths, flags or exit codes."""

from __future__ import annotations

import importlib
import os
import shlex

import click

from embedstore.cli.attack import attack
from embedstore.cli.correlation import correlation
from embedstore.cli.exits import STOPPED, Commands
from embedstore.cli.extract import extract
from embedstore.cli.inspect import info, list_store, verify
from embedstore.cli.leaks import leaks
from embedstore.cli.methods import methods
from embedstore.cli.probe import probe
from embedstore.cli.report import report

# Threads that wait for each other must sleep, not spin, or decoding workers starve: on two busy cores extraction ran
# three times slower without this (docs/log.md). It is read once, when the OpenMP runtime is loaded, hence so early.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # People who come from other tools type underscores.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.version_option(package_name="embedstore", message="%(version)s")
def main() -> None:
    """Embed images once, then classify them and detect out-of-distribution images from the cached features.

    Every option is also read from the environment: --block-rows of extract from EMBEDSTORE_EXTRACT_BLOCK_ROWS (several
    values of a repeatable one are separated by spaces). Exit codes: 0 done, 1 failed, 2 usage, 3 done but some images
    failed, 4 more images failed than allowed, 5 store corrupt or written by another model, 75 stopped (run again to
    resume).
    """


def run_typed(*args: str) -> None:
    """Print one command as one would type it, then run it in this process. Recipes are made of these."""
    lines = [(" \\\n    " if arg.startswith("--") else " ") + shlex.quote(arg) for arg in args]
    click.echo("\n$ embedstore" + "".join(lines))
    if main(args=list(args), standalone_mode=False) == STOPPED:
        raise click.exceptions.Exit(STOPPED)  # or the recipe would go on with half of the data


for _command in (extract, list_store, info, verify, probe, leaks, attack, correlation, methods, report):
    main.add_command(_command)


@main.command()
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Where data, models and store go.")
def demo(out: str) -> None:
    """The whole study in about a minute, offline: handwritten digits, miniature CLIPs, probes, a report.

    \b
    Example:
      embedstore demo --out demo
    """
    # The recipes stand beside the package in the repository and are installed as a part of it, unseen by type checkers.
    importlib.import_module("embedstore.pipelines.demo").main(out)
