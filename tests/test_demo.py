"""The demo, as a newcomer runs it: `embedstore demo`, a minute, a report."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
EMBEDSTORE = str(Path(sys.executable).parent / "embedstore")


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([EMBEDSTORE, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


def test_it_ends_with_the_path_of_a_report(demo: tuple[Path, str]) -> None:
    folder, said = demo
    page = said.strip().splitlines()[-1].removeprefix("Done. Open ")
    assert (folder / page).read_text().startswith("<!DOCTYPE html>")


def test_the_commands_it_prints_can_be_repeated(demo: tuple[Path, str]) -> None:
    folder, said = demo
    typed = [shlex.split(lines) for lines in re.findall(r"^\$ embedstore ((?:.*\\\n)*.*)$", said, re.MULTILINE)]
    assert [words[0] for words in typed] == ["extract"] * 4 + ["probe", "report"]
    again = run(*[word for word in typed[0] if word.strip()], cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("nothing left to do") == 6


def test_the_story_it_tells(demo: tuple[Path, str]) -> None:
    """Six models from weak to strong; better ones detect better; far is easier than near; all methods ran."""
    folder, _ = demo
    found = json.loads((folder / "demo/report/results.json").read_text())
    assert found["absent"] == []
    knn = [cell for cell in found["cells"] if cell["method"] == "knn"]
    near = {cell["model"]: cell for cell in knn if cell["ood"] == "other-digits/test"}
    far = {cell["model"]: cell for cell in knn if cell["ood"] == "photo-patches/test"}
    accuracies = sorted(cell["id_accuracy"] for cell in near.values())
    assert len(accuracies) == 6
    assert accuracies[0] < 0.85 < 0.95 < accuracies[-1]
    assert sum(far[model]["auroc"] > near[model]["auroc"] for model in near) == 6
    (fit,) = (c for c in found["correlations"] if c["method"] == "knn" and c["ood"] == "other-digits/test")
    assert fit["r_squared"] > 0.7


def test_another_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    refused = run("demo", cwd=tmp_path)
    assert refused.returncode == 2
    assert "not empty" in refused.stderr
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["thesis.txt"]
