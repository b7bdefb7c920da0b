"""The report on attacks: right numbers and true sentences, and no attack in what is said of ordinary OOD sets."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shlex
import shutil
import struct
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from report_study import HOSTILE, Page, content, metrics, page, run, study
from report_study import attacked as without_marks

from embedstore.attack import Budget, Options, Side, attack, store_features
from embedstore.cli import main
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import NotAvailable
from embedstore.metrics import attack_success
from embedstore.records import Result
from embedstore.report import cells, correlations, gather, write_report
from embedstore.report.attack_files import Crafted, crafted
from embedstore.report.attacked import attacks, in_main_table, ordinary
from embedstore.report.choice import detectors
from embedstore.report.commands import commands
from embedstore.report.content import Content
from embedstore.report.few_shot import few_shot
from embedstore.report.findings import findings
from embedstore.report.gallery import Reader
from embedstore.report.judged import judged
from embedstore.report.latex import to_latex
from embedstore.report.main_table import main_table
from embedstore.report.page import render
from embedstore.report.robustness import Robustness, robustness
from embedstore.report.scaling import scaling
from embedstore.report.sections import sections
from embedstore.report.separation import missing_curves
from embedstore.report.static import figures
from embedstore.report.summary import paragraphs
from embedstore.sources import decode, open_source
from embedstore.store import Store

pytestmark = pytest.mark.slow


def attacked(name: str = "far-smooth", **changes: Any) -> list[Result]:
    """Results on an attack; those without some train images left out the very rows that it aimed at."""
    return [left_out(item, name) if item.variant else item for item in without_marks(name, **changes)]


def left_out(item: Result, attack: str) -> Result:
    return replace(item, inputs={**item.inputs, "without/digits/train": f"rows of {attack}"})


def declared(name: str = "far-smooth", model: str = "a", budget: float | None = None, **options: Any) -> Crafted:
    """An attack on 60 images of far/test, as its attack.json says."""
    how = {"steps": 250, "lr": 1e-3, "smoothness": 5e3, "optimizer": "adam", "init_scale": 1e-3, **options}
    size = None if budget is None else str(Budget("linf", budget))
    content = {
        "format": 1,
        "model": {"name": model},
        "num": 60,
        "seed": 0,
        "options": {**how, "budget": size, "snapshots": [50], "every": 10},
        "aim": {"kind": "images"},
        "ood": {"dataset": "far", "split": "test"},
        "target": {"dataset": "digits", "split": "train"},
    }
    return Crafted(name, Path("out"), content, 7, True, "", {"digits/train": f"rows of {name}"}, "no other split")


def section(results: Sequence[Result], *made: Crafted) -> Robustness:
    ((found,), _) = robustness(content(list(results), attacks=made))
    return found


def lead(results: Sequence[Result], *made: Crafted) -> str:
    return " ".join(section(results, *made).attacks[0].lead).replace("\N{NO-BREAK SPACE}", " ")


def table(found: Robustness, attack: int = 0) -> dict[tuple[str, str], dict[str, str]]:
    """By model and label, the columns."""
    one = found.attacks[attack]
    return {
        (model, line.label): dict(zip(one.columns, line.values, strict=True))
        for model, _, lines in one.models
        for line in lines
    }


# What is an attack ---------------------------------------------------------------------------------------------------


def test_both_splits_make_an_attack_and_nothing_else_does() -> None:
    oods = ["x/clean", "x/adversarial", "x/float", "y/clean", "z/adversarial", "clean/adversarial", "far/test"]
    assert attacks(oods) == ["x"]


def test_what_attacks_left_is_in_no_mean_no_r2_and_no_lead() -> None:
    plain = study(4, ("far/test", "near/test", "other/test"))
    kinds = ("clean", "adversarial", "float", "step-50")
    # As good as can be, so that it would win everything.
    evil = {f"far-smooth/{kind}": metrics(0.999) for kind in kinds}
    mixed = [
        replace(item, metrics={score: {**by_set, **evil} for score, by_set in item.metrics.items()}) for item in plain
    ]
    best_of_all = {score: {ood: metrics(0.9999) for ood in ("far/test", *evil)} for score in ("cosine",)}
    mixed.append(run("model0", "knn", "train_left_out=7", id_accuracy=0.9999, metrics=best_of_all))
    a, b = content(plain), content(mixed)
    assert correlations(a.cells) == correlations(b.cells)
    assert scaling(a.cells, {}) == scaling(b.cells, {})
    assert findings(a) == findings(b)
    for one, other in zip(detectors(a.cells, plain)["digits"], detectors(b.cells, mixed)["digits"], strict=True):
        assert (one.label, one.auroc, set(one.results)) == (other.label, other.auroc, set(other.results))
    lacks = [missing_curves(detectors(c.cells, c.results), c.cells, ()) for c in (a, b)]
    assert lacks[0] == lacks[1]
    said, mixed_said = paragraphs(a)[0], paragraphs(b)[0]
    assert "3 out-of-distribution (OOD) sets and the images of 1 attack on OOD images." in mixed_said
    assert mixed_said.replace(" and the images of 1 attack on OOD images", "") == said
    means = [[n.text for n in row.numbers[1:3]] for _, rows in main_table("digits", a.cells, ()).models for row in rows]
    wide = main_table("digits", b.cells, ())
    assert wide.columns[0].label == "all OOD sets"
    kept = [row for _, rows in wide.models for row in rows if "train_left_out" not in row.label]
    assert [[n.text for n in row.numbers[1:3]] for row in kept] == means


def test_few_labels_are_judged_by_ordinary_sets() -> None:
    sets = {"far/test": metrics(0.7), "near/test": metrics(0.8)}
    evil = {"x/clean": metrics(0.1), "x/adversarial": metrics(0.1)}
    plain, mixed = (
        [run("a", "linear", f"shots={n}", metrics={"msp": table}, id_accuracy=0.5) for n in (1, 4)]
        for table in (sets, {**sets, **evil})
    )
    assert few_shot(cells(plain)) == few_shot(cells(mixed))
    assert few_shot(cells(plain))[0]


def test_without_an_ordinary_set_the_clean_images_are_one() -> None:
    found = ordinary(cells(attacked()))
    assert {cell.ood for cell in found} == {"far-smooth/clean"}
    assert {cell.variant for cell in found} == {""}
    said = paragraphs(content(attacked()))[0]
    assert "against the images of 1 attack on OOD images." in said
    assert "against far-smooth:clean" in said


def test_the_clean_images_of_several_attacks_make_no_mean() -> None:
    results = [item for name in ("far-2", "far-4", "far-8") for item in attacked(name)]
    assert {cell.ood for cell in ordinary(cells(results))} == {"far-2/clean"}
    about = content(results)
    assert main_table("digits", about.cells, ()).columns[0].label == "far-2:adversarial"
    assert "on average over" not in Page(render(about)).text
    assert "mean of" not in Page(render(about)).text


def test_the_main_table_leaves_what_lies_on_the_way_to_the_section() -> None:
    few, many = (content([*study(1), *attacked(steps=steps)]) for steps in ((), (50, 100)))
    labels = {c.ood for c in in_main_table(few.cells)[0]}
    assert labels == {"far/test", "near/test", "far-smooth/clean", "far-smooth/adversarial", "far-smooth/float"}
    short = main_table("digits", many.cells, ())
    assert [column.label for column in short.columns] == [
        "far",
        "near",
        "far-smooth:adversarial",
        "far-smooth:clean",
    ]
    assert short.elsewhere == ("far-smooth",)
    assert "Before rounding, and after some of the steps: of far-smooth under robustness." in Page(render(many)).text
    assert main_table("digits", few.cells, ()).elsewhere == ()
    assert "step-{}50" not in to_latex(many)
    assert "far-{}smooth" in to_latex(many)
    drawn = set(figures(content(study(2, ("x/clean", "x/adversarial", "x/float", "x/step-5")))))
    assert {name for name in drawn if name.endswith("svg")} == {
        f"figures/auroc-digits-x_{split}.svg" for split in ("clean", "adversarial")
    }


# Numbers -------------------------------------------------------------------------------------------------------------

SCORES = hnp.arrays(np.float64, 9, elements=st.sampled_from([np.nan, 0.0, 1.0, 2.0, 3.0, -np.inf, np.inf]))


NEAR = hnp.arrays(np.float64, st.integers(1, 45), elements=st.sampled_from([1.0, 2.0, 3.0, np.nan]))


@given(NEAR, SCORES, SCORES)
@example(np.full(20, 2.0), np.array([1.0, 1.0, 2.0]), np.array([2.0, 1.0, 3.0]))
def test_success_is_counted_image_by_image(s_id: Any, clean: Any, adversarial: Any) -> None:
    s_id[0] = 2.0  # one has a score
    known = [s for s in s_id.tolist() if s == s]
    accepting = [t for t in known if Fraction(sum(s >= t for s in known), len(known)) >= Fraction(95, 100)]
    t = max(accepting)
    rejected = [(a, b) for a, b in zip(clean.tolist(), adversarial.tolist(), strict=True) if a < t and b == b]
    found = attack_success(s_id, clean, adversarial)
    assert (found.accepted, found.rejected) == (sum(b >= t for _, b in rejected), len(rejected))
    assert found.share == (found.accepted / len(rejected) if rejected else None)


def test_each_number_is_that_of_its_result() -> None:
    results = attacked()
    found = table(section(results, declared()))
    assert list(found) == [(m, x) for m in "ab" for x in ("knn · cosine", "mcm · msp", "plp · energy")]
    for item in results:
        if item.variant:
            continue
        (score,) = item.metrics
        row, of = found[item.model, f"{item.method} · {score}"], item.metrics[score]
        clean, adversarial = of["far-smooth/clean"]["auroc"], of["far-smooth/adversarial"]["auroc"]
        assert (row["Clean"], row["Adversarial"]) == (f"{100 * clean:.1f}", f"{100 * adversarial:.1f}")
        assert float(row["Difference"].replace("\N{MINUS SIGN}", "-")) == round(100 * (adversarial - clean), 1)
        assert row["FPR95"] == f"{100 * of['far-smooth/adversarial']['fpr95']:.1f}"
        whole = of.get("far-smooth/float")
        assert row["Before rounding"] == (f"{100 * whole['auroc']:.1f}" if whole else "–")
        without = [o for o in results if (o.model, o.method) == (item.model, item.method) and o.variant] or [item]
        assert row["Without targets"] == f"{100 * without[0].metrics[score]['far-smooth/adversarial']['auroc']:.1f}"
        s_id, s_clean, s_bad = (
            item.scores[f"{score}/{x}"] for x in ("digits/test", "far-smooth/clean", "far-smooth/adversarial")
        )
        least = np.sort(s_id)[4]
        rejected = [(c, b) for c, b in zip(s_clean, s_bad, strict=True) if c < least]
        share = 100 * sum(b >= least for _, b in rejected) / len(rejected)
        assert row["Success"] == f"{share:.1f} ({len(rejected)})"


def test_of_each_method_the_score_that_is_best_when_clean() -> None:
    values = {"msp": (0.8, 0.7), "energy": (0.9, 0.1), "l1": (0.95, None)}
    by_score = {
        score: {
            "x/clean": metrics(clean),
            **({} if bad is None else {"x/adversarial": metrics(bad)}),
        }
        for score, (clean, bad) in values.items()
    }
    rows = judged(cells([run("a", "plp", metrics=by_score)]), [], {})
    assert [(row.label, row.clean, row.adversarial) for row in rows] == [("plp · energy", 0.9, 0.1)]


def test_who_was_attacked_comes_first_and_is_known_from_the_declaration_alone() -> None:
    roles = {"b": [("b", "attacked"), ("a", "transfer")], "a": [("a", "attacked"), ("b", "transfer")]}
    for model, expected in roles.items():
        one = section(attacked(), declared(model=model)).attacks[0]
        assert [(name, role) for name, role, _ in one.models] == expected
    assert [(name, role) for name, role, _ in section(attacked()).attacks[0].models] == [("a", ""), ("b", "")]


OTHER_ROWS = "the train images that were left out are not those that it aimed at"


@pytest.mark.parametrize(
    ("aimed", "targets", "why"),
    [
        ({"digits/train": "rows of far-smooth"}, 7, None),
        ({"digits/train": "rows of far-smooth"}, None, None),
        ({"digits/train": "rows of another"}, 7, OTHER_ROWS),
        ({"digits/extra": "rows of far-smooth"}, 7, OTHER_ROWS),
        ({}, None, "whether they are those that it aimed at is not known: its targets.txt is a secret"),
        ({}, 0, ""),
    ],
)
def test_other_images_left_out_than_were_aimed_at_are_not_the_targets(
    aimed: dict[str, str], targets: int | None, why: str | None
) -> None:
    made = replace(declared(), aimed=aimed, targets=targets, unaimed="its targets.txt is a secret")
    rows = {(r.model, r.method): r for r in judged(cells(attacked()), attacked(), {"far-smooth": made})}
    assert bool(rows["a", "knn"].without) == (why is None)
    assert ("Without targets" in section(attacked(), made).attacks[0].columns) == (why is None)
    text = missing(attacked(), made)
    assert ("AUROC against far-smooth without the images that were aimed at" in text) == bool(why)
    assert (why or "") in text


def test_two_attacks_with_as_many_targets_do_not_take_each_others() -> None:
    names = ("far-2", "far-8")
    results = []
    for item in attacked(names[0], models=("a",)):
        (score,) = item.metrics
        clean, bad = (metrics(value) for value in (0.9, 0.4))
        for number, name in enumerate(names if item.variant else names[:1]):
            # Either pair of runs was tested against both attacks.
            back = metrics(0.6 + 0.2 * number) if item.variant else bad
            table = {
                f"{each}/{split}": values
                for each in names
                for split, values in (("clean", clean), ("adversarial", back))
            }
            one = replace(item, metrics={score: table}, scores={}, created=f"2026-01-0{1 + number}T00:00:00+00:00")
            results.append(left_out(one, name) if item.variant else one)
    made = {name: declared(name, budget=0.01) for name in names}
    rows = judged(cells(results), results, made)
    found = {row.attack: row.auroc("adversarial", without=True) for row in rows if row.method == "knn"}
    assert found == {"far-2": 0.6, "far-8": 0.8}
    # Of results that have only the rows of the one, there is no number for the other.
    only = [item for item in results if "rows of far-8" not in item.inputs.values()]
    rows = judged(cells(only), only, made)
    assert {row.attack for row in rows if row.method == "knn" and row.without} == {"far-2"}


# Sentences -----------------------------------------------------------------------------------------------------------


def simple(clean: float, adversarial: float, without: float | None = None, *, model: str = "a") -> list[Result]:
    sets = {"x/clean": metrics(clean), "x/adversarial": metrics(adversarial)}
    inputs = {"images/digits/train": "1", "images/digits/test": "2"}
    found = [run(model, "knn", metrics={"cosine": sets}, inputs=inputs)]
    if without is not None:
        less = {"cosine": {**sets, "x/adversarial": metrics(without)}}
        found.append(left_out(run(model, "knn", "train_left_out=3", metrics=less, inputs=inputs), "x"))
    return found


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.9, 0.3), "with an AUROC of 90.0 %. On the adversarial images its AUROC is 30.0 %, 60.0 points less."),
        ((0.9, 0.9), "is 90.0 %, no less."),
        ((0.5, 0.6), "is 60.0 %, 10.0 points more."),
        ((0.9, 0.3, 0.42), "it is 42.0 %: that brings back 12.0 of the 60.0 points, no more than half."),
        ((0.9, 0.3, 0.7), "it is 70.0 %: that brings back 40.0 of the 60.0 points, more than half."),
        ((0.9, 0.3, 0.29), "it is 29.0 %: that brings nothing back."),
        ((0.9, 0.3, 0.9), "it is 90.0 %: no less than on the clean images before, so that this undoes the attack."),
    ],
)
def test_the_lead_says_how_much_is_lost_and_whether_the_bank_is_to_blame(numbers: tuple[float, ...], said: str) -> None:
    text = lead(simple(*numbers), declared("x"))
    assert said in text
    assert ("With the targets left out" in text) == (len(numbers) > 2)


def test_the_lead_is_about_the_attacked_model_and_then_about_the_others() -> None:
    results = [*simple(0.8, 0.2, model="a"), *simple(0.9, 0.85, model="b"), *simple(0.95, 0.97, model="c")]
    made = declared("x", model="a")
    text = lead(results, made)
    assert "the best detector of a, the model that was attacked, is knn · cosine, with an AUROC of 80.0 %" in text
    changes = "changes by \N{MINUS SIGN}5.0 to +2.0 points."
    assert f"not made with 2 of the models: there the AUROC of the best detector {changes}" in text
    two = lead(results[:2], made)
    assert "not made with b: the AUROC of its best detector, knn · cosine, goes from 90.0 % to 85.0 %." in two
    unknown = lead(results)
    assert "the best detector is knn · cosine of c, with" in unknown
    assert "attacked" not in unknown
    assert "not made with" not in unknown


def test_a_method_without_train_images_is_not_asked_to_forget_any() -> None:
    results = [item for item in attacked() if item.method == "mcm"]
    assert "It reads no train image, so that it makes no difference" in lead(results, declared())
    assert "With the targets left out" not in lead(results, declared())
    assert "It reads no train image" not in lead(results, replace(declared(), targets=0, aimed={})), "it had no targets"


def test_intervals_are_said_where_there_are_any() -> None:
    (item,) = simple(0.9, 0.3)
    bounds = {"auroc_low": 0.81, "auroc_high": 0.95}
    by_set = item.metrics["cosine"]
    measured = replace(item, metrics={"cosine": {**by_set, "x/clean": {**by_set["x/clean"], **bounds}}})
    assert "90.0 % (95 % interval 81.0–95.0)." in lead([measured])


# What is missing -----------------------------------------------------------------------------------------------------


def missing(results: Sequence[Result], *made: Crafted) -> str:
    return " ".join(sections(content(list(results), attacks=made)).missing)


def test_what_is_not_shown_has_its_reason() -> None:
    assert "obustness" not in missing(study(1)), "nothing is missing where nobody attacked"
    text = missing(simple(0.9, 0.3))
    assert "the attack's success against x: the results hold no scores of single images" in text
    assert "AUROC before rounding against x: x:float was not tested with the attacked model, which alone has it" in text
    assert "AUROC against x without the images that were aimed at, if any were: no method" in text
    assert "AUROC against steps, of x: no features of steps on the way were tested" in text
    assert (
        "The images of x, which model was attacked, what was aimed at, and how that compares: the store holds" in text
    )
    assert "Success" not in section(simple(0.9, 0.3)).attacks[0].columns
    text = missing(attacked(steps=(50,)), declared())
    assert "success" not in text
    assert "steps" not in text
    assert "AUROC by attack on far: there is one attack, and it takes two" in text


def test_scores_that_are_not_of_the_same_images_are_not_compared() -> None:
    unpaired = replace(declared(), paired=False)
    assert "do not have the same keys" in missing(attacked(), unpaired)
    assert "Success" not in section(attacked(), unpaired).attacks[0].columns
    (item, *rest) = attacked()
    scores = {**item.scores, "cosine/far-smooth/adversarial": np.zeros(59)}
    assert "success against far-smooth of knn · cosine · a: there are 60 clean and 59 adversarial images" in missing(
        [replace(item, scores=scores), *rest], declared()
    ).replace("The attack's ", "")
    apart = [replace(item, metrics={"cosine": {ood: values}}) for ood, values in item.metrics["cosine"].items()]
    apart = [replace(one, params={**one.params, "seed": at}) for at, one in enumerate(apart)]
    assert "no single result has the scores of both, clean and adversarial" in missing(apart, declared())


def test_the_caption_names_the_columns_that_there_are() -> None:
    assert "against the images of x; FPR95 of the adversarial ones; in percent." in page(simple(0.9, 0.3)).text
    assert "far-smooth; FPR95 and success of the adversarial ones; in percent." in page(attacked()).text
    bare = [
        replace(item, metrics={
            score: {ood: {n: v for n, v in values.items() if n != "fpr95"} for ood, values in by_set.items()}
            for score, by_set in item.metrics.items()
        })
        for item in simple(0.9, 0.3)
    ]  # fmt: skip
    assert "against the images of x; in percent." in page(bare).text


# Plots ---------------------------------------------------------------------------------------------------------------


def lines(found: Robustness, title: str, model: str = "a") -> list[dict[str, Any]]:
    assert found.drawing is not None
    (panel,) = (panel for panel in found.drawing.panels if panel.title == title)
    figure = panel.views[model].figure
    assert figure is not None
    return list(figure["data"])


def test_a_curve_begins_with_the_clean_images_and_ends_before_rounding() -> None:
    results = attacked(steps=(50, 100))
    found = section(results, declared())
    for item in results:
        if item.model == "a" and item.method == "knn" and not item.variant:
            of = item.metrics["cosine"]
            parts = ("clean", "step-50", "step-100", "float")
            expected = [100 * of[f"far-smooth/{part}"]["auroc"] for part in parts]
    first = lines(found, "far-smooth: steps")[0]
    assert list(first["x"]) == [0, 50, 100, 250]
    assert list(first["y"]) == pytest.approx(expected, abs=0.006)
    (shown,) = found.stages
    assert (shown.model, shown.steps) == ("a", ("0", "50", "100", "250"))
    assert shown.rows[0][2] == tuple(f"{value:.1f}" for value in expected)
    # The number of steps is the declaration's alone to say.
    assert list(lines(section(results), "far-smooth: steps")[0]["x"]) == [0, 50, 100]
    assert section(attacked(), declared()).drawing is None


def test_attacks_of_one_set_stand_side_by_side_and_budgets_on_an_axis() -> None:
    names = {"far-smooth": None, "far-2": 2 / 255, "far-8": 8 / 255}
    results = [item for name in names for item in attacked(name)]
    made = [declared(name, budget=size) for name, size in names.items()]
    found = section(results, *made)
    assert found.drawing is not None
    assert [panel.title for panel in found.drawing.panels] == ["far: budgets", "far: attacks"]
    assert found.drawing.choices == ("a", "b")
    assert list(lines(found, "far: budgets")[0]["x"]) == pytest.approx([0, 2, 8])
    assert list(lines(found, "far: attacks")[0]["x"]) == ["clean", "2", "8", "smooth"]
    other = [*made[:2], declared("far-8", budget=8 / 255, steps=40)]  # not the budget alone
    assert [panel.title for panel in section(results, *other).drawing.panels] == ["far: attacks"]  # type: ignore[union-attr]
    assert section(results).drawing is None  # nobody knows what the images were before


def test_lines_of_a_method_have_one_colour_everywhere() -> None:
    results = [item for name in ("far-smooth", "far-2") for item in attacked(name, steps=(50,))]
    found = section(results, declared(), declared("far-2", budget=2 / 255))
    keys = {line.label: line.series for one in found.attacks for _, _, rows in one.models for line in rows}
    assert keys == {"knn · cosine": 0, "mcm · msp": 1, "plp · energy": 2}
    for title in ("far-smooth: steps", "far: attacks"):
        assert [line["meta"] for line in lines(found, title)] == ["series 0", "series 1", "series 2"]


def test_only_the_default_steps_of_pgd_follow_the_budget() -> None:
    def alike(optimizer: str, *rates: float) -> bool:
        sizes = (2 / 255, 8 / 255)
        pair = [
            declared(budget=size, optimizer=optimizer, steps=40, lr=rate)
            for size, rate in zip(sizes, rates, strict=True)
        ]
        kinds = {one.but_budget for one in pair}
        assert None not in kinds
        return len(kinds) == 1

    default = [Options(steps=40, optimizer="pgd", budget=Budget("linf", k / 255)).step_size for k in (2, 8)]
    assert alike("pgd", *default)
    assert alike("pgd", 1e-3, 1e-3)
    assert not alike("pgd", 1e-3, 2e-3)
    assert not alike("pgd", default[0], 1e-3)
    assert alike("adam", 1e-3, 1e-3)
    assert not alike("adam", *default)


@pytest.mark.parametrize("size", ["1/255", "12", "0.3", "1e-05", str(1.5 / 255), str(8 / 255), str(1e-9)])
def test_a_budget_is_a_number(size: str) -> None:
    made = declared()
    known = {**(made.declared or {}), "options": {"budget": f"linf={size}", "optimizer": "pgd"}}
    numerator, _, denominator = size.partition("/")
    assert replace(made, declared=known).budget == ("pgd", "linf", float(numerator) / float(denominator or 1))


@pytest.mark.parametrize("size", ["1e-3000", "1e300", "9" * 100, "1/" + "9" * 100, "1_0", "-1", "nan", ""])
def test_a_budget_as_no_attack_writes_it_is_not_computed(size: str) -> None:
    made = declared()
    known = {**(made.declared or {}), "options": {"budget": f"linf={size}", "optimizer": "pgd"}}
    assert replace(made, declared=known).budget is None


# Untrusted text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text(text: str) -> None:
    name = text.replace("/", "")
    results = [
        replace(item, id_dataset=text, model=f"{text}{item.model}", scores={}) for item in attacked(name, steps=(50,))
    ]
    made = declared(name, model=f"{text}a")
    bad = {**(made.declared or {}), "ood": {"dataset": text, "split": text}, "options": {"steps": 9, "optimizer": text}}
    clean = page(attacked(steps=(50,)), attacks=(declared(),))
    found = page(results, attacks=(replace(made, declared=bad), declared(f"{name}2", model=text)))
    assert found.tags.count("script") == clean.tags.count("script")
    assert not [
        value for _, attribute, value in found.attributes if attribute in ("src", "onerror") and "evil" in value
    ]
    assert text in found.text


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, True, {"name": 3}, {"steps": "many"}, {"budget": "linf=1/0"}])
def test_a_declaration_may_hold_anything(value: Any) -> None:
    known = declared().declared or {}
    for name in ("model", "num", "seed", "options", "aim", "ood", "target"):
        made = replace(declared(), declared={**known, name: value})
        about = content(attacked(models=("a",), steps=(50,)), attacks=(made,))
        assert sections(about).robustness
        assert commands(about)


# A real one ----------------------------------------------------------------------------------------------------------

STEPS = Options(steps=8, snapshots=(4,), smoothness=0.0, lr=0.02)


@pytest.fixture(scope="module")
def made(fake_store: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and the folder of an attack: ten images of cars towards pets, judged by two models."""
    folder = tmp_path_factory.mktemp("attacked")
    store, out = Path(shutil.copytree(fake_store, folder / "store.zarr")), folder / "out"
    encoder = FakeEncoder()
    cars, pets = (Side(open_source(str(pictures / name)), *name.split("/")) for name in ("cars/test", "pets/train"))
    attack(Store.open(store), encoder, cars, pets, out, num=10, seed=3, options=STEPS, block_rows=8)
    targets = _targets(store, out)
    (out / "targets.txt").write_text("".join(f"{key}\n" for key in targets))
    store_features(Store.open(store, writable=True), encoder.provenance, out, "cars-x")
    where = ["--store", str(store), "--quiet"]
    both = ["--model", "fake", "--model", "fake:other"]
    for split in ("clean", "adversarial"):
        names = ["--dataset", "cars-x", "--split", split, "--block-rows", "8"]
        main(["extract", str(out / split), *names, *where, *both], standalone_mode=False)
    kinds = [f"cars-x:{split}" for split in ("clean", "adversarial")]
    for model, more in (("fake", ["cars-x:float", "cars-x:step-4"]), ("fake:other", [])):
        oods = [word for name in [*kinds, *more] for word in ("--ood", name)]
        probe = ["probe", *where, "--model", model, "--id", "pets", *oods, "--method", "knn", "--method", "mahalanobis"]
        main(probe, standalone_mode=False)
        main([*probe, "--without", str(out / "targets.txt")], standalone_mode=False)
    return store, out


