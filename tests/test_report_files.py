"""The report for papers and machines: figures, LaTeX, the documented JSON, narrowing, and the command."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome
from hypothesis import given, strategies
from report_study import HOSTILE, content, full, hostile, measured, provenance, result, run, seeded, study
from scipy import stats
from zarr.storage import MemoryStore

from embedstore.benchmarks import Benchmark, load_benchmark
from embedstore.cli import main
from embedstore.errors import NotAvailable, UnknownName
from embedstore.metrics import ood_metrics
from embedstore.records import Result
from embedstore.report import cells, gather, write_report
from embedstore.report.exports import COLUMNS, best, to_json
from embedstore.report.latex import MOST_LINES, MOST_SETS, escape, to_latex
from embedstore.report.narrow import Narrowing
from embedstore.report.static import figures
from embedstore.store import Store

Points = npt.NDArray[np.float64]

DOCUMENT = Path(__file__).parents[1] / "docs" / "report.md"
SVG = "{http://www.w3.org/2000/svg}"
OTHER_HOSTILE = ["$\\bad$ $x^2$", "a\nb\x00\x1b", "\ud800 中é", "../../etc/passwd", "-" * 300]


def filled(results: list[Result], location: Path | None = None) -> Store:
    store = Store.create(MemoryStore() if location is None else str(location))
    for item in results:
        store.add_result(item)
    return store


def scored(models: int = 4, oods: tuple[str, ...] = ("far/test",)) -> list[Result]:
    """Two methods with scores of every image, and the metrics of just these scores."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(models):
        for method, score, better in (("knn", "cosine", 0.3), ("mcm", "msp", 0.0)):
            scores = {f"{score}/digits/test": rng.normal(1 + better + 0.3 * index, 1, 400)}
            table = {}
            for ood in oods:
                scores[f"{score}/{ood}"] = np.append(rng.normal(0, 1, 300), np.nan)
                inside, outside = scores[f"{score}/digits/test"], scores[f"{score}/{ood}"][:300]
                auroc = float(np.mean(inside[:, None] > outside))
                table[ood] = measured(auroc)
            accuracy = 0.6 + 0.08 * index + rng.uniform(0, 0.02)
            found.append(run(f"m{index}", method, metrics={score: table}, scores=scores, id_accuracy=accuracy))
    return found


# Figures --------------------------------------------------------------------------------------------------------------


def drawn(svg: bytes, colour: str, tag: str = "path") -> list[Points]:
    """Coordinates (n, 2) of everything in that colour, in the figure's units with y upwards."""
    found = []
    for element in ElementTree.fromstring(svg).iter(SVG + tag):
        if colour.lower() in element.get("style", "").lower():
            if tag == "use":
                found.append(np.array([[float(element.get("x", 0)), -float(element.get("y", 0))]]))
            else:
                numbers = re.findall(r"-?\d+(?:\.\d+)?", element.get("d", ""))
                found.append(np.array(numbers, dtype=float).reshape(-1, 2) * [1, -1])
    return found


def band(svg: bytes) -> Points:
    """Coordinates (n, 2) of the edge of the confidence band."""
    elements = list(ElementTree.fromstring(svg).iter())
    use = next(e for e in elements if e.tag == SVG + "use" and "fill: #d55e00" in e.get("style", ""))
    name = use.get("{http://www.w3.org/1999/xlink}href", "").removeprefix("#")
    edge = next(e.get("d", "") for e in elements if e.get("id") == name)
    numbers = np.array(re.findall(r"-?\d+(?:\.\d+)?", edge), dtype=float).reshape(-1, 2)
    place = np.array([float(use.get("x", 0)), float(use.get("y", 0))])
    return (numbers + place) * [1, -1]


@pytest.fixture(scope="module")
def drawings() -> tuple[list[Result], dict[str, bytes]]:
    results = scored()
    return results, figures(gather(filled(results)))


