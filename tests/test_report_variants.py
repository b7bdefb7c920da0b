"""The report of methods with options: rows of their own, intervals, conventions, and what the summary says."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from report_study import ALL_SCORES, Page, content, full, measured, metrics, page, result, run, seeded, study
from zarr.storage import MemoryStore

from embedstore.evaluate.methods import METHODS
from embedstore.report import absences, cells, correlations, gather
from embedstore.report.exports import COLUMNS, to_csv, to_json
from embedstore.report.main_table import MainTable, main_table
from embedstore.report.names import GLOSSARY, METHOD_ORDER, glossary, label, named, options, row_order
from embedstore.report.page import render
from embedstore.report.summary import paragraphs
from embedstore.report.table import uncovered
from embedstore.report.views import fit_table
from embedstore.scores import LOGIT_SCORES
from embedstore.store import Store

LATER = "2026-02-01T00:00:00+00:00"


def lines(found: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(found))))


def labels(table: MainTable) -> list[str]:
    return [row.label for _, rows in table.models for row in rows]


def text(parsed: Page) -> str:
    return re.sub(r"\s+", " ", parsed.text)


def said(results: list[Any]) -> str:
    return " ".join(paragraphs(content(results))).replace("\N{NO-BREAK SPACE}", " ")


# Rows -----------------------------------------------------------------------------------------------------------------


def test_variants_of_a_method_are_rows_of_their_own_everywhere() -> None:
    variants = {"": 0.7, "k=10": 0.8, "k=10, metric=l2": 0.9}
    results = [run("a", "knn", v, metrics={"cosine": {"far/test": measured(x)}}) for v, x in variants.items()]
    found = content(results)
    shown = ["knn · cosine", "knn (k=10) · cosine", "knn (k=10, metric=l2) · cosine"]
    assert [cell.label for cell in found.cells] == shown
    assert labels(main_table("digits", found.cells, [])) == shown
    assert [(line["variant"], float(line["auroc"])) for line in lines(found)] == list(variants.items())
    value = json.loads(to_json(found))
    assert [(cell["variant"], cell["auroc"]) for cell in value["cells"]] == list(variants.items())
    assert [fit["variant"] for fit in value["correlations"]] == list(variants)
    assert all(name in text(page(results)) for name in shown)
    assert "In brackets: options in which a method differs from its defaults." in text(page(results))
    assert "In brackets" not in text(page(results[:1]))


def test_a_newer_result_replaces_those_of_the_same_variant_only() -> None:
    store = Store.create(MemoryStore())
    for number, (variant, created) in enumerate([("", "2026-01-01"), ("k=10", "2026-01-01"), ("k=10", LATER)]):
        store.add_result(run("a", "knn", variant, created=created, inputs={"images/far/test": f"{number}"}))
    found = gather(store)
    assert ([cell.variant for cell in found.cells], found.superseded) == (["", "k=10"], 1)
    assert "1 older result is left out: newer ones with the same options, seed and prompts" in Page(render(found)).text


def test_results_that_name_no_seed_and_prompts_replace_older_ones_that_did() -> None:
    old = [result(params={"seed": seed, "templates": "plp"}) for seed in (0, 1)]
    old += [result(method="linear", params={"seed": seed, "templates": "plp"}) for seed in (0, 1)]
    new = [run("a", "knn", created=LATER, metrics={"cosine": {"far/test": measured(0.9)}})]
    new += [run("a", "linear", created=LATER, scores=["msp"])]
    for order in (old + new, new + old):
        settings = [(cell.method, cell.seed, cell.templates) for cell in cells(order)]
        assert settings == [("knn", None, None), ("linear", 0, None), ("linear", 1, None)]
        assert cells(order)[0].auroc == 0.9
    store = Store.create(MemoryStore())
    for item in [*old, *new]:
        store.add_result(item)
    found = gather(store)
    assert (len(found.results), found.superseded, found.outdated) == (3, 3, 0)


def test_what_a_newer_version_computed_again_is_not_missed() -> None:
    old, other = result(params={"seed": 0, "templates": "plp"}), run("a", "knn", "k=10")
    assert uncovered([old, other], by=[run("a", "knn")]) == [other]
    assert uncovered([old], by=[other]) == [old]
    # An older version may have been the last to compute it.
    assert uncovered([run("a", "knn")], by=[old]) == []


def test_a_method_without_a_seed_is_no_mean_over_seeds() -> None:
    results = [run("a", "knn"), *(run("a", "plp", seed=seed) for seed in range(3))]
    assert "means over 3 seeds" in text(page(results))
    assert [cell.seed for cell in cells(results)][:1] == [None]
    assert [line["seed"] for line in lines(content(results))] == ["", *"012012"]


def test_a_variant_that_reads_prompts_has_a_row_for_each_set_of_them() -> None:
    sets = [{"seed": 0, "templates": name} for name in ("plp", "openai80")]
    pseudo = [run("a", "mahalanobis", "labels=pseudo", params=params) for params in sets]
    assert labels(main_table("digits", cells([run("a", "mahalanobis"), *pseudo]), [])) == [
        "mahalanobis · distance",
        "mahalanobis (labels=pseudo) · distance · openai80",
        "mahalanobis (labels=pseudo) · distance · plp",
    ]


def test_a_variant_can_be_absent_where_the_defaults_ran() -> None:
    gone = run("a", "knn", "k=99", absent="k is larger than the bank", metrics={"": {}}, created=LATER)
    assert [(a.label, a.reason) for a in absences([run("a", "knn"), gone])] == [("knn (k=99)", gone.absent)]
    table = main_table("digits", cells([run("a", "knn"), gone]), absences([run("a", "knn"), gone]))
    assert labels(table) == ["knn · cosine", "knn (k=99)"]
    assert table.footnotes == ("knn (k=99): k is larger than the bank",)
    found = content([run("a", "knn"), gone])
    assert [absence["variant"] for absence in json.loads(to_json(found))["absent"]] == ["k=99"]
    assert "knn (k=99) is absent: k is larger than the bank" in text(page([run("a", "knn"), gone]))
    assert absences([run("a", "knn", "k=99"), gone]) == []


def test_rows_stand_in_the_order_of_probe_and_numbers_by_size() -> None:
    assert tuple(METHODS) == METHOD_ORDER
    shuffled = sorted(full(1), key=lambda item: item.created + item.method[::-1])
    methods = list(dict.fromkeys(cell.method for cell in cells(shuffled)))
    assert methods == list(METHODS)
    shots = [f"shots={n}" for n in (1, 2, 4, 8, 16)]
    assert sorted(["", *shots[::-1]], key=lambda variant: row_order("plp", variant, "msp")) == ["", *shots]
    # As numbers they are equal, and still two rows.
    twins = [run("a", "logistic", variant, scores=["msp"]) for variant in ("l2=1e-05", "l2=1e-5")]
    assert len(labels(main_table("digits", cells(twins), []))) == 2


def test_a_gap_stands_before_each_method_but_the_first() -> None:
    rows = [run("a", "knn"), run("a", "knn", "k=10"), run("a", "linear"), run("a", "vim", metrics={"": {}}, absent="-")]
    ((_, shown),) = main_table("digits", cells(rows), absences(rows)).models
    assert [row.label for row in shown if row.begins] == ["linear · msp", "vim"]


def test_every_method_and_score_has_a_meaning() -> None:
    terms = {*METHODS, *LOGIT_SCORES, *(score for scores in ALL_SCORES.values() for score in scores)}
    terms |= {"logit-distance", "relative-logit-distance"}
    known = {"scaled-…" if term.startswith("scaled-") else term for term in terms}
    assert known <= set(GLOSSARY)
    assert {term for term, _ in glossary(terms)} == known
    last = row_order("knn", "", "unheard-of")
    assert all(row_order("knn", "", score) < last for scores in ALL_SCORES.values() for score in scores)


def test_names() -> None:
    assert label(named("knn", "k=10"), "cosine", None) == "knn (k=10) · cosine"
    assert options("k=10, scores=msp+energy, l2=None") == {"k": "10", "scores": "msp+energy", "l2": "None"}
    assert options("") == {}


# R² -------------------------------------------------------------------------------------------------------------------


def test_r_squared_is_per_variant_over_the_accuracy_of_the_default_vote() -> None:
    results = full(4)
    x = {item.model: item.id_accuracy for item in results if (item.method, item.variant) == ("knn", "")}
    fits = correlations(cells(results))
    assert len(fits) == 2 * sum(len(item.metrics) for item in results if item.model == results[0].model)
    for fit in fits:
        mine = [item for item in results if (item.method, item.variant) == (fit.method, fit.variant)]
        expected = [(item.model, x[item.model], item.metrics[fit.score][fit.ood]["auroc"]) for item in mine]
        assert [(point.model, point.id_accuracy, point.auroc) for point in fit.points] == expected


@pytest.mark.parametrize(
    ("variants", "accuracy"),
    [
        (["accuracy_k=5", ""], 0.6),
        (["accuracy_k=5", "k=10", "reduce=exp, metrics=official"], 0.6),
        (["accuracy_temperature=1.0"], None),
    ],
)
def test_another_vote_is_not_the_accuracy_of_the_plots(variants: list[str], accuracy: float | None) -> None:
    results = [run("a", "knn", v, id_accuracy=0.5 if v.startswith("accuracy") else 0.6) for v in variants]
    found = [[point.id_accuracy for point in fit.points] for fit in correlations(cells(results))]
    assert found == [[] if accuracy is None else [accuracy]] * len(variants)


def test_a_reason_names_a_method_once_where_it_holds_for_all_of_its_sets() -> None:
    results = [item for item in full(3) if item.method != "mcm" or item.model.startswith("ViT-B-0")]
    shown = text(page(results))
    assert "mcm · msp: R² needs at least 3 models, there is 1." in shown
    part = [{"msp": {ood: measured(0.1 * n + 0.5) for ood in oods}} for n, oods in enumerate(["ab", "a", "a"])]
    three = [run(f"{n}", "mcm", metrics=table) for n, table in enumerate(part)]
    three += [run(f"{n}", "knn", id_accuracy=0.5 + 0.1 * n, metrics={"cosine": part[0]["msp"]}) for n in range(3)]
    assert "mcm · msp on b: R² needs at least 3 models, there is 1." in text(page(three))


# Intervals ------------------------------------------------------------------------------------------------------------


def test_intervals_are_in_the_files_and_over_the_numbers() -> None:
    bounds = {"auroc_low": 0.9123, "auroc_high": 0.93, "fpr95_low": 1 / 3, "fpr95_high": 0.4}
    results = [run("a", "knn", metrics={"cosine": {"far/test": metrics(0.92, **bounds)}})]
    found = content(results)
    (line,), (cell,) = lines(found), json.loads(to_json(found))["cells"]
    assert tuple(line) == COLUMNS
    assert {name: float(line[name]) for name in bounds} == {name: cell[name] for name in bounds} == bounds
    parsed = page(results)
    titles = [value for tag, name, value in parsed.attributes if (tag, name) == ("td", "title")]
    assert titles == ["95 % interval 91.2–93.0", "95 % interval 33.3–40.0"]
    # Without a mouse too: a box to tick shows them.
    assert ("input", "type", "checkbox") in parsed.attributes
    assert "Show 95 % intervals" in text(parsed)
    assert "91.2–93.0" in text(parsed)


@pytest.mark.parametrize(
    ("results", "in_csv"),
    [
        (seeded(1), False),
        (study(1), False),
        ([run("a", "linear", seed=seed) for seed in (0, 1)], True),
        (
            [run("a", "knn", metrics={"cosine": {"far/test": metrics(0.9, auroc_low=0.8, auroc_high=float("nan"))}})],
            False,
        ),
    ],
    ids=["older results of seeds", "older results", "seeds", "half an interval"],
)
def test_means_and_older_results_have_no_interval(results: list[Any], in_csv: bool) -> None:
    """Single seeds have theirs in the CSV."""
    parsed = page(results)
    assert not [value for tag, name, value in parsed.attributes if tag in ("td", "input") and name in ("title", "type")]
    assert "interval" not in parsed.text
    table = lines(content(results))
    assert {"" not in (line["auroc_low"], line["auroc_high"]) for line in table} == {in_csv}


# Conventions and the summary ------------------------------------------------------------------------------------------


def test_another_programs_fpr95_is_compared_with_its_own_kind() -> None:
    values = {"": 0.5, "k=10": 0.4, "metrics=openood": 0.3, "k=10, metrics=openood": 0.2}
    results = [
        run("a", "knn", v, metrics={"cosine": {"far/test": measured(0.8, fpr95=fpr95)}}) for v, fpr95 in values.items()
    ]
    ((_, rows),) = main_table("digits", cells(results), []).models
    best = {row.label: [number.best for number in row.numbers] for row in rows}
    assert {name: flags[2] for name, flags in best.items()} == {
        "knn · cosine": False,
        "knn (k=10) · cosine": True,
        "knn (metrics=openood) · cosine": False,
        "knn (k=10, metrics=openood) · cosine": True,
    }
    assert all(flags[:2] == [True, True] for flags in best.values())
    assert "Rows with metrics=openood measure FPR95 as those programs do" in text(page(results))
    assert "measure FPR95 as" not in text(page(results[:2]))


def test_the_same_scores_by_two_metric_sets_are_no_tie() -> None:
    results = [run("a", "knn", variant) for variant in ("", "metrics=official", "k=10", "k=10, metrics=mcm")]
    assert "against far, 80.0 % (knn · cosine, a, tied with 1 other)." in said(results)
    assert "The best ID accuracy on digits is 90.0 % (knn, a, tied with 1 other)." in said(results)


def test_the_summary_names_a_variant_and_whether_it_needed_labels() -> None:
    far = [{"far/test": measured(value)} for value in (0.99, 0.95, 0.9)]
    best = run("b", "vim", metrics={"vim": far[0]})
    pseudo = run("a", "mahalanobis", "labels=pseudo, ridge=0.0", metrics={"distance": far[1]})
    results = [best, pseudo, run("a", "knn", metrics={"cosine": far[2]})]
    assert (
        "against far, 99.0 % (vim · vim, b), without training labels 95.0 % "
        "(mahalanobis (labels=pseudo, ridge=0.0) · distance, a)." in said(results)
    )
    assert "3 methods were probed" in said(results)


def test_the_summary_knows_every_method_that_learns_from_labels() -> None:
    knn = run("z", "knn", metrics={"cosine": {"far/test": measured(0.6)}})
    needs = {m for m in METHODS if "without training labels" in said([knn, run("a", m)])}
    assert needs == {m for m, method in METHODS.items() if method.defaults().get("labels", "no") == "true"} | {"linear"}


def test_a_page_of_everything_is_whole() -> None:
    parsed = page(full(3))
    assert parsed.tags.count("caption") == parsed.tags.count("table")
    shown = text(parsed)
    assert all(cell.label in shown for cell in content(full(3)).cells)
    assert (
        shown.count("plp (scores=msp+energy+l1, logit_distance=True, metrics=official) · relative-logit-distance") > 3
    )


# Falling lines --------------------------------------------------------------------------------------------------------


def test_where_better_classifiers_detect_worse_the_page_says_so() -> None:
    def measured_at(model: str, accuracy: float, far: float) -> Any:
        sets = {"far/test": metrics(far), "near/test": metrics(accuracy - 0.1)}
        return run(model, "knn", id_accuracy=accuracy, metrics={"cosine": sets})

    falling = [measured_at(model, 0.5 + 0.1 * i, 0.9 - 0.1 * i + 0.02 * (i % 2)) for i, model in enumerate("abcd")]
    parsed = page(falling)
    assert "For far the line falls: there the better classifiers detect worse." in parsed.text
    table = fit_table(content(falling).correlations)
    ((label, (far, near)),) = table.rows
    assert (label, table.columns) == ("knn · cosine", ("far", "near"))
    assert far.endswith("↘")
    assert near == "1.00"