def _targets(store: Path, out: Path) -> list[str]:
    from embedstore.attack import read_attack

    rows = np.unique(read_attack(out).arrays["target_row"])
    return [str(key) for key in Store.open(store).rows("pets", "train").keys[rows]]


@pytest.fixture(scope="module")
def real(made: tuple[Path, Path]) -> Content:
    return gather(Store.open(made[0]))


def pixels(uri: str | None) -> Any:
    assert uri is not None
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)), dtype=float)


def as_jpeg(image: Any) -> Any:
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=80)
    return np.asarray(Image.open(file), dtype=float)


def shrunk(folder: Path, key: str) -> Any:
    source = open_source(str(folder), dataset="x", split="test")
    rows = source.scan()
    at = [str(k) for k in rows.keys].index(key)
    (payload,) = source.read(rows, at, at + 1)
    image = decode(payload)
    image.thumbnail((96, 96))
    return np.asarray(image, dtype=float)


def test_the_gallery_shows_the_images_that_gained_most_their_difference_and_their_targets(
    real: Content, made: tuple[Path, Path]
) -> None:
    store, out = made
    (gallery,) = real.attack_galleries
    assert (gallery.id_dataset, gallery.attack, gallery.model) == ("pets", "cars-x", "fake")
    method, _, score = gallery.label.partition(" · ")
    (item,) = (r for r in real.results if (r.model, r.method, r.variant) == ("fake", method, "") and score in r.metrics)
    s_id, clean, bad = (item.scores[f"{score}/{x}"][...] for x in ("pets/test", "cars-x/clean", "cars-x/adversarial"))
    keys = Store.open(store).rows("cars-x", "clean").keys
    order = sorted(range(len(keys)), key=lambda at: -(bad[at] - clean[at]))[:6]
    assert [morph.key for morph in gallery.morphs] == [str(keys[at]) for at in order]
    assert gallery.reasons == ()
    for morph, at in zip(gallery.morphs, order, strict=True):
        assert morph.before == np.mean(s_id < clean[at])
        assert morph.after == np.mean(s_id < bad[at])
        before, after, target = (shrunk(out / part, morph.key) for part in ("clean", "adversarial", "target"))
        for shown, true in ((morph.clean, before), (morph.adversarial, after), (morph.target, target)):
            np.testing.assert_array_equal(pixels(shown), as_jpeg(true))
        wanted = np.clip(127 + gallery.factor * (after - before), 0, 255)
        np.testing.assert_array_equal(pixels(morph.difference), as_jpeg(wanted))
    largest = max(
        np.abs(shrunk(out / "adversarial", m.key) - shrunk(out / "clean", m.key)).max() for m in gallery.morphs
    )
    assert 1 <= gallery.factor <= max(1, 2 * 127 / largest * 1.5)


