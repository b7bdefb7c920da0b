"""What commands write to a terminal, which here is a pseudo-terminal, and what to a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command

from embedstore.cli import main

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]

ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
# Foregrounds and backgrounds: 30 to 49 with those of 256 colours and of RGB, and the bright ones.
COLOUR = re.compile(r"(3[0-8]|4[0-8]|9[0-7]|10[0-7])")


def colours(text: str) -> list[str]:
    """The escape sequences that set a colour; bold and italics are none."""
    return [found for found in ESCAPE.findall(text) if any(COLOUR.fullmatch(part) for part in found.split(";"))]


def on_a_terminal(start: Start, *args: str | Path, no_color: str) -> str:
    """All that a command writes to a terminal, stderr included."""
    ours, theirs = pty.openpty()
    # An empty NO_COLOR is none, says no-color.org.
    env = {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40", "NO_COLOR": no_color}
    with start(*args, env=env, stdin=theirs, stdout=theirs, stderr=theirs, text=False) as process:
        os.close(theirs)
        written = b""
        # Linux says EIO when the last one who could write has gone.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                written += part
        os.close(ours)
        assert process.wait(timeout=60) == 0, written
    return written.decode()


def probing(store: Path) -> tuple[str | Path, ...]:
    sets = ("--id", "pets", "--ood", "cars", "--model", "fake")
    return ("probe", "--store", store, *sets, "--method", "knn", "--method", "mcm", "--recompute")


def reporting(store: Path) -> tuple[str | Path, ...]:
    return ("report", "--store", store, "--out", store.parent / "report")


@pytest.fixture(scope="module")
def store(fake_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(fake_store, tmp_path_factory.mktemp("terminal") / "clip.zarr"))
    main([str(word) for word in (*probing(path), "--quiet")], standalone_mode=False)
    return path


@pytest.mark.parametrize("asked", [probing, reporting])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    asked: Callable[[Path], tuple[str | Path, ...]], store: Path, start: Start
) -> None:
    with_colours = on_a_terminal(start, *asked(store), no_color="")
    assert colours(with_colours), "or the test could not fail"
    without = on_a_terminal(start, *asked(store), no_color="1")
    assert colours(without) == []
    assert "\x1b[" in without, "a bar moves the cursor, which is no colour"
    for text in (with_colours, without):
        assert "knn" in text
        if asked is reporting:
            assert re.search(r"report .* (\d+)/\1 ", ESCAPE.sub("", text)), "the bar ends with all of the files"


@pytest.mark.parametrize("asked", [probing, reporting])
def test_a_pipe_gets_plain_lines(
    asked: Callable[[Path], tuple[str | Path, ...]], store: Path, command: Command
) -> None:
    done = command(*asked(store))
    assert (done.returncode, done.stderr) == (0, "")
    assert "knn" in done.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stdout)


def test_a_quiet_report_shows_no_bar_either(store: Path, start: Start) -> None:
    assert on_a_terminal(start, *reporting(store), "--quiet", no_color="") == ""
