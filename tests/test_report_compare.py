"""Two stores, or two dates, side by side."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_study import HOSTILE, Page, content, hostile, measured, metrics, provenance, result, run, seeded, study
from zarr.storage import MemoryStore

from embedstore.cli import main
from embedstore.errors import NotAvailable
from embedstore.records import Result
from embedstore.report import cells, gather, write_report
from embedstore.report.compare import MOST_SHOWN, Comparison, Difference, compare, differences
from embedstore.report.means import means
from embedstore.report.narrow import Narrowing
from embedstore.report.page import render
from embedstore.store import Store


def filled(results: list[Result], location: Path | None = None) -> Store:
    store = Store.create(MemoryStore() if location is None else str(location))
    for item in results:
        store.add_result(item)
    return store


def knn(
    auroc: float, model: str = "a", ood: str = "far/test", day: int = 1, variant: str = "", **more: object
) -> Result:
    created = f"2026-01-{day:02}T12:00:00+00:00"
    inputs = {"images/digits/test": str(day), f"images/{ood}": "2"}
    table = {"cosine": {ood: measured(auroc, fpr95=1 - auroc)}}
    return run(model, "knn", variant, metrics=table, created=created, inputs=inputs)


def compared(before: list[Result], after: list[Result]) -> Comparison:
    return Comparison("old.zarr", "new.zarr", "old.zarr", tuple(differences(means(cells(before)), means(cells(after)))))


def test_every_row_of_either_side_is_there_once_with_after_minus_before() -> None:
    old = [knn(0.8), knn(0.7, "gone"), knn(0.6, ood="x/test")]
    new = [knn(0.85), knn(0.9, "new"), knn(0.6, ood="x/test"), knn(0.75, variant="k=10")]
    rows = compared(old, new).rows
    said = {(row.model, row.ood, row.label): row for row in rows}
    assert len(said) == len(rows) == 5
    same = said["a", "far/test", "knn · cosine"]
    assert (same.auroc_before, same.auroc_after, same.only) == (0.8, 0.85, "")
    assert same.auroc_difference == pytest.approx(0.05)
    assert same.fpr95_difference == pytest.approx(-0.05)
    assert said["a", "x/test", "knn · cosine"].auroc_difference == 0
    gone, new_model = said["gone", "far/test", "knn · cosine"], said["new", "far/test", "knn · cosine"]
    assert (gone.only, gone.auroc_before, gone.auroc_after, gone.auroc_difference) == ("before", 0.7, None, None)
    assert (new_model.only, new_model.auroc_before, new_model.seeds_before) == ("after", None, None)
    assert said["a", "far/test", "knn (k=10) · cosine"].only == "after", "a variant is another row"


def test_what_is_compared_are_means_over_the_seeds() -> None:
    rows = compared(seeded(1, 1), seeded(1, 3)).rows
    (row,) = (row for row in rows if (row.label, row.ood) == ("plp · energy", "far/test"))
    assert (row.seeds_before, row.seeds_after) == (1, 3)
    assert row.auroc_difference == pytest.approx(-0.01), "each seed is a point below the one before"


def test_a_store_against_itself_does_not_differ() -> None:
    found = compared(study(3), study(3))
    assert len(found.shared) == len(found.rows) == 3 * 2 * 6
    assert (found.changed, found.largest, found.only) == (0, [], [])


def test_outdated_results_of_another_store_are_left_out_and_those_before_a_date_are_not() -> None:
    stale = [knn(0.8, day=1), result(model="a", method="mcm", inputs={"model": "another"})]
    old = Store.create(MemoryStore())
    old.add_model(provenance("a"), None)
    for item in stale:
        old.add_result(item)
    new = filled(stale)
    assert {row.method: row.only for row in compare(gather(new), new, old).rows} == {"knn": "", "mcm": "after"}
    since = compare(gather(old), old, datetime(2026, 1, 10))
    assert {row.method: row.only for row in since.rows} == {"knn": "", "mcm": "before"}


def test_another_store_is_narrowed_alike() -> None:
    old, new = filled(study(3)), filled(study(2))
    narrowing = Narrowing(models=("model0",), methods=("knn",))
    found = compare(gather(new, narrowing), new, old, narrowing)
    assert {(row.model, row.method, row.only) for row in found.rows} == {("model0", "knn", "")}
    with pytest.raises(NotAvailable, match="holds no results yet"):
        compare(gather(new), new, filled([]))


def test_two_dates_of_one_store() -> None:
    store = filled([knn(0.8, day=1), knn(0.9, day=20), knn(0.7, "b", day=20)])
    after = gather(store)
    found = compare(after, store, datetime(2026, 1, 10))
    assert [(row.model, row.auroc_before, row.auroc_after) for row in found.rows] == [("a", 0.8, 0.9), ("b", None, 0.7)]
    assert "before 2026-01-10" in found.before
    assert "now" in found.after
    late = compare(after, store, datetime(2026, 1, 20, 12, 0, 1, tzinfo=UTC))
    assert [row.auroc_difference for row in late.rows] == [0, 0]
    with pytest.raises(NotAvailable, match=r"no results from before 2026-01-01; the oldest is of 2026-01-01 12:00 UTC"):
        compare(after, store, datetime(2026, 1, 1))


def test_the_csv_holds_what_was_computed(tmp_path: Path) -> None:
    old = [knn(0.8), knn(0.7, "gone")]
    write_report(filled([knn(0.9)]), tmp_path, other=filled(old))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text(encoding="utf-8"))))
    assert list(lines[0]) == [field.name for field in dataclasses.fields(Difference)]
    assert [(line["model"], line["auroc_before"], line["auroc_after"], line["only"]) for line in lines] == [
        ("a", "0.8", "0.9", ""),
        ("gone", "0.7", "", "before"),
    ]
    assert float(lines[0]["auroc_difference"]) == pytest.approx(0.1)


# The page -------------------------------------------------------------------------------------------------------------


def section(before: list[Result], after: list[Result]) -> Page:
    html = render(content(after), comparison=compared(before, after))
    part = html[html.index('<section aria-labelledby="comparison">') :]
    return Page(part[: part.index("</section>") + len("</section>")])


def test_the_page_shows_the_largest_changes_first_and_says_what_it_leaves_out() -> None:
    steps = [0.001 * n for n in range(60)]
    old, new = ([knn(0.5 + side * step, f"m{n:02}") for n, step in enumerate(steps)] for side in (0, 1))
    found = compared(old, new)
    assert (found.changed, len(found.largest)) == (59, MOST_SHOWN)
    assert [row.model for row in found.largest] == [f"m{n}" for n in range(59, 19, -1)]
    assert found.largest[0].numbers == ("50.0", "55.9", "+5.9", "50.0", "44.1", "−5.9")
    page = section(old, new)
    assert page.tags.count("tr") == 2 + MOST_SHOWN
    assert "The 40 largest of 59 changes; all are in comparison.csv." in page.text
    assert "They have 60 numbers in common (a model's score against an OOD set), and 59 of them differ" in " ".join(
        page.text.split()
    )


def test_the_page_says_what_is_in_one_side_only() -> None:
    text = " ".join(section([knn(0.8), knn(0.7, "gone")], [knn(0.8), knn(0.9, ood="x/val")]).text.split())
    assert "They have 1 number in common (a model's score against an OOD set), and none of them differs" in text
    assert "One number is in old.zarr only. models: gone." in text
    assert "One number is in new.zarr only. OOD sets: x:val." in text


def test_sides_without_anything_in_common_give_no_table() -> None:
    page = section([knn(0.8, "x")], [knn(0.8, "y")])
    assert "They have no number in common" in page.text
    assert "table" not in page.tags


def test_a_report_without_a_comparison_has_no_section() -> None:
    assert 'id="comparison"' not in render(content([knn(0.8)]))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text(text: str) -> None:
    def moved(results: list[Result]) -> Iterator[Result]:
        for item in results:
            table = {score: {ood: metrics(0.9) for ood in by} for score, by in item.metrics.items()}
            yield dataclasses.replace(item, metrics=table)

    after = [*moved(hostile(text)), result(f"{text}new", id_dataset=text)]
    html = render(
        content(after), comparison=dataclasses.replace(compared(hostile(text), after), before=text, after=text)
    )
    part = html[html.index('<section aria-labelledby="comparison">') :]
    page = Page(part[: part.index("</section>") + len("</section>")])
    assert {"script", "img", "b"} & set(page.tags) == {"b"}
    assert page.tags.count("b") == 2 + 2 * 12 + 1, "both sides, a difference of either metric in each row, what is new"
    assert page.text.count(text) > 20


def test_the_command_compares_with_a_store_and_with_a_date(tmp_path: Path) -> None:
    filled([knn(0.8, day=1), knn(0.9, day=20)], tmp_path / "new.zarr")
    filled([knn(0.6)], tmp_path / "2026-old.zarr")
    expected = {str(tmp_path / "2026-old.zarr"): "0.6", "2026-01-10": "0.8", "2026-01-10T00:00+01:00": "0.8"}
    for other, before in expected.items():
        arguments = ("report", "--store", tmp_path / "new.zarr", "--out", tmp_path / "out", "--compare", other)
        done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        (line,) = csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text()))
        assert (line["auroc_before"], line["auroc_after"]) == (before, "0.9")
        assert "What changed" in (tmp_path / "out" / "report.html").read_text()
