"""The recipe of the whole grid: its tables say what the results say, whatever is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Command
from embedstore.pipelines import correlation

from embedstore import Result, Store


def result(model: str, aurocs: dict[str, float], id_name: str = "cifar10", accuracy: float = 0.5) -> Result:
    metrics = {
        ood: {"auroc": value, "auroc_low": value - 0.01, "auroc_high": value + 0.02, "fpr95": 0.5}
        for ood, value in aurocs.items()
    }
    return Result(
        model=model,
        id_dataset=id_name,
        method="knn",
        params={"k": 1, "metrics": "default"},
        inputs={},
        id_accuracy=accuracy,
        metrics={"cosine": metrics},
        seconds=2.0,
        created=f"2026-01-0{len(model)}T00:00:00+00:00",
        version="0",
    )


def rows(text: str, first: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_tables_hold_the_results_and_their_r_squared() -> None:
    x, y = [0.5, 0.6, 0.8], [0.71, 0.7, 0.9]
    found = [
        result(model, {"cifar100/test": b, "signs/test": 0.25, "mnist/test": 0.75}, accuracy=a)
        for model, a, b in zip(["a", "bb", "ccc"], x, y, strict=True)
    ]
    text = correlation.tables(found)
    r_squared = np.corrcoef(x, y)[0, 1] ** 2
    assert rows(text, "knn")[0] == ["knn", "50.0", "60.0", "80.0"]
    near, far = rows(text, "knn · cosine")
    assert near[:4] == ["knn · cosine", "71.0 ± 1.5 / 50.0", "70.0 ± 1.5 / 50.0", "90.0 ± 1.5 / 50.0"]
    assert near[4].startswith(f"{r_squared:.2f} [0.00, 1.00]")
    assert far == ["knn · cosine", *["50.0 / 50.0"] * 3]
    assert rows(text, "knn")[-1] == ["knn", "6.0"]


def test_what_is_missing_is_a_dash_and_the_newest_counts() -> None:
    old = result("a", {"cifar100/test": 0.1, "signs/test": 0.2})
    new = replace(result("a", {"cifar100/test": 0.9}), created="2026-02-01T00:00:00+00:00", seconds=7.0)
    other = result("bb", {"cifar100/test": 0.8, "signs/test": 0.2})
    prompts = replace(other, method="mcm", params={"templates": "mcm"}, id_accuracy=None)
    text = correlation.tables([old, new, other, prompts])
    near, far = rows(text, "knn · cosine")
    assert near[1:] == ["90.0 ± 1.5 / 50.0", "80.0 ± 1.5 / 50.0", "–"]
    assert far[1:3] == ["–", "20.0 ± 1.5 / 50.0"], "a single far set has its interval, too"
    assert rows(text, "mcm (mcm) · cosine")[0][1:] == ["–", "80.0 ± 1.5 / 50.0", "–"]
    assert rows(text, "all") == [["all", "11"]]
    assert "R² needs at least 3 points" in text
    assert "mean AUROC" not in correlation.tables([result("a", {"cifar100/test": 0.5})])
    assert "| all | 0 |" in correlation.tables([])


def test_wrong_requests_are_refused_before_the_work(tmp_path: Path) -> None:
    two = ["--data", str(tmp_path), "--model", "fake", "--model", "fake:x"]
    done = CliRunner().invoke(correlation.main, two)
    assert (done.exit_code, "three of them" in done.output) == (2, True)
    (tmp_path / "page.md").write_text("nothing")
    done = CliRunner().invoke(correlation.main, [*two, "--model", "fake:y", "--into", str(tmp_path / "page.md")])
    assert (done.exit_code, "has no lines <!-- grid -->" in done.output) == (2, True)


@pytest.mark.slow
def test_the_recipe_runs_from_images_to_tables(pictures: Path, tmp_path: Path, command: Command) -> None:
    data = tmp_path / "data"
    for name, source in (("cifar10", "pets"), ("cifar100", "pets")):
        for split in ("train", "test"):
            (data / name / split).parent.mkdir(parents=True, exist_ok=True)
            (data / name / split).symlink_to(pictures / source / split)
    (data / "cars").symlink_to(pictures / "cars")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{correlation.BEGIN}\nold\n{correlation.END}\nafter\n")
    arguments = ["--data", str(data), "--far", "cars", "--out", str(tmp_path / "grid"), "--into", str(page)]
    models = [word for tag in ("a", "b", "c") for word in ("--model", f"fake:{tag}")]
    assert CliRunner().invoke(correlation.main, [*arguments, *models], catch_exceptions=False).exit_code == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    results = list(Store.open(tmp_path / "grid" / "store.zarr").results())
    found = {r.model: r for r in results if r.method == "knn" and r.id_dataset == "cifar10"}
    (row,) = [row for row in rows(text, "knn") if len(row) == 4][:1]
    assert row[1:] == [f"{100 * (found[model].id_accuracy or 0):.1f}" for model in sorted(found)]
