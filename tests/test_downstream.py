"""Downstream of extraction nothing touches a model or an image: it runs where neither can be had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from embedstore.evaluate import METHODS

# Runs commands, one JSON list of arguments each, in a Python that cannot import what reads images or holds models.
BLOCKED = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    names = {"open_clip", "timm", "PIL", "webdataset", "torchvision"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is blocked by this test")

sys.meta_path.insert(0, Blocked())

from embedstore.cli import main

for argument in sys.argv[1:]:
    main(json.loads(argument), standalone_mode=False)
assert not Blocked.names & {name.partition(".")[0] for name in sys.modules}
"""


def blocked(*commands: list[str]) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", BLOCKED, *map(json.dumps, commands)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=200)


def test_probe_and_report_run_without_models_images_or_their_libraries(fake_store: Path, tmp_path: Path) -> None:
    store, out = str(shutil.copytree(fake_store, tmp_path / "clip.zarr")), str(tmp_path / "report")
    done = blocked(
        ["ls", "--store", store],
        ["probe", "--store", store, "--id", "pets", "--ood", "cars", "--json"],
        ["report", "--store", store, "--out", out],
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    methods = set(METHODS)
    assert {row["method"] for row in rows if "absent" not in row} == methods
    assert {row["model"] for row in rows} == {"fake", "fake-other"}
    assert sorted(path.name for path in Path(out).iterdir()) == [
        "report.html",
        "results.csv",
        "results.json",
        "tables.tex",
    ]
    assert (Path(out) / "report.html").stat().st_size > 10_000


def test_the_block_blocks(pictures: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "clip.zarr")
    done = blocked(["extract", str(pictures / "pets/test"), "--store", store, "--model", "fake"])
    assert done.returncode == 1
    assert "PIL is blocked by this test" in done.stderr.splitlines()[-1]
    done = blocked(["extract", str(pictures / "pets/test"), "--store", store, "--model", "ViT-B-32/openai"])
    assert "open_clip is blocked by this test" in done.stderr