def test_a_real_attack_has_the_whole_section(real: Content) -> None:
    text = Page(render(real)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "10 images of cars/test were perturbed with the gradients of fake, each towards the features of a target image "
        "of pets/train: 8 steps of Adam" in text
    )
    assert "without a budget" in text
    assert "fake attacked" in " ".join(text.split())
    assert "fake-other transfer" in " ".join(text.split())
    (part,) = sections(real).robustness
    assert list(part.attacks[0].columns) == [
        *(
            "Clean",
            "Adversarial",
            "Difference",
            "Before rounding",
            "Clean without targets",
            "Without targets",
            "FPR95",
            "Success",
        )
    ]
    assert part.stages[0].steps == ("0", "4", "8")


def test_the_commands_make_the_attack_again_and_nothing_that_only_it_can_make(
    real: Content, made: tuple[Path, Path]
) -> None:
    said = [command.line for command in commands(real)]
    assert not [
        line for line in said if line.startswith("embedstore extract") and ("--split float" in line or "step-" in line)
    ]
    (line,) = (line for line in said if line.startswith("embedstore attack"))
    order = [line.split()[1] for line in said]
    assert order.index("attack") > order.index("extract")
    embeds = [line for line in said if "--dataset cars-x" in line and line.startswith("embedstore extract")]
    assert len(embeds) == 2
    assert all("fake-other" in line and "--model fake " not in line for line in embeds)
    words = [part for command in commands(real) if command.parts[1] == "attack" for part in command.parts]
    flags = dict(part.split(" ", 1) for part in words[2:])
    known = json.loads((made[1] / "attack.json").read_text())
    assert (flags["--num"], flags["--steps"], flags["--snapshot"], flags["--seed"]) == ("10", "8", "4", "3")
    assert (flags["--ood"], flags["--target"]) == ("cars:test", "pets:train")
    assert float(flags["--lr"]) == known["options"]["lr"]
    assert line.count("--model fake") == 1
    assert flags["--block-rows"] == str(known["block_rows"]) == "8"
    without = [shlex.split(line)[shlex.split(line).index("--without") + 1] for line in said if "--without" in line]
    assert set(without) == {str(made[1] / "targets.txt")}


