"""The main table: means over groups, which scores are shown at first, and in which place a number stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report_study import HOSTILE, content, full, hostile, measured, page, result, run, seeded, study

from embedstore.records import Result
from embedstore.report import absences, cells
from embedstore.report.main_table import MainTable, Row, main_table

OODS = ("a/test", "b/test", "c/val")
GROUPS = {"near": ("c/val",), "far": ("a/test", "b/test")}


def table(results: list[Result], groups: dict[str, tuple[str, ...]] | None = None) -> MainTable:
    return main_table("digits", cells(results), absences(results), groups)


def rows(made: MainTable) -> dict[tuple[str, str], Row]:
    return {(model, row.label): row for model, lines in made.models for row in lines}


def one(model: str, score: str, values: dict[str, float], method: str = "plp", **changes: Any) -> Result:
    return run(model, method, metrics={score: {ood: measured(value) for ood, value in values.items()}}, **changes)


# Groups --------------------------------------------------------------------------------------------------------------


def test_groups_of_several_sets_have_a_column_with_their_mean_before_the_sets() -> None:
    made = table(study(2, OODS), GROUPS)
    assert [(c.label, c.detail, c.is_mean) for c in made.columns] == [
        ("far", "mean of 2 sets", True),
        ("c:val", "near · 70 images", False),
        ("a", "far · 70 images", False),
        ("b", "far · 70 images", False),
    ]
    for item in study(2, OODS):
        for score, by_set in item.metrics.items():
            numbers = rows(made)[item.model, f"{item.method} · {score}"].numbers
            assert len(numbers) == 1 + 2 * 4
            mean = [(by_set["a/test"][name] + by_set["b/test"][name]) / 2 for name in ("auroc", "fpr95")]
            assert [float(number.text) for number in numbers[1:3]] == pytest.approx([100 * m for m in mean], abs=0.0501)
            assert [number.text for number in numbers[3::2]] == [
                f"{100 * by_set[o]['auroc']:.1f}" for o in ("c/val", *OODS[:2])
            ]


def test_a_mean_is_only_over_a_whole_group() -> None:
    results = [one("m", "msp", {"a/test": 0.9, "b/test": 0.7}), one("n", "msp", {"a/test": 0.8})]
    made = rows(table(results, GROUPS))
    assert [number.text for number in made["m", "plp · msp"].numbers[1:3]] == ["80.0", "73.3"]
    assert [number.text for number in made["n", "plp · msp"].numbers[1:3]] == ["–", "–"]
    # A set that nothing was probed against leaves no mean, and no column without numbers.
    assert [c.label for c in table(results, {"far": (*OODS[:2], "z/test")}).columns] == ["a", "b"]
    assert [c.detail for c in table(results).columns] == ["70 images", "70 images"]


def test_the_mean_of_a_group_is_bold_where_it_is_the_best_and_deviates_with_the_seeds() -> None:
    results = [
        one("m", "msp", {"a/test": 0.9 - 0.02 * seed, "b/test": 0.7 + 0.04 * seed}, seed=seed) for seed in (0, 1)
    ]
    results.append(one("n", "cosine", {"a/test": 0.95, "b/test": 0.7}, "knn"))
    made = rows(table(results, GROUPS))
    mean, best = made["m", "plp · msp"].numbers[1], made["n", "knn · cosine"].numbers[1]
    # Seeds 0 and 1 have the means 80 and 81 over the group: ± 0.7, whatever each set does.
    assert (mean.text, mean.spread.replace("\N{NO-BREAK SPACE}", " "), mean.best) == ("80.5", "± 0.7", False)
    assert (best.text, best.best) == ("82.5", True)


def test_the_interval_of_a_mean_is_the_mean_of_the_intervals() -> None:
    number = rows(table([one("m", "msp", {"a/test": 0.9, "b/test": 0.7})], GROUPS))["m", "plp · msp"].numbers[1]
    assert number.interval == "78.8–81.0"  # of 88.77 to 90.98 and 68.77 to 70.98
    assert not rows(table(seeded(1, 2, OODS), GROUPS))["model0", "plp · msp"].numbers[1].interval


# Which rows are seen first -------------------------------------------------------------------------------------------


def test_the_best_score_of_each_classifier_is_shown_at_first() -> None:
    results = [
        run("m", "plp", metrics={s: {o: measured(v) for o in OODS} for s, v in (("msp", 0.7), ("energy", 0.8))}),
        run("m", "plp", "shots=4", metrics={s: {"a/test": measured(0.6)} for s in ("msp", "energy")}),
        run("m", "knn", metrics={"cosine": {o: measured(0.9) for o in OODS}}),
    ]
    made = rows(table(results))
    assert {label: row.more for (_, label), row in made.items()} == {
        "knn · cosine": False,
        "plp · msp": True,
        "plp · energy": False,
        "plp (shots=4) · msp": False,  # of equals the first
        "plp (shots=4) · energy": True,
    }


def test_a_score_that_is_the_best_of_a_column_is_shown_too() -> None:
    scores = {"msp": {"a/test": measured(0.9), "b/test": measured(0.5)}, "energy": {o: measured(0.8) for o in OODS[:2]}}
    made = rows(table([run("m", "plp", metrics=scores)]))
    assert not any(row.more for row in made.values())
    lesser = {**scores, "l1": {o: measured(0.4) for o in OODS[:2]}}
    assert [label for (_, label), row in rows(table([run("m", "plp", metrics=lesser)])).items() if row.more] == [
        "plp · l1"
    ]


def test_a_score_with_more_sets_goes_before_one_with_a_higher_mean_of_fewer() -> None:
    best = one("z", "cosine", dict.fromkeys(OODS, 0.99), "knn")
    part = run("m", "plp", metrics={"msp": {"a/test": measured(0.9)}, "energy": {o: measured(0.6) for o in OODS}})
    made = rows(table([best, part]))
    assert [label for (_, label), row in made.items() if row.more] == ["plp · msp"]


def test_absent_methods_are_always_shown() -> None:
    results = [*study(1), result("model0", "mcm", metrics={}, absent="no names", created="2027-01-01", variant="k=1")]
    absent = rows(table(results))["model0", "mcm (k=1)"]
    assert (absent.more, absent.footnote, absent.classes.split()[0]) == (False, 1, "absent")


def test_every_row_is_on_the_page_whatever_is_shown_at_first() -> None:
    results = full(2)
    parsed = page(results)
    classes = [value.split() for tag, name, value in parsed.attributes if (tag, name) == ("tr", "class")]
    assert sum("more" in names for names in classes) > 20
    assert sum(name == "data-method" for _, name, _ in parsed.attributes) == sum(len(r.metrics) for r in results)


# Places --------------------------------------------------------------------------------------------------------------


def test_places_are_by_the_stored_values_and_the_best_is_first() -> None:
    values = [0.90001, 0.90002, 0.90002, 0.5]
    results = [one(f"m{i}", "cosine", {"a/test": value}, "knn") for i, value in enumerate(values)]
    found = [rows(table(results))[f"m{i}", "knn · cosine"].numbers for i in range(4)]
    assert [numbers[1].text for numbers in found] == ["90.0", "90.0", "90.0", "50.0"]
    assert [numbers[1].place for numbers in found] == [2, 1, 1, 3]
    # FPR95 is made from the AUROC, and the lowest is the best.
    assert [numbers[2].place for numbers in found] == [2, 1, 1, 3]
    assert [numbers[0].place for numbers in found] == [1, 1, 1, 1]


def test_what_has_no_value_has_no_place() -> None:
    made = table([one("m", "msp", {"a/test": 0.9}), one("n", "msp", {"b/test": float("nan")}, id_accuracy=None)])
    places = [number.place for number in rows(made)["n", "plp · msp"].numbers]
    assert places[:4] == [None, None, None, None]
    html = page([one("m", "msp", {"a/test": 0.9}), one("n", "msp", {"b/test": 0.8})])
    assert sum(name == "data-place" for _, name, _ in html.attributes) == 2 * 3


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_of_groups_and_rows_are_text(text: str) -> None:
    parsed = page(hostile(text), groups={text: (f"{text}/{text}", "far/test")})
    held = {name: value for tag, name, value in parsed.attributes if name in ("data-model", "data-method", "data-name")}
    assert held["data-model"].startswith(text)
    assert any(value == f"AUROC, {text}" for _, name, value in parsed.attributes if name == "data-name")
    assert not {"img", "iframe"} & set(parsed.tags)


def test_the_page_shows_the_groups_of_its_content() -> None:
    text = page(study(2, OODS), groups=GROUPS).text
    assert "mean of 2 sets" in text
    assert "mean of" not in page(study(2, OODS[:2])).text
    assert content([]).groups == {}


def test_without_groups_three_sets_have_a_mean_over_all_of_them() -> None:
    results = [*study(2, OODS), run("late", "knn", metrics={"cosine": {"a/test": measured(0.99)}})]
    table = main_table("digits", cells(results), [])
    assert next((column.label, column.detail) for column in table.columns) == ("all OOD sets", "mean of 3 sets")
    rows = {(model, row.label): row.numbers for model, rows in table.models for row in rows}
    for item in study(2, OODS):
        for score, by_set in item.metrics.items():
            mean = 100 * float(np.mean([values["auroc"] for values in by_set.values()]))
            assert rows[item.model, f"{item.method} · {score}"][1].text == f"{mean:.1f}"
    assert rows["late", "knn · cosine"][1].text == "–"  # it lacks two of them
