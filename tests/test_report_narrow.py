"""A report on a part of a store says that it is one, what of, and how to make it again."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from report_study import Page, content, measured, page, run, study
from zarr.storage import MemoryStore

from embedstore.benchmarks import load_benchmark
from embedstore.errors import UsageError
from embedstore.records import Result
from embedstore.report import Content, gather, write_report
from embedstore.report.commands import commands
from embedstore.report.compare import compare
from embedstore.report.findings import findings
from embedstore.report.narrow import Narrowing
from embedstore.report.page import render
from embedstore.report.summary import paragraphs
from embedstore.report.views import PROVENANCE_COLUMNS, provenance_rows
from embedstore.store import Store

BENCHMARK = """
name = "mine"
title = "Mine"
source = "nowhere"
cautions = ["Watch <b>out</b>."]
[id]
name = "digits"
title = "Digits"
where = "here"
[[ood]]
name = "near"
title = "Near"
where = "here"
group = "near"
cautions = ["It is near."]
[[ood]]
name = "far"
title = "Far"
where = "here"
group = "far"
[[ood]]
name = "gone"
title = "Gone"
where = "here"
group = "far"
"""


@pytest.fixture
def mine(tmp_path: Path) -> Narrowing:
    (tmp_path / "mine.toml").write_text(BENCHMARK, encoding="utf-8")
    return Narrowing(benchmark=load_benchmark(tmp_path / "mine.toml"))


def stored(results: list[Result]) -> Store:
    store = Store.create(MemoryStore())
    for item in results:
        store.add_result(item)
    return store


def again(found: Content, title: str | None = None, against: str | None = None) -> list[str]:
    return shlex.split(commands(found, title, against)[-1].line)


def test_the_lead_says_what_the_report_is_narrowed_to() -> None:
    narrowing = Narrowing(models=("model1",), methods=("knn", "plp"))
    (text,) = paragraphs(gather(stored(study()), narrowing))
    assert text.startswith("1 model and 2 methods are shown with digits as in-distribution (ID) data")
    assert "The report is narrowed to the model model1 and the methods knn, plp." in text
    (whole,) = paragraphs(gather(stored(study())))
    assert "5 models and 5 methods were probed" in whole
    assert "narrowed" not in whole


def test_the_command_makes_the_same_report_again(mine: Narrowing) -> None:
    narrowing = replace(mine, models=("model1", "model2"), methods=("knn",), asked="sets/mine.toml")
    words = again(gather(stored(study()), narrowing), "My study", "2026-01-31T00:00:00+00:00")
    assert words[2:4] == ["--store", words[3]]
    assert words[4:] == [
        *("--out", "report", "--model", "model1", "--model", "model2", "--method", "knn"),
        *("--benchmark", "sets/mine.toml", "--title", "My study", "--compare", "2026-01-31T00:00:00+00:00"),
    ]
    assert again(content(study()))[4:] == ["--out", "report"]
    by_name = Narrowing(benchmark=load_benchmark("cifar10"))
    assert again(replace(content(study()), narrowing=by_name))[-2:] == ["--benchmark", "cifar10"]


def test_a_comparison_is_said_as_the_option_takes_it() -> None:
    store, moment = stored(study()), datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    found = gather(store)
    since = compare(found, store, moment)
    assert datetime.fromisoformat(since.option) == moment
    html = render(found, "A title", since)
    assert "--compare 2026-01-02T03:04:00+00:00" in Page(html).text
    assert "--title 'A title'" in Page(html).text
    other = stored(study())
    assert compare(found, store, other).option == other.location


def test_a_benchmark_s_cautions_and_lacks_are_on_the_page(mine: Narrowing) -> None:
    found = gather(stored(study()), mine)
    text = Page(render(found)).text
    assert "a caution of mine: Watch <b>out</b>." in text
    assert "a caution of mine: near: It is near." in text
    assert "mine has gone/test too, in its group far: no results, hence no mean over the group" in text


def test_without_a_benchmark_the_mean_over_all_sets_is_found_and_tested() -> None:
    oods = ("far/test", "near/test", "other/test")
    (found,) = findings(content(study(3, oods)))
    assert next((row.against, row.detail) for row in found.rows) == ("all OOD sets", "mean of 3 sets")
    assert len(found.rows) == 4
    (two,) = findings(content(study(3, oods[:2])))
    assert [row.against for row in two.rows] == ["far", "near"]


def test_each_of_several_id_sets_has_a_paragraph() -> None:
    other = [replace(item, id_dataset="letters") for item in study()]
    about, digits, letters = paragraphs(content([*study(), *other]))
    assert about.startswith("5 models and 5 methods were probed with digits and letters")
    assert digits.startswith("With digits as ID data")
    assert letters.startswith("With letters as ID data")
    assert render(content([*study(), *other])).count('<p class="lead">') == 3


def test_the_interval_of_a_perfect_score_is_explained() -> None:
    perfect = run("a", "knn", metrics={"cosine": {"far/test": measured(1.0, auroc_low=0.96, auroc_high=1.0)}})
    assert "Clopper and Pearson" in page([perfect]).text
    assert "Clopper" not in page([run("a", "knn")]).text


def test_provenance_says_when_a_split_was_extracted(fake_store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    shutil.copytree(fake_store, folder)
    store = Store.open(folder, writable=True)
    model = store.models()[0]
    dataset, split = store.embedded(model)[0]
    os.utime(folder / "models" / model / "images" / dataset / split / "zarr.json", (1_700_000_000, 1_700_000_000))
    assert store.began(model, dataset, split) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert store.began(model, dataset, "nowhere") is None
    assert stored(study()).began("model0", "far", "test") is None
    read = {f"images/{dataset}/{split}": store.images(model, dataset, split).fingerprint}
    store.add_result(run(model, "knn", id_dataset=dataset, inputs=read))
    ((_, moments),) = (found := gather(store)).extracted.items()
    assert [moment.year for moment in moments] == [2023]
    row = next(row for row in provenance_rows(found) if row.model == model)
    assert dict(zip(PROVENANCE_COLUMNS, row.values, strict=True))["Extracted"] == "2023-11-14"


def test_r_squared_survives_a_report_on_other_methods() -> None:
    """Its x axis is the accuracy of knn, which need not be shown for that."""
    store = stored(study())
    whole, narrowed = gather(store), gather(store, Narrowing(methods=("plp", "mcm")))
    expected = [fit for fit in whole.correlations if fit.method in ("plp", "mcm")]
    assert list(narrowed.correlations) == expected
    assert all(fit.r_squared is not None for fit in expected)
    assert {cell.method for cell in narrowed.cells} == {"plp", "mcm"}


def test_a_report_is_not_written_into_a_store_or_over_a_file(tmp_path: Path) -> None:
    """And that is said before anything is computed: the store that is given is empty."""
    empty = Store.create(MemoryStore())
    (tmp_path / "file").touch()
    Store.create(tmp_path / "s.zarr")
    for out, why in (("file", "is not a folder"), ("file/deep/er", "is not a folder"), ("s.zarr/new", "is a store")):
        with pytest.raises(UsageError, match=why):
            write_report(empty, tmp_path / out)


def test_ties_are_no_contest_and_the_one_that_needs_no_labels_is_named() -> None:
    alike = [run("a", method, scores=["distance"]) for method in ("mahalanobis", "kmeans-mahalanobis")]
    (found,) = findings(content(alike))
    assert [(row.label, row.tie, row.lead, row.unsupervised) for row in found.rows] == [
        ("kmeans-mahalanobis · distance", "tied with 1 other", "", "")
    ]


def test_worse_than_chance_is_pointed_out() -> None:
    assert "worse than chance" in page([run("a", "knn", metrics={"cosine": {"far/test": measured(0.4)}})]).text
    assert "worse than chance" not in page([run("a", "knn")]).text


def test_a_group_of_one_set_is_no_average_and_one_with_gaps_is_named(mine: Narrowing) -> None:
    oods = ("near/test", "far/test", "other/test")
    (text,) = paragraphs(gather(stored(study(3, oods)), mine))
    assert "the best AUROC is, against near (near)," not in text  # two sets: each is named
    assert "Not all of the far sets have results, so no mean is given for them." in text


def test_methods_that_could_not_run_are_counted() -> None:
    absent = run("model0", "vim", metrics={}, absent="why")
    assert "; 1 other method could not run." in " ".join(paragraphs(content([*study(), replace(absent, metrics={})])))