def test_the_attack_that_is_printed_goes_on_in_its_own_folder(real: Content, made: tuple[Path, Path]) -> None:
    (words,) = ([*shlex.split(one.line)[1:], "--quiet"] for one in commands(real) if one.parts[1] == "attack")
    before = {path: path.read_bytes() for path in made[1].rglob("*") if path.is_file()}
    main(words, standalone_mode=False)
    assert {path: path.read_bytes() for path in made[1].rglob("*") if path.is_file()} == before
    at = words.index("--block-rows")
    with pytest.raises(click.ClickException, match="holds another attack: block_rows is 8 there, and 64"):
        main([*words[:at], *words[at + 2 :]], standalone_mode=False)


@pytest.mark.parametrize("damage", ["gone", "damaged", "other format", "a list", "no target"])
def test_without_its_files_an_attack_is_reported_and_says_what_is_not_shown(
    made: tuple[Path, Path], damage: str
) -> None:
    store, out = made
    aside = out.with_name("aside")
    declaration = out / "attack.json"
    kept = declaration.read_bytes()
    try:
        if damage == "gone":
            out.rename(aside)
        elif damage == "no target":
            (out / "target").rename(aside)
        else:
            declaration.write_text({"damaged": "{", "other format": '{"format": 99}', "a list": "[]"}[damage])
        found = gather(Store.open(store))
        text = Page(render(found)).text
    finally:
        if aside.exists():
            aside.rename(out if damage == "gone" else out / "target")
        declaration.write_bytes(kept)
    assert "Does detection hold against adversarial images?" in text
    (gallery,) = found.attack_galleries
    if damage == "no target":
        assert "The targets are not at hand" in text
        assert all(morph.target is None and morph.clean for morph in gallery.morphs)
        return
    # What made these features is not known, but it was no embedding of images.
    assert not [command.line for command in commands(found) if "--split float" in command.line]
    assert [command.line for command in commands(found) if "--split adversarial" in command.line]
    places = f"{out.absolute()} or {out.parent.absolute()}"
    why = f"there is no attack.json in {places}" if damage == "gone" else "attack.json is damaged, or not of format 1"
    assert f"Which model was attacked, and what was aimed at, is not known: {why}" in text
    assert f"and how that compares: {why}" in text
    assert "which model was attacked" in text
    assert "attacked" not in {role for one in sections(found).robustness[0].attacks for _, role, _ in one.models}
    assert all((morph.clean is None) == (damage == "gone") for morph in gallery.morphs)


