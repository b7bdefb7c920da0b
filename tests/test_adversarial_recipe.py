"""The recipe of the attacks: its tables say what the store holds, and the report draws the same curves."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_folder
from embedstore.pipelines import adversarial
from report_study import metrics, run
from test_cli_attack import SIMILARITIES, records

from embedstore.report import gather
from embedstore.report.robustness import robustness
from embedstore.store import Store

pytestmark = pytest.mark.slow

Table = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipe made of six small images; the page that it wrote into lies beside it."""
    folder = tmp_path_factory.mktemp("recipe")
    write_folder(folder / "data" / "cifar100" / "train", ["a", "b"], 10, seed=0)
    write_folder(folder / "data" / "cifar100" / "test", ["a", "b"], 10, seed=1)
    write_folder(folder / "data" / "cifar10" / "test", ["x", "y", "z"], 3, seed=2)
    (folder / "page.md").write_text("before\n<!-- adversarial -->\nold\n<!-- /adversarial -->\nafter\n")
    args = ["--data", folder / "data", "--model", "fake", "--other", "fake:other", "--num", "6", "--steps", "5"]
    args += ["--snapshot", "3", "--snapshot", "0", "--snapshot", "99", "--budget", "4", "--budget", "32"]
    args += ["--method", "knn", "--method", "mcm", "--out", folder / "out", "--into", folder / "page.md"]
    done = CliRunner().invoke(adversarial.main, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (folder / "typed.txt").write_text(done.output)
    return folder / "out"


def table(out: Path, title: str) -> Table:
    """Cells by the first of their row and their column's title; of columns with one title the last."""
    text = (out / "tables.md").read_text()
    assert f"### {title}" in text
    lines = [line for line in text.partition(f"### {title}")[2].partition("###")[0].splitlines() if line[:1] == "|"]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def scores(out: Path, model: str, split: str, gone: tuple[str, ...] = ()) -> list[float]:
    """1-NN, one pair after the other."""
    store = Store.open(out / "store.zarr")
    train = store.images(model, "cifar100", "train").embedded()[~np.isin(store.rows("cifar100", "train").keys, gone)]
    rows = store.images(model, *split.split("/")).embedded()
    units = [np.asarray(each, dtype=np.float64) for each in (rows, train)]
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in units)
    return [max(float(x @ y) for y in b) for x in a]


def auroc(known: list[float], unknown: list[float]) -> str:
    wins = [(a > b) + 0.5 * (a == b) for a in known for b in unknown]
    return f"{100 * np.mean(wins):.1f}"


def won(known: list[float], clean: list[float], perturbed: list[float]) -> str:
    """Of those rejected when clean, at the largest threshold that accepts 95 % of the known, who is accepted."""
    least = max(t for t in known if np.mean(np.array(known) >= t) >= 0.95)
    rejected = [p for c, p in zip(clean, perturbed, strict=True) if c < least]
    share = f"{100 * np.mean([p >= least for p in rejected]):.1f}" if rejected else "–"
    return f"{share} ({len(rejected)})"


def test_the_tables_are_in_the_page_too(out: Path) -> None:
    text = (out / "tables.md").read_text()
    page = out.with_name("page.md").read_text()
    assert page == f"before\n<!-- adversarial -->\n\n{text}\n<!-- /adversarial -->\nafter\n"


@pytest.mark.parametrize(("model", "judge"), [("fake", "fake, the attacked model"), ("fake-other", "fake-other")])
def test_an_attack_is_judged_with_and_without_its_targets(out: Path, model: str, judge: str) -> None:
    row = table(out, f"pgd-32, judged by {judge}\n")["knn · cosine"]
    gone = tuple((out / "smooth" / "targets.txt").read_text().split())
    for split in ("clean", "adversarial"):
        values = [
            auroc(scores(out, model, "cifar100/test", left), scores(out, model, f"cifar10-pgd-32/{split}", left))
            for left in ((), gone)
        ]
        assert row[split] == (values[0] if len(set(values)) == 1 else " / ".join(values))


def test_the_images_have_the_means_of_their_records(out: Path) -> None:
    found = table(out, "The images: means of each attack on fake")
    assert list(found) == ["smooth", "patchy", "pgd-4", "pgd-32"]
    for name, row in found.items():
        made = records(out / name / "adversarial")
        path = " → ".join(f"{np.mean([one['similarity'][when] for one in made]):.3f}" for when in SIMILARITIES)
        numbers = [np.mean([one[norm] for one in made]) for norm in ("l2", "linf", "psnr")]
        l2, linf, psnr = f"{numbers[0]:.2f}", f"{255 * numbers[1]:.1f}", f"{numbers[2]:.1f}"
        assert list(row.values()) == [name, "6", "0", path, l2, linf, psnr]


