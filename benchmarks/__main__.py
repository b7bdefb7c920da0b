"""``python -m benchmarks overlap``: one command for each benchmark."""

from __future__ import annotations

import click

# Importing the command line has OpenMP's threads sleep while they wait, as every extraction does (see there).
import embedstore.cli  # noqa: F401
from benchmarks.overlap import overlap


@click.group()
def main() -> None:
    """Measure embedstore on this machine."""


main.add_command(overlap)

if __name__ == "__main__":
    main()