def targets_as(made: tuple[Path, Path], payload: bytes) -> Crafted:
    """What is known with another targets.txt."""
    file = made[1] / "targets.txt"
    kept = file.read_bytes()
    try:
        file.write_bytes(payload)
        store = Store.open(made[0])
        (found,) = crafted(store, list(store.results()))
        return found
    finally:
        file.write_bytes(kept)


def test_the_targets_are_known_by_their_rows(made: tuple[Path, Path]) -> None:
    keys = _targets(*made)
    rows = sorted(Store.open(made[0]).rows("pets", "train").keys.tolist().index(key) for key in keys)
    mark = hashlib.sha256(struct.pack(f"<{len(rows)}q", *rows)).hexdigest()
    marks = {item.inputs.get("without/pets/train") for item in Store.open(made[0]).results()}
    assert marks == {None, mark}
    for payload in ("\n".join(keys), "\ufeff" + "\n".join(reversed(keys)) + "\n\n"):
        found = targets_as(made, payload.encode())
        assert (found.aimed, found.targets) == ({"pets/train": mark}, len(keys))


@pytest.mark.parametrize(
    ("payload", "number", "why"),
    [
        (b"\xff\xfe", None, "its targets.txt cannot be read: 'utf-8' codec can't decode"),
        (b"\n", None, "its targets.txt cannot be read: it is empty"),
        ("one\u2028two\x0cthree\nfour\n".encode(), 2, "the store has no row list with all keys of its targets.txt"),
    ],
)
def test_targets_that_are_not_known_are_said_so(
    made: tuple[Path, Path], payload: bytes, number: int | None, why: str
) -> None:
    found = targets_as(made, payload)
    assert (found.reason, found.model, found.targets, found.aimed) == ("", "fake", number, {})
    assert found.unaimed.startswith(why)