@pytest.mark.parametrize(
    ("title", "sets"),
    [
        (
            "smooth over its steps, judged by fake\n",
            {
                "clean": "cifar10-smooth/clean",
                "0": "cifar10-smooth/step-0",
                "3": "cifar10-smooth/step-3",
                "5": "cifar10-smooth/float",
                "rounded": "cifar10-smooth/adversarial",
            },
        ),
        (
            "PGD over its L∞ budgets, judged by fake\n",
            {
                "clean": "cifar10-pgd-32/clean",
                "4/255": "cifar10-pgd-4/adversarial",
                "32/255": "cifar10-pgd-32/adversarial",
            },
        ),
    ],
)
def test_the_curves_are_of_the_sets_that_they_name(out: Path, title: str, sets: dict[str, str]) -> None:
    found = table(out, title)
    assert list(found) == list(sets)
    known, clean = (scores(out, "fake", name) for name in ("cifar100/test", "cifar10-smooth/clean"))
    text = (out / "tables.md").read_text().partition(f"### {title}")[2].splitlines()
    for label, name in sets.items():
        these = scores(out, "fake", name)
        success = "–" if label == "clean" else won(known, clean, these)
        assert found[label]["knn · cosine"] == auroc(known, these)
        assert any(line.startswith(f"| {label} | {auroc(known, these)} | {success} |") for line in text)
    assert len({found[label]["knn · cosine"] for label in sets}) > 1, "something happened on the way"


def test_budgets_are_followed_on_the_images_of_files_by_the_score_that_is_best_when_clean() -> None:
    values = {"pgd-1/clean": 0.7, "pgd-1/float": 0.4, "pgd-1/adversarial": 0.5, "pgd-8/clean": 0.7}
    values |= {"pgd-8/float": 0.2, "pgd-8/adversarial": 0.3}
    energy = {f"cifar10-{name}": metrics(value) for name, value in values.items()}
    msp = {name: {**one, "auroc": one["auroc"] - 0.1 if "clean" in name else 0.9} for name, one in energy.items()}
    one = run("fake", "linear", metrics={"msp": msp, "energy": energy})
    assert adversarial.by_budget([one], ["pgd-1", "pgd-8"]).splitlines() == [
        *("| budget | linear · energy | success |", "| --- | --- | --- |"),
        *("| clean | 70.0 | – |", "| 1/255 | 50.0 | – |", "| 8/255 | 30.0 | – |"),  # no scores of single images
    ]


def test_a_model_is_tested_on_what_it_can_have(out: Path) -> None:
    tested: dict[str, set[str]] = {}
    for result in Store.open(out / "store.zarr").results():
        tested.setdefault(result.model, set()).update(ood for by_set in result.metrics.values() for ood in by_set)
    three = {f"cifar10-{name}/{split}" for name in ("smooth", "patchy", "pgd-32") for split in ("clean", "adversarial")}
    assert (tested["fake-other"], tested["fake+jpeg75"]) == (three, three)
    more = {f"cifar10-{name}/float" for name in ("smooth", "patchy", "pgd-32", "pgd-4")}
    more |= {f"cifar10-pgd-4/{split}" for split in ("clean", "adversarial")}
    assert tested["fake"] == three | more | {"cifar10-smooth/step-0", "cifar10-smooth/step-3"}
    # And nobody is asked for what it cannot have.
    probes = [
        text.partition("\n\n")[0] for text in out.with_name("typed.txt").read_text().split("$ embedstore probe")[1:]
    ]
    words = [shlex.split(text.replace("\\\n", " ")) for text in probes]
    asked = {
        (line[line.index("--model") + 1], word.replace(":", "/")) for line in words for word in line if ":" in word
    }
    assert asked == {(model, name) for model, names in tested.items() for name in names}


def test_the_report_draws_the_same_curves(out: Path) -> None:
    ((found,), _) = robustness(gather(Store.open(out / "store.zarr")))
    assert found.drawing is not None
    panels = {panel.title: panel.views["fake"].figure for panel in found.drawing.panels}
    assert list(panels) == ["cifar10-smooth: steps", "cifar10: budgets", "cifar10: attacks"]

    def drawn(title: str) -> dict[Any, float]:
        figure = panels[title]
        assert figure is not None
        line = figure["data"][0]
        return dict(zip(line["x"], line["y"], strict=True))

    steps = table(out, "smooth over its steps, judged by fake\n")
    wanted = {0: steps["clean"], 3: steps["3"], 5: steps["5"]}
    assert drawn("cifar10-smooth: steps") == pytest.approx(
        {at: float(row["knn · cosine"]) for at, row in wanted.items()}, abs=0.051
    )
    sizes = table(out, "PGD over its L∞ budgets, judged by fake\n")
    wanted = {0: sizes["clean"], 4: sizes["4/255"], 32: sizes["32/255"]}
    assert {round(at): y for at, y in drawn("cifar10: budgets").items()} == pytest.approx(
        {at: float(row["knn · cosine"]) for at, row in wanted.items()}, abs=0.051
    )
    assert "after so many steps, within so large a budget" in found.explained


def test_a_page_without_marks_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing")
    args = ["--model", "fake", "--out", str(tmp_path / "out"), "--into", str(tmp_path / "page.md")]
    done = CliRunner().invoke(adversarial.main, args)
    assert (done.exit_code, "has no lines <!-- adversarial -->" in done.output) == (2, True)
    assert not (tmp_path / "out").exists()
