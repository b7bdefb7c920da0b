"""How long the command and the import take to start, against Python itself and numpy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import Disagreement, Reference, Run, Stage


def start(scale: float) -> Iterator[Stage]:
    """A process from its beginning to its end. There is nothing to scale."""
    command = str(Path(sys.executable).with_name("embedstore"))
    references = [
        Reference("python -c pass", _process(sys.executable, "-c", "pass"), _both_ran),
        Reference("python -c 'import numpy'", _process(sys.executable, "-c", "import numpy"), _both_ran),
    ]
    yield Stage("import embedstore", _process(sys.executable, "-c", "import embedstore"), references)
    yield Stage("embedstore --help", _process(command, "--help"), references)


def _process(*command: str) -> Run:
    return lambda: subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603


def _both_ran(ours: int, theirs: int) -> None:
    if ours or theirs:
        raise Disagreement(f"exit codes are {ours} and {theirs}, not 0")