def test_damaged_labels_are_the_reason_for_no_images(made: tuple[Path, Path], tmp_path: Path) -> None:
    for split in ("clean", "adversarial"):
        copy = Path(shutil.copytree(made[0], tmp_path / f"{split}.zarr"))
        chunks = [path for path in (copy / "datasets" / "cars-x" / split / "label" / "c").rglob("*") if path.is_file()]
        assert chunks
        for path in chunks:
            path.write_bytes(b"\0" * 7)
        (gallery,) = gather(Store.open(copy)).attack_galleries
        assert gallery.morphs == ()
        assert "The row list is damaged" in " ".join(gallery.reasons)


@pytest.mark.parametrize("split", ["float", "step-4"])
def test_nobody_is_told_to_embed_what_has_no_images(made: tuple[Path, Path], split: str) -> None:
    with pytest.raises(NotAvailable) as found:
        Store.open(made[0]).images("fake-other", "cars-x", split)
    assert "embedstore extract" not in str(found.value)
    assert f"fake-other has no features of cars-x/{split}, and cannot have any" in str(found.value)


def test_no_listing_of_the_store_to_look_at_one_split(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(made[0])
    results = list(store.results())
    monkeypatch.setattr(Store, "datasets", lambda _: pytest.fail("all data sets were listed"))
    (found,) = crafted(store, results)
    assert found.paired
    assert Reader(store, "cars-x/clean").split is not None
    assert Reader(store, "cars-x/../x").split is None


def test_results_alone_are_reported_without_images(made: tuple[Path, Path], tmp_path: Path) -> None:
    written = write_report(Store.open(made[0]), tmp_path / "report")
    names = {path.name for path in written.files}
    assert not [name for name in names if "float" in name or "step" in name]
    (first,) = {one.attack for one in written.content.attack_galleries}
    assert first == "cars-x"
    text = (tmp_path / "report" / "report.html").read_text()
    assert text.count("<img") >= 24
