"""The report on attacks: what is compared with what, what an attack aimed at, and what only the attacked model has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_study import attacked as without_marks
from report_study import content, metrics, page, result, run, study
from test_report_robustness import attacked, declared, missing, section, table

import embedstore
from embedstore.errors import UsageError
from embedstore.records import Result
from embedstore.report import cells
from embedstore.report.exports import best, to_csv
from embedstore.report.main_table import main_table
from embedstore.report.weak_spots import weak_spots

LESS = "train_left_out=7"


# A detector without the targets is a control -------------------------------------------------------------------------


def with_better_controls() -> list[Result]:
    """An attack study in which every row is better without the targets."""
    found = []
    for item in without_marks():
        gain = 0.2 if item.variant else 0.0
        table = {
            score: {ood: metrics(min(1.0, values["auroc"] + gain)) for ood, values in by_set.items()}
            for score, by_set in item.metrics.items()
        }
        found.append(replace(item, metrics=table, scores={}))
    return found


def named_best(results: Sequence[Result]) -> dict[tuple[str, str], tuple[str, str, float]]:
    return {(m.ood, m.model): (m.method, m.variant, m.auroc or 0.0) for m in best(cells(results))}


def largest(results: Sequence[Result]) -> dict[tuple[str, str], float]:
    """By OOD set and model, one number after the other."""
    found: dict[tuple[str, str], float] = {}
    for item in results:
        for by_set in item.metrics.values():
            for ood, values in by_set.items():
                found[ood, item.model] = max(values["auroc"], found.get((ood, item.model), 0.0))
    return found


def test_the_best_method_of_a_model_has_all_train_images() -> None:
    results = with_better_controls()
    found = named_best(results)
    assert {variant for _, variant, _ in found.values()} == {""}
    whole = [item for item in results if not item.variant]
    clean = {place: value for place, value in largest(whole).items() if place[0].endswith("/clean")}
    assert {place: value for place, (_, _, value) in found.items() if place in clean} == clean
    assert clean.items().isdisjoint(largest(results).items()), "the controls would have won"
    # They are in the full tables.
    assert LESS in to_csv(content(results))
    rows = [row.label for _, rows in main_table("digits", cells(results), ()).models for row in rows]
    assert f"knn ({LESS}) · cosine" in rows


def test_without_an_attack_train_images_that_were_left_out_are_a_choice() -> None:
    results = [*study(1), run("model0", "knn", LESS, metrics={"cosine": {"far/test": metrics(0.99)}})]
    assert named_best(results)["far/test", "model0"] == ("knn", LESS, 0.99)


def test_where_there_is_nothing_else_the_control_is_named() -> None:
    alone = [item for item in with_better_controls() if item.variant]
    found = named_best(alone)
    assert found
    assert {variant for _, variant, _ in found.values()} == {LESS}
    # Of one ID set only: it says nothing about the other.
    both = [*alone, *(replace(item, id_dataset="letters") for item in with_better_controls())]
    assert {(m.id_dataset, m.variant) for m in best(cells(both))} == {("digits", LESS), ("letters", "")}


def classifier(variant: str, accuracy: float, **more: Any) -> Result:
    by_class = [["cat", accuracy, 40], ["dog", accuracy / 2, 40]]
    details = {"class_accuracy": by_class, "confused": [["dog", "cat", 20]]}
    return replace(result("a", "linear", id_accuracy=accuracy, details=details, **more), variant=variant)


def test_weak_spots_are_those_of_a_classifier_with_all_train_images() -> None:
    sets = {"msp": {f"x/{split}": metrics(0.7) for split in ("clean", "adversarial")}}
    whole, less = classifier("", 0.8, metrics=sets), classifier(LESS, 0.9, metrics=sets)
    for results, accuracy, name in (
        ([whole, less], "80.0", "(linear, a)"),
        ([less], "90.0", f"(linear ({LESS}), a)"),
        ([classifier("", 0.8), classifier(LESS, 0.9)], "90.0", f"(linear ({LESS}), a)"),  # nobody attacked
    ):
        ((first, *_),) = (part.tables for part in weak_spots(results)[0])
        assert name in first.caption
        assert {row[0]: row[1] for row in first.rows}["cat"] == accuracy


# Numbers -------------------------------------------------------------------------------------------------------------


def clean_lowered(item: Result) -> Result:
    table = {
        score: {ood: metrics(values["auroc"] - 0.05 * ood.endswith("/clean")) for ood, values in by_set.items()}
        for score, by_set in item.metrics.items()
    }
    return replace(item, metrics=table)


def test_without_the_targets_the_clean_images_have_a_number_too() -> None:
    results = [clean_lowered(item) if item.variant else item for item in attacked()]
    found = table(section(results, declared()))
    for (model, label), row in found.items():
        method, _, score = label.partition(" · ")
        mine = [item for item in results if (item.model, item.method) == (model, method)]
        less = next((item for item in mine if item.variant), mine[0])  # mcm reads no train image
        by_set = less.metrics[score]
        for column, split in (("Clean without targets", "clean"), ("Without targets", "adversarial")):
            assert row[column] == f"{100 * by_set[f'far-smooth/{split}']['auroc']:.1f}"
    columns = list(next(iter(found.values())))
    assert columns.index("Clean without targets") + 1 == columns.index("Without targets")
    (said, *_) = section(results, declared()).attacks[0].fine
    assert "on the clean images and on the adversarial ones with 7 train images left out" in said


def test_where_no_control_saw_the_clean_images_there_is_no_such_column() -> None:
    results = [
        replace(item, metrics={
            score: {ood: values for ood, values in by_set.items() if not (item.variant and ood.endswith("/clean"))}
            for score, by_set in item.metrics.items()
        })
        for item in attacked()
        if item.method != "mcm"
    ]  # fmt: skip
    one = section(results, declared()).attacks[0]
    assert "Clean without targets" not in one.columns
    assert "Without targets" in one.columns
    assert "AUROC on the adversarial images with 7 train images left out" in one.fine[0]


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=50).map(lambda values: np.array(values, dtype=float)),
    st.lists(st.integers(-4, 4), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=float)),
)
def test_of_images_that_were_all_rejected_success_is_fpr95(s_id: Any, adversarial: Any) -> None:
    won = embedstore.attack_success(s_id, np.full(len(adversarial), -9.0), adversarial)
    assert (won.rejected, won.share) == (len(adversarial), embedstore.fpr95(s_id, adversarial))


# Sentences -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("images", "each towards the features of a target image of digits/train"),
        ("prototypes", "each towards the mean feature (the prototype) of a class of digits/train"),
        ("texts", "each towards the texts (the prompts) of a class of digits"),
        ("energy", "to raise the energy of a linear probe of digits"),
        ("a poem", "towards something that this version does not know"),
    ],
)
def test_an_attack_says_what_it_aimed_at_and_how(kind: str, words: str) -> None:
    for budget, optimizer, how in (
        (None, "adam", "250 steps of Adam, without a budget, smoothness 5000"),
        (2 / 255, "pgd", "250 steps of PGD, within L∞ 2/255, smoothness 5000"),
    ):
        made = declared(budget=budget, optimizer=optimizer)
        made = replace(made, declared={**(made.declared or {}), "aim": {"kind": kind}})
        said = f"60 images of far/test were perturbed with the gradients of a, {words}: {how}."
        assert section(attacked(), made).attacks[0].said == said
        assert said in page(attacked(), attacks=(made,)).text


def test_every_attack_says_it() -> None:
    names = ("far-images", "far-texts")
    made = [declared(name) for name in names]
    made[1] = replace(made[1], declared={**(made[1].declared or {}), "aim": {"kind": "texts"}})
    found = section([item for name in names for item in attacked(name)], *made)
    assert ["target image" in one.said for one in found.attacks] == [True, False]
    assert ["prompts" in one.said for one in found.attacks] == [False, True]


def test_a_sentence_says_what_the_curves_are() -> None:
    steps = section(attacked(steps=(50,)), declared()).explained
    assert steps == "The AUROC of each method against the images after so many steps: the lower, the more they fool it."
    names = {"far-2": 2 / 255, "far-8": 8 / 255}
    results = [item for name in names for item in attacked(name)]
    made = [declared(name, budget=size) for name, size in names.items()]
    budgets = "within so large a budget (the most that an image may change)"
    assert budgets in section(results, *made).explained
    assert "after so many steps" not in section(results, *made).explained
    other = [made[0], declared("far-8", budget=8 / 255, steps=40)]  # more than the budget differs
    assert "the images of each attack: the lower" in section(results, *other).explained
    assert section(attacked(), declared()).explained == ""
    assert steps in page(attacked(steps=(50,)), attacks=(declared(),)).text


@pytest.mark.parametrize("number", [2, 5])
def test_every_attack_has_its_name_and_none_is_written_on_another(number: int) -> None:
    names = [f"far-{at}" for at in range(number)]
    results = [item for name in names for item in attacked(name, models=("a",))]
    found = section(results, *(declared(name, smoothness=at) for at, name in enumerate(names)))
    assert found.drawing is not None
    (panel,) = found.drawing.panels
    figure = panel.views["a"].figure
    assert figure is not None
    axis, shown = figure["layout"]["xaxis"], ["clean", *(str(at) for at in range(number))]
    assert list(axis["tickvals"]) == list(figure["data"][0]["x"]) == shown
    assert [text.removeprefix("<br>") for text in axis["ticktext"]] == shown
    low = [text.startswith("<br>") for text in axis["ticktext"]]
    assert low == ([False] * 3 if number == 2 else [False, True] * 3)


def test_what_only_the_attacked_model_has_is_asked_of_no_other() -> None:
    transferred = [item for item in attacked() if item.model == "b"]
    text = missing(transferred, declared())
    assert "only a, the model that was attacked, has these features, and there is no result of it" in text
    assert "far-smooth:float was not tested" not in text
    assert "`embedstore attack --snapshot` keeps them, of the attacked model alone" in text
    bare = [replace(item, metrics={
        score: {ood: values for ood, values in by_set.items() if not ood.endswith("/float")}
        for score, by_set in item.metrics.items()
    }) for item in attacked()]  # fmt: skip
    text = missing(bare, declared())
    assert "far-smooth:float was not tested with a, the attacked model, which alone has it; `embedstore probe" in text


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (([np.nan, np.nan], [1.0], [1.0]), "of 2 none has one"),
        (([], [1.0], [1.0]), "of 0 none has one"),
        (([0.0], [1.0, 2.0], [1.0]), r"must be of the same images; got \(2,\), \(1,\)"),
    ],
)
def test_success_is_not_made_of_nothing(scores: tuple[list[float], ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        embedstore.attack_success(*scores)


def test_an_attack_on_texts_is_asked_for_again_with_its_prompts() -> None:
    made = declared()
    content = {**(made.declared or {}), "aim": {"kind": "texts", "templates": "simple"}}
    asked = dict(replace(made, declared=content).asked)
    assert (asked["--towards"], asked["--templates"]) == ("text", "simple")
    assert "--templates" not in dict(made.asked)