def test_every_figure_is_there_as_svg_and_pdf(drawings: tuple[list[Result], dict[str, bytes]]) -> None:
    _, files = drawings
    names = {f"figures/{kind}-digits-far.{suffix}" for kind in ("r2", "roc", "auroc") for suffix in ("svg", "pdf")}
    assert set(files) == names
    assert all(data.startswith(b"%PDF") for name, data in files.items() if name.endswith("pdf"))
    assert "matplotlib.pyplot" not in sys.modules, "its global state is the user's"


def test_the_scatter_has_the_points_and_the_line_of_least_squares(
    drawings: tuple[list[Result], dict[str, bytes]],
) -> None:
    results, files = drawings
    knn = [item for item in results if item.method == "knn"]
    x = np.array([100 * (item.id_accuracy or 0) for item in knn])
    y = np.array([100 * item.metrics["cosine"]["far/test"]["auroc"] for item in knn])
    svg = files["figures/r2-digits-far.svg"]
    points = np.concatenate(drawn(svg, "fill: #0072b2", "use"))
    assert len(points) == len(knn) == 4
    # The axes are straight, so places are straight lines of numbers: these say what any other place means.
    (to_x, residual_x, *_), (to_y, residual_y, *_) = (
        np.polyfit(points[:, i], values, 1, full=True) for i, values in enumerate((x, y))
    )
    assert max(residual_x[0], residual_y[0]) < 1e-6
    line = next(path for path in drawn(svg, "stroke: #d55e00") if len(path) > 10)
    at, up = np.polyval(to_x, line[:, 0]), np.polyval(to_y, line[:, 1])
    assert at[[0, -1]] == pytest.approx([x.min(), x.max()], abs=1e-3)
    assert up == pytest.approx(np.polyval(np.polyfit(x, y, 1), at), abs=1e-3)
    # The band at its left end: the standard error of a least-squares line, by its formula.
    ends = [place for place in band(svg) if abs(place[0] - line[0, 0]) < 0.01]
    low, high = np.polyval(to_y, [min(end[1] for end in ends), max(end[1] for end in ends)])
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    error = np.sqrt(rest @ rest / 2 * (1 / 4 + (x.min() - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)))
    assert high - low == pytest.approx(2 * 4.302653 * error, rel=1e-3), "Student's t of two degrees of freedom"


def test_the_roc_curves_enclose_the_aurocs_of_the_best_model(drawings: tuple[list[Result], dict[str, bytes]]) -> None:
    results, files = drawings
    svg = files["figures/roc-digits-far.svg"]
    stored = {(item.model, item.method): next(iter(item.metrics.values()))["far/test"]["auroc"] for item in results}
    model = max({item.model for item in results}, key=lambda name: stored[name, "knn"] + stored[name, "mcm"])
    expected = sorted((stored[model, "knn"], stored[model, "mcm"]), reverse=True)
    for colour, auroc in zip(("#0072b2", "#d55e00"), expected, strict=True):
        curve = max(drawn(svg, f"stroke: {colour}"), key=len)
        low, high = curve.min(axis=0), curve.max(axis=0)
        fpr, tpr = ((curve - low) / (high - low)).T
        assert np.trapezoid(tpr, fpr) == pytest.approx(auroc, abs=0.01)


def test_the_bars_are_as_long_as_the_aurocs_are_above_chance(
    drawings: tuple[list[Result], dict[str, bytes]],
) -> None:
    results, files = drawings
    bars = [np.ptp(path[:, 0]) for path in drawn(files["figures/auroc-digits-far.svg"], "fill: #0072b2")]
    of_knn = sorted(item.metrics["cosine"]["far/test"]["auroc"] for item in results if item.method == "knn")
    assert np.array(bars) / bars[0] == pytest.approx([(auroc - 0.5) / (of_knn[0] - 0.5) for auroc in of_knn], rel=1e-3)


