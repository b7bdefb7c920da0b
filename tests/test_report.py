"""The report's rows and files, from results made by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from report_study import SCORES, Page, content, metrics, page, provenance, result, seeded, study
from zarr.storage import MemoryStore

from embedstore.errors import NotAvailable, UsageError
from embedstore.records import OK, Result, Rows
from embedstore.report import absences, cells, correlations, gather, write_report
from embedstore.report.commands import commands
from embedstore.report.exports import COLUMNS, to_csv, to_json
from embedstore.report.page import render
from embedstore.report.plots import panels
from embedstore.store import Store


@pytest.fixture
def store() -> Store:
    return Store.create(MemoryStore())


def fill(store: Store, results: list[Result]) -> Store:
    for item in results:
        store.add_result(item)
    return store


# Rows -----------------------------------------------------------------------------------------------------------------


def test_the_newest_result_of_a_cell_wins_in_whatever_order_they_come() -> None:
    old = result(created="2026-01-01T23:00:00+00:00", metrics={"cosine": {"far/test": metrics(0.1)}})
    # Later by the clock although earlier by the letter: it is 23:30 UTC.
    new = result(created="2026-01-01T18:30:00-05:00", metrics={"cosine": {"far/test": metrics(0.9)}})
    undated = result(created="", metrics={"cosine": {"far/test": metrics(0.5)}})
    for order in ([old, new, undated], [new, undated, old], [undated, old, new]):
        assert [cell.auroc for cell in cells(order)] == [0.9]


def test_cells_that_only_an_older_result_covers_stay() -> None:
    old = result(metrics={"cosine": {"far/test": metrics(0.1), "near/test": metrics(0.2)}})
    new = result(metrics={"cosine": {"far/test": metrics(0.9)}}, created="2026-02-01T00:00:00+00:00")
    assert [(cell.ood, cell.auroc) for cell in cells([new, old])] == [("far/test", 0.9), ("near/test", 0.2)]


def test_seeds_and_template_sets_do_not_replace_each_other(store: Store) -> None:
    settings = [(0, "plp"), (0, "simple"), (1, "plp")]
    results = [result(params={"seed": seed, "templates": templates}) for seed, templates in settings]
    again = result(params={"seed": 1, "templates": "plp"}, created="2026-02-01T00:00:00+00:00")
    found = gather(fill(store, [*results, again]))
    assert sorted((cell.seed, cell.templates) for cell in found.cells) == settings
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert sorted((int(line["seed"]), line["templates"]) for line in lines) == settings
    assert sorted((cell["seed"], cell["templates"]) for cell in json.loads(to_json(found))["cells"]) == settings


def test_only_results_of_the_same_seed_are_called_older(store: Store) -> None:
    absent = [result(method="mcm", metrics={}, absent="no names", params={"seed": seed}) for seed in range(3)]
    found = gather(fill(store, [*seeded(2), *absent]))
    assert (found.superseded, len(found.cells)) == (0, 3 * 2 * 2 * sum(map(len, SCORES.values())))
    assert "left out" not in Page(render(found)).text


def test_rows_are_in_reading_order() -> None:
    order = [cell.label for cell in cells(reversed(study(1, ("far/test",))))]
    assert order == ["knn · cosine", "mcm · msp", "plp · msp", "plp · energy", "linear · msp", "mahalanobis · distance"]


def test_a_metric_that_is_not_a_number_is_no_value() -> None:
    broken = result(metrics={"cosine": {"far/test": metrics(float("nan"))}}, id_accuracy=float("inf"))
    assert (cells([broken])[0].auroc, cells([broken])[0].id_accuracy) == (None, None)
    json.loads(to_json(content([broken])), parse_constant=pytest.fail)


def test_a_method_is_absent_until_it_runs() -> None:
    absent = result(method="mcm", metrics={}, absent="no class names", created="2026-03-01T00:00:00+00:00")
    assert [(a.method, a.reason) for a in absences([result(), absent])] == [("mcm", "no class names")]
    assert absences([absent, result(method="mcm")]) == []


# R² -------------------------------------------------------------------------------------------------------------------


def test_r_squared_is_the_squared_correlation_of_knn_accuracy_and_auroc() -> None:
    results = study(7)
    accuracy = {item.model: item.id_accuracy for item in results if item.method == "knn"}
    fits = correlations(cells(results))
    assert len(fits) == 2 * sum(map(len, SCORES.values()))
    for fit in fits:
        mine = [item for item in results if item.method == fit.method]
        x = [accuracy[item.model] for item in mine]
        y = [item.metrics[fit.score][fit.ood]["auroc"] for item in mine]
        assert fit.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-9)
        assert [(p.model, p.id_accuracy, p.auroc) for p in fit.points] == list(zip(accuracy, x, y, strict=True))


def test_r_squared_is_over_means_of_seeds_and_per_template_set() -> None:
    once = correlations(cells(seeded(5, seeds=1)))
    for fit, single in zip(correlations(cells(seeded(5))), once, strict=True):
        assert (fit.label, len(fit.points)) == (single.label, 5)
        shift = 0.01 if fit.method in ("plp", "linear") else 0.0
        assert [point.auroc + shift for point in fit.points] == pytest.approx([point.auroc for point in single.points])
    both = study(5) + study(5, params={"seed": 0, "templates": "simple"})
    fits = [fit for fit in correlations(cells(both)) if fit.ood == "far/test"]
    assert [(fit.label, fit.templates) for fit in fits[:3]] == [
        ("knn · cosine", None),
        ("mcm · msp · plp", "plp"),
        ("mcm · msp · simple", "simple"),
    ]
    assert {len(fit.points) for fit in fits} == {5}


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        (study(2), "needs at least 3 models, there are 2"),
        (study(5, id_accuracy=None), "0 of 5 have one: it takes method knn and labels"),
        (study(5, id_accuracy=0.5), "not defined"),
        ([item for item in study(5) if item.method != "knn"], "it takes method knn"),
    ],
)
def test_without_a_line_there_is_a_reason(results: list[Result], reason: str) -> None:
    fits = correlations(cells(results))
    assert fits
    assert all(fit.r_squared is None and reason in str(fit.reason) for fit in fits)
    assert reason in page(results).text


def test_the_plots_have_a_point_per_model_and_no_plot_is_empty() -> None:
    fits = correlations(cells(study(5)))
    assert [panel.ood for panel in panels(fits)] == ["far/test", "near/test"]
    for panel in panels(fits):
        for view in panel.views.values():
            assert view.figure is not None
            line, points = view.figure["data"]
            assert (len(line["x"]), len(points["x"]), len(points["text"])) == (2, 5, 5)
    assert panels(correlations(cells(study(2)))) == []


# From a store ---------------------------------------------------------------------------------------------------------


def embedded(store: Store, name: str = "digits", rows: int = 3) -> dict[str, str]:
    """Embed a test split with model ``a``, and prompts; the fingerprints of both."""
    store.add_model(provenance(), None)
    unknown = np.full(rows, -1)
    keys = [f"{index}" for index in range(rows)]
    split = store.add_rows(name, "test", Rows(keys, unknown, unknown, unknown, unknown, (), None, "folder/with space"))
    writer = store.image_writer("a", split)
    writer.write(0, rows, np.full(rows, OK, dtype=np.uint8), features=np.ones((rows, 8), dtype=np.float32))
    store.add_texts("a", name, "plp", names=["x"], templates=["{}"], vectors=np.ones((1, 1, 4)) / 2)
    return {
        "model": store.provenance("a").fingerprint(),
        f"images/{name}/test": store.images("a", name, "test").fingerprint,
        f"texts/{name}/plp": store.text_info("a", name)["fingerprint"],
    }


@pytest.mark.parametrize("what", ["model", "images/digits/test", "texts/digits/plp"])
def test_a_result_of_something_that_changed_is_left_out_and_counted(store: Store, what: str) -> None:
    inputs = embedded(store)
    fill(store, [result(inputs=inputs), result(method="plp", inputs={**inputs, what: "another"})])
    found = gather(store)
    assert ({cell.method for cell in found.cells}, found.outdated) == ({"knn"}, 1)
    assert "1 result is out of date and left out: run probe again." in Page(render(found)).text


def test_out_of_date_results_that_were_computed_again_need_no_probing(store: Store) -> None:
    inputs = embedded(store)
    fill(store, [result(inputs={**inputs, "model": "another"}), result(inputs=inputs)])
    found = gather(store)
    assert (found.outdated, found.superseded, len(found.cells)) == (0, 1, 1)


def test_what_a_store_of_results_alone_cannot_check_is_taken_as_it_is(store: Store) -> None:
    found = gather(fill(store, [result(inputs={"model": "?", "images/digits/test": "?", "texts/digits/plp": "?"})]))
    assert (len(found.cells), found.outdated, found.models) == (1, 0, {"a": None})
    assert "probed from another store" in Page(render(found)).text


def test_a_store_in_which_everything_is_out_of_date_gives_a_report_that_says_so(store: Store) -> None:
    embedded(store)
    found = gather(fill(store, [result(inputs={"model": "another"})]))
    text = Page(render(found)).text
    assert "There are no figures to show: every result is out of date." in text
    assert "run probe again" in text


def test_a_store_without_results_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="run `embedstore probe"):
        write_report(store, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_tells_what_made_the_embeddings_and_how_to_make_them_again(store: Store) -> None:
    found = gather(fill(store, [result(inputs={**embedded(store), "images/far/test": "gone"})]))
    text = Page(render(found)).text
    for said in ("ViT-Test", "0123456789ab", "96 × 96", "fp32 → float16", "8 → 4", "torch 2.8.0", "2026-01-01"):
        assert said in text
    extract, probe, report = (command.line for command in commands(found))
    assert extract.startswith("embedstore extract 'folder/with space' --store memory://")
    assert extract.endswith("--model a --dataset digits --split test --precision fp32 --dtype float16")
    assert "--model a --id digits --ood far --method knn --seed 0" in probe
    assert report.startswith("embedstore report --store ")
    assert "Flags that the store does not record, such as --limit or --classes, are not shown." in text


def test_the_commands_name_all_seeds_and_template_sets(store: Store) -> None:
    inputs = embedded(store)
    store.add_texts("a", "digits", "simple", names=["x"], templates=["{}"], vectors=np.ones((1, 1, 4)) / 2)
    fill(store, [result(inputs=inputs, params={"seed": seed, "templates": "simple"}) for seed in (10, 2)])
    extract, probe, _ = (command.line for command in commands(gather(store)))
    assert extract.endswith("--templates plp --templates simple")
    assert probe.endswith("--method knn --seed 2 --seed 10 --templates simple")


# Files ----------------------------------------------------------------------------------------------------------------


def test_csv_and_json_give_back_exactly_what_was_stored(store: Store, tmp_path: Path) -> None:
    results = study(3)
    write_report(fill(store, results), tmp_path)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    value = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    by_key = {(item.model, item.method): item for item in results}
    assert len(lines) == len(value["cells"]) == 3 * 2 * sum(map(len, SCORES.values()))
    assert tuple(lines[0]) == COLUMNS
    for line, cell in zip(lines, value["cells"], strict=True):
        stored = by_key[cell["model"], cell["method"]]
        assert cell["id_accuracy"] == float(line["id_accuracy"]) == stored.id_accuracy
        for name, number in stored.metrics[cell["score"]][cell["ood"]].items():
            assert cell[name] == float(line[name]) == number
    assert (value["format"], set(value["models"])) == (1, {"model0", "model1", "model2"})
    assert {fit["n"] for fit in value["correlations"]} == {3}


def test_a_spreadsheet_runs_no_name_as_a_formula() -> None:
    names = ["=1+1", "+1", "-1", "@x", "\t=1", "fine"]
    lines = list(csv.DictReader(io.StringIO(to_csv(content([result(name) for name in names])))))
    assert {line["model"] for line in lines} == {f"'{name}" for name in names[:-1]} | {"fine"}
    negative = result(metrics={"cosine": {"far/test": metrics(-0.5)}})
    assert "-0.5" in to_csv(content([negative])).split(",")


def test_files_are_replaced_whole_or_not_at_all(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, [result()])
    (tmp_path / "out").mkdir()
    for name in ("report.html", "results.csv", "results.json"):
        (tmp_path / "out" / name).write_text("before")

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(KeyboardInterrupt):
            write_report(store, tmp_path / "out")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "report.html": "before",
        "results.csv": "before",
        "results.json": "before",
    }
    done = write_report(store, tmp_path / "out")
    assert done.page == tmp_path / "out" / "report.html"
    assert done.page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    names = ["report.html", "results.csv", "results.json", "tables.tex"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(path.name for path in done.files) == names


def test_a_file_in_the_place_of_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is not a folder"):
        write_report(fill(store, [result()]), tmp_path / "out")