def test_the_same_results_give_the_same_bytes_whatever_the_readers_style(
    drawings: tuple[list[Result], dict[str, bytes]],
) -> None:
    import matplotlib

    results, before = drawings
    with matplotlib.rc_context(
        {"axes.grid": True, "lines.linewidth": 9, "svg.hashsalt": "x", "font.size": 30, "text.parse_math": True}
    ):
        again = figures(gather(filled(results)))
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert again == before
    assert not any(re.search(rb"dc:date|CreationDate|ModDate", data) for data in again.values())


def test_hostile_names_are_drawn_as_text_and_make_harmless_files() -> None:
    name = " ".join([*HOSTILE, *OTHER_HOSTILE])
    models = [*HOSTILE, *OTHER_HOSTILE]
    results = [
        result(
            text, id_dataset=name, metrics={"cosine": {f"{name}/{name}": measured(0.5 + 0.01 * i)}}, id_accuracy=0.1 * i
        )
        for i, text in enumerate(models)
    ]
    files = figures(content(results))
    assert len(files) == 4, "R² and AUROC as SVG and PDF"
    for path, data in files.items():
        assert re.fullmatch(r"figures/[A-Za-z0-9._+@=-]+\.(svg|pdf)", path)
        if path.endswith("svg"):
            tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(data).iter()}
            assert tags.isdisjoint({"script", "img", "image", "b"})


def test_two_names_that_would_be_one_file_are_two_files() -> None:
    results = [
        run(
            model, "knn", metrics={"cosine": {ood: measured(0.8 + 0.01 * n) for ood in ("a/b", "a_b/test", "A_b/test")}}
        )
        for n, model in enumerate(("x", "y"))
    ]
    names = sorted(name for name in figures(content(results)) if name.endswith("svg"))
    assert len({name.lower() for name in names}) == 3


def test_too_little_for_a_figure_gives_none() -> None:
    assert figures(content([])) == {}
    assert figures(content([result()])) == {}
    names = {name.split("-")[0] for name in figures(content(study(2, ("far/test",))))}
    assert names == {"figures/auroc"}


def test_a_line_that_does_not_exist_is_not_drawn() -> None:
    same = [dataclasses.replace(item, id_accuracy=0.9) for item in study(3, ("far/test",)) if item.method == "knn"]
    svg = figures(content(same))["figures/r2-digits-far.svg"]
    assert len(drawn(svg, "fill: #0072b2", "use")) == 3
    assert not drawn(svg, "#d55e00")


# LaTeX ----------------------------------------------------------------------------------------------------------------


def read_tex(text: str) -> list[list[str]]:
    """The cells of every row of every table; complains about what would not compile."""
    rows = []
    for table in re.findall(r"\\begin\{table\*\}(.*?)\\end\{table\*\}", text, re.DOTALL):
        columns, body = re.search(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", table, re.DOTALL).groups()
        count = len(re.findall(r"r|l|p\{", columns.replace("@{", "").replace(r"\textwidth", "")))
        assert re.match(r"\s*\\toprule", body)
        assert re.search(r"\\bottomrule\s*$", body)
        for line in body.splitlines():
            if not line.endswith(r"\\"):
                assert re.fullmatch(r"(\\(top|mid|bottom)rule|( ?\\cmidrule\(lr\)\{\d+-\d+\})+)", line), line
                continue
            found = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
            spans = [int(match[1]) if (match := re.search(r"\\multicolumn\{(\d+)\}", cell)) else 1 for cell in found]
            assert sum(spans) == count, line
            rows.append([cell.strip() for cell in found])
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    assert re.findall(r"\\begin\{(.*?)\}", text).count("table*") == text.count(r"\end{table*}")
    return rows


def compiles(text: str, folder: Path) -> None:
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        return
    (folder / "tables.tex").write_text(text, encoding="utf-8")
    (folder / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\n\\begin{document}\\input{tables}\\end{document}\n"
    )
    done = subprocess.run(
        [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large" not in done.stdout


def test_the_numbers_of_the_tables_are_the_stored_ones_and_the_best_are_bold(tmp_path: Path) -> None:
    results = study(3)
    text = to_latex(content(results))
    rows = [row for row in read_tex(text) if len(row) == 6 and row[0].replace("-{}", "-") != "Method"]
    stored = [(item, score) for item in results for score in item.metrics]
    assert len(rows) == len(stored) == 3 * 6
    columns = list(zip(*rows, strict=True))
    for index, (ood, metric) in enumerate((o, m) for o in ("far/test", "near/test") for m in ("auroc", "fpr95")):
        truth = [item.metrics[score][ood][metric] for item, score in stored]
        printed = [cell.removeprefix(r"\textbf{").removesuffix("}") for cell in columns[2 + index]]
        assert printed == [f"{100 * value:.1f}" for value in truth]
        bold = [i for i, cell in enumerate(columns[2 + index]) if "textbf" in cell]
        assert bold == [int((np.argmin if metric == "fpr95" else np.argmax)(truth))]
    compiles(text, tmp_path)


def test_large_tables_are_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    oods = tuple(f"set{i}/test" for i in range(9))
    results = full(6, oods)
    text = to_latex(content(results))
    rows = [row for row in read_tex(text) if not row[0].startswith(r"\multicolumn") and row[0] not in ("", "Method")]
    scores = sum(len(item.metrics) for item in results)
    assert len(rows) == 3 * scores, "four, four and one OOD set"
    # Of each OOD set one AUROC, and one FPR95 of either convention.
    assert sum(cell.startswith(r"\textbf") for row in rows for cell in row[2:]) == 3 * len(oods)
    tables = text.split(r"\begin{table*}")[1:]
    assert max(table.count(r"\\") for table in tables) < MOST_LINES + 4
    assert max(table.count("colspan") + len(re.findall(r"\\cmidrule", table)) for table in tables) == MOST_SETS
    assert f"(part {len(tables)} of {len(tables)})" in tables[-1]
    compiles(text, tmp_path)


def test_seeds_prompts_and_conventions_are_told_apart(tmp_path: Path) -> None:
    assert "means over 3 seeds" in to_latex(content(seeded(3)))
    worse, better = (
        run("a", "knn", variant, metrics={"cosine": {"far/test": measured(0.8, fpr95=fpr95)}})
        for variant, fpr95 in (("", 0.4), ("metrics=openood", 0.3))
    )
    text = to_latex(content([worse, better]))
    assert text.count(r"\textbf{40.0}") == text.count(r"\textbf{30.0}") == 1, "each is the best of its convention"
    assert r"metrics=openood measure FPR95 as those programs do" in text
    compiles(text, tmp_path)


@given(strategies.text(strategies.characters(min_codepoint=32, max_codepoint=126)))
def test_what_is_escaped_can_be_read_back(text: str) -> None:
    back = escape(text)
    assert not re.search(r"(?<!\\)[_&#%$^~]", back), "what TeX would act on"
    for code in (36, 34, 96):
        back = back.replace(rf"\char{code}{{}}", chr(code) + "\0")
    for name, letter in (("textbackslash", "\\"), ("textasciicircum", "^"), ("textasciitilde", "~")):
        back = back.replace(rf"\{name}{{}}", "\1" if letter == "\\" else letter)
    for name, letter in (("textless", "<"), ("textgreater", ">"), ("textbar", "|")):
        back = back.replace(rf"\{name}{{}}", letter)
    back = back.replace(r"\allowbreak{}", "").replace("-{}", "-").replace("'{}", "'").replace("\0", "")
    back = back.replace("{[}", "[").replace("{*}", "*")
    back = re.sub(r"\\([{}&#%_])", r"\1", back)
    assert back.replace("\1", "\\") == text


@pytest.mark.parametrize("text", [*HOSTILE, *OTHER_HOSTILE, r"\end{table*} \input{/etc/passwd} 50% a&b #1 ~^_{"])
def test_hostile_names_do_nothing_in_tex(text: str, tmp_path: Path) -> None:
    found = to_latex(content(hostile(text)))
    read_tex(found)
    commands = set(re.findall(r"\\([a-z]+)", found))
    assert commands <= set(re.findall(r"\\([a-z]+)", to_latex(content(study(3))))) | {
        *("char", "textbackslash", "textless", "textgreater", "textbar", "textasciicircum", "textasciitilde", "texttt"),
        *("allowbreak", "raggedright", "textwidth"),
    }
    compiles(found, tmp_path)


def test_nothing_to_print_is_said() -> None:
    text = to_latex(content([result(metrics={}, absent="no labels")]))
    assert "There are no figures to print" in text
    assert read_tex(text) == []


# The documented JSON --------------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, float | int) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def documented(heading: str) -> dict[str, str]:
    """Key and type of every row of the table under a heading of docs/report.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    part = re.split(r"^#+ ", text.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", part, re.MULTILINE))


def check(value: dict[str, Any], heading: str) -> None:
    """Exactly the keys that the document names, each of the type that it says."""
    wanted = documented(heading)
    assert list(value) == list(wanted), heading
    for key, kind in wanted.items():
        if kind.startswith("list of ") and kind != "list of string":
            one = kind.removeprefix("list of ")
            for item in value[key]:
                check(item, f"{'An' if one == 'absence' else 'A'} {one}")
        elif kind == "list of string":
            assert all(isinstance(item, str) for item in value[key])
        else:
            assert any(SHAPES[each](value[key]) for each in kind.split(" or ")), (heading, key, value[key])


def test_a_real_report_is_what_the_document_says(tmp_path: Path) -> None:
    store = filled([*scored(3), result("m0", "plp", metrics={}, absent="no prompts"), result("b", notes=("a note",))])
    older = filled([run("m0", "knn")])
    write_report(store, tmp_path, other=older, narrowing=Narrowing(benchmark=benchmark(tmp_path)))
    value = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert all(value[key] for key in ("cells", "absent", "correlations", "notes", "groups", "comparison", "files"))
    check(value, "The file")
    lines = (tmp_path / "comparison.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",") == list(documented("comparison.csv"))
    assert list(COLUMNS) == list(documented("A cell"))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(value["files"]) == found - {"mine.toml"}


def test_every_metric_that_is_stored_is_in_a_cell() -> None:
    rng = np.random.default_rng(0)
    stored = ood_metrics(rng.normal(1, 1, 50), rng.normal(0, 1, 60))
    (cell,) = json.loads(to_json(content([run("a", "knn", metrics={"cosine": {"far/test": stored}})])))["cells"]
    assert {name: cell[name] for name in stored} == stored


def test_r_squared_has_its_interval_in_the_json() -> None:
    found = json.loads(to_json(content(study(5))))["correlations"]
    for fit in found:
        x, y = ([point[name] for point in fit["points"]] for name in ("id_accuracy", "auroc"))
        # Of r, by another library; all of these rise, so that its squares are those of R².
        low, high = stats.pearsonr(x, y).confidence_interval(0.95)
        assert (fit["r_squared_low"], fit["r_squared_high"]) == pytest.approx((max(low, 0) ** 2, high**2), abs=1e-9)
    assert len(found) == 12
    few = json.loads(to_json(content(study(2))))["correlations"]
    assert {fit["r_squared_low"] for fit in few} == {None}


def test_a_model_in_the_json_has_its_whole_provenance() -> None:
    value = json.loads(to_json(content([result()], models={"a": provenance(), "b": None})))
    assert value["models"]["a"] == {**provenance().to_json(), "fingerprint": provenance().fingerprint()}
    assert value["models"]["b"] is None


# Narrowing ------------------------------------------------------------------------------------------------------------

TOML = """
name = "mine"
title = "Mine"
source = "test"
[id]
name = "digits"
title = "Digits"
where = "here"
[[ood]]
group = "near"
name = "near"
title = "Near"
where = "here"
[[ood]]
group = "far"
name = "far"
title = "Far"
where = "here"
"""


def benchmark(folder: Path) -> Benchmark:
    path = folder / "mine.toml"
    path.write_text(TOML, encoding="utf-8")
    return load_benchmark(path)


def test_models_and_methods_are_chosen_before_anything_is_computed() -> None:
    store = filled(study(3))
    narrowed = gather(store, Narrowing(models=("model0", "model2"), methods=("plp",)))
    expected = [cell for cell in cells(study(3)) if cell.model != "model1" and cell.method == "plp"]
    assert list(narrowed.cells) == expected
    assert set(narrowed.models) == {"model0", "model2"}
    assert narrowed.groups == {}
    everything = gather(store)
    assert {mean.model for mean in best(everything.cells)} == {"model0", "model1", "model2"}
    assert {mean.method for mean in best(narrowed.cells)} == {"plp"}


def test_a_benchmark_leaves_its_own_sets_and_says_what_is_missing(tmp_path: Path) -> None:
    oods = ("far/test", "other/test")
    other_id = run("a", "knn", id_dataset="letters")
    other_split = run("c", "knn", inputs={"images/digits/val": "1", "images/far/test": "2"})
    only_others = run("d", "knn", metrics={"cosine": {"other/test": measured(0.7)}})
    store = filled([*study(2, oods), other_id, other_split, only_others, result("a", "mcm", metrics={}, absent="why")])
    found = gather(store, Narrowing(benchmark=benchmark(tmp_path)))
    assert found.datasets == ["digits"]
    assert {cell.ood for cell in found.cells} == {"far/test"}
    assert {cell.model for cell in found.cells} == {"model0", "model1"}
    assert found.groups == {"near": ("near/test",), "far": ("far/test",)}
    assert [absence.model for absence in found.absences] == ["a"]
    near, far = found.notes
    assert ("near/test" in near.text, near.models) == (True, ("a", "model0", "model1"))
    assert ("far/test" in far.text, far.models) == (True, ("a",))


def test_other_ood_sets_that_changed_do_not_make_a_benchmark_outdated(tmp_path: Path) -> None:
    kept = Narrowing(benchmark=benchmark(tmp_path)).keep(
        [result(inputs={"model": "0", "images/digits/test": "1", "images/far/test": "2", "images/other/test": "3"})]
    )
    assert set(kept[0].inputs) == {"model", "images/digits/test", "images/far/test"}


@pytest.mark.parametrize(
    ("narrowing", "error", "said"),
    [
        (Narrowing(models=("modle1",)), UnknownName, r"unknown model 'modle1'.*Did you mean 'model1'.*model0, model1"),
        (
            Narrowing(methods=("gradnorm",)),
            UnknownName,
            r"unknown method 'gradnorm'.*knn, linear, maha",
        ),
        (Narrowing(models=("model0",), methods=("vim",)), NotAvailable, r"none is of model model0, and method vim"),
        (
            Narrowing(benchmark=load_benchmark("cifar10")),
            NotAvailable,
            r"none is of the benchmark cifar10 .*cifar100",
        ),
    ],
)
def test_a_name_that_nothing_has_is_an_error_that_lists_the_known(
    narrowing: Narrowing, error: type[Exception], said: str
) -> None:
    results = study(2)
    if narrowing.methods == ("vim",):
        results.append(run("model1", "vim"))
    with pytest.raises(error, match=said):
        gather(filled(results), narrowing)


def test_every_file_counts_as_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    store, older = filled(scored(3)), filled([run("m0", "knn")])
    done = write_report(store, tmp_path, other=older, progress=lambda more, total: told.append((more, total)))
    assert sum(more for more, _ in told) == len(done.files) == 11
    assert {total for _, total in told} == {11}
    assert len(told) == 3 + 5, "after each of the figures, which are two files, and each of the others"


# The folder and the command -------------------------------------------------------------------------------------------


def test_what_the_last_report_left_and_this_one_does_not_have_goes_and_nothing_else(tmp_path: Path) -> None:
    two = filled(study(2, ("far/test", "near/test")))
    write_report(two, tmp_path, other=filled([result()]))
    mine = tmp_path / "figures" / "auroc-mine.svg"
    mine.write_text("mine")
    listed = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    outside = tmp_path.parent / "outside.svg"
    outside.write_text("mine")
    listed["files"] += ["../outside.svg", "figures/../../outside.svg", str(outside), 7]
    (tmp_path / "results.json").write_text(json.dumps(listed))
    assert (tmp_path / "comparison.csv").exists()
    done = write_report(filled(study(2, ("far/test",))), tmp_path)
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {*done.files, mine}
    assert {path.name for path in there if path.suffix == ".pdf"} == {"auroc-digits-far.pdf"}
    assert outside.exists()


def test_without_matplotlib_the_rest_is_written_and_it_is_said(
    location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = invoke("--store", location, "--out", tmp_path)
    assert done.exit_code == 0
    assert "note: no figures, because Matplotlib cannot be loaded" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "results.csv", "results.json", "tables.tex"}


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"files": 3}', "\udcff"])
def test_a_strange_file_in_the_place_of_the_json_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    write_report(filled([result()]), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["format"] == 1


def invoke(*arguments: str | Path) -> Outcome:
    return CliRunner().invoke(main, [str(word) for word in ("report", *arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    filled([item for item in seeded(7, 2, ("far/test",)) if item.method in ("knn", "plp")], path)
    return path


def test_the_command_ends_with_the_best_of_each_model(location: Path, tmp_path: Path) -> None:
    done = invoke("--store", location, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "model" in line and "│" in line]
    table = [[cell.strip() for cell in line.split("│")] for line in lines]
    aurocs = [float(row[5]) for row in table]
    assert len(table) == 5
    assert aurocs == sorted(aurocs, reverse=True)
    assert "… and 2 more" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Report: {tmp_path / 'report.html'}"
    assert invoke("--store", location, "--out", tmp_path, "--quiet").stdout == ""


def test_the_json_of_the_command_names_files_and_the_best(location: Path, tmp_path: Path) -> None:
    done = invoke("--store", location, "--out", tmp_path, "--json", "--model", "model3", "--model", "model1")
    value = json.loads(done.stdout)
    assert all(Path(name).is_file() for name in value["files"])
    assert value["report"] == str(tmp_path / "report.html") == value["files"][-1]
    whole = [cell for cell in cells(Store.open(str(location)).results()) if cell.model in ("model1", "model3")]
    for row in value["best"]:
        by_row: dict[tuple[str, str], list[float]] = {}
        for cell in whole:
            if cell.model == row["model"] and cell.auroc is not None:
                by_row.setdefault((cell.method, cell.score), []).append(cell.auroc)
        means = {key: sum(values) / len(values) for key, values in by_row.items()}
        assert row["auroc"] == pytest.approx(max(means.values()), abs=1e-12)
        assert (row["method"], row["score"]) == max(means, key=lambda key: means[key])
    assert [row["model"] for row in value["best"]] == ["model3", "model1"]
    again = invoke("--store", location, "--out", tmp_path, "--json", "--models", "model3", "--models", "model1")
    assert json.loads(again.stdout) == value
    knn = invoke("--store", location, "--out", tmp_path, "--json", "--methods", "knn")
    assert {row["method"] for row in json.loads(knn.stdout)["best"]} == {"knn"}
    assert "best method" in done.stderr


def test_the_command_refuses_unknown_names_and_dates_that_are_none(location: Path, tmp_path: Path) -> None:
    wrong = {
        ("--model", "nobody"): r"unknown model 'nobody'\. Known: model0",
        ("--method", "nothing"): r"unknown method 'nothing'\. Known: knn, plp",
        ("--benchmark", "nowhere"): r"unknown benchmark 'nowhere'.*cifar10",
        ("--compare", "2026-02-31"): r"day is out of range.*2026-01-31T18:30",
        ("--compare", str(tmp_path / "no.zarr")): r"no.zarr",
    }
    for arguments, said in wrong.items():
        done = invoke("--store", location, "--out", tmp_path / "out", *arguments)
        assert done.exit_code == 2, done.output
        assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()
