"""Why a part of the report is not there: the reason is found in the data, is true, and names what it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from report_study import HOSTILE, SCORES, Page, content, metrics, page, provenance, result, run, study

from embedstore.errors import StoreCorrupt
from embedstore.evaluate.run import _by_class
from embedstore.records import OK, Provenance, Result, Rows
from embedstore.report import cells, gather
from embedstore.report.choice import detectors
from embedstore.report.distributions import curves
from embedstore.report.gallery import galleries
from embedstore.report.lacks import Lack, told
from embedstore.report.page import render
from embedstore.report.sections import Sections, sections
from embedstore.report.weak_spots import weak_spots
from embedstore.store import Store

CURVES = "ROC curves and histograms of scores"
IMAGES = "the images that fool a detector"
SIZE = "Accuracy and AUROC against the size and cost of the models"
SHOTS = "Accuracy and AUROC against the number of training images a class"
NOT_KEPT = "the results hold no scores of single images; `embedstore probe --recompute` stores them"


def found(results: list[Result], **changes: Any) -> Sections:
    """The sections of results, curves included: what `gather` would find, without a store."""
    chosen = detectors(cells(results), results)
    return sections(content(results, **{"curves": tuple(curves(chosen.values())), **changes}))


def about(results: list[Result], beginning: str, **changes: Any) -> list[str]:
    """What is said of one section, without what every sentence of it begins with."""
    said = found(results, **changes).missing
    return [sentence.removeprefix(beginning) for sentence in said if sentence.startswith(beginning)]


def letters(results: list[Result]) -> list[Result]:
    return [replace(item, id_dataset="letters") for item in results]


# Sentences -----------------------------------------------------------------------------------------------------------


def test_one_sentence_says_a_reason_of_all_that_it_holds_for() -> None:
    lacks = [Lack(name, what, "it rains") for what in ("plots", "tables") for name in ("a", "b")]
    lacks += [Lack("b", "images", "it snows"), Lack("b", "curves", "it rains")]
    assert told(lacks, ["a", "b"]) == [
        "Plots; tables: it rains.",
        "Images, with b as ID data: it snows.",
        "Curves, with b as ID data: it rains.",
    ]
    assert told([Lack("a", "plots", "it rains")], ["a"]) == ["Plots: it rains."]
    many = [Lack(f"set{n}", "plots", "it rains") for n in range(9)]
    (sentence,) = told(many, [lack.id_dataset for lack in many] + ["dry"])
    assert sentence == "Plots, with set0, set1, set2, set3, set4 and 4 others as ID data: it rains."


def test_of_an_id_set_for_which_no_method_could_run_one_sentence_is_said() -> None:
    absent = letters([result(method=m, metrics={}, absent="no prompts", id_accuracy=None) for m in SCORES])
    parts = found([*study(3), *absent])
    assert [sentence for sentence in parts.missing if "letters" in sentence] == [
        "Everything but the table, with letters as ID data: no method could run, for the reasons above."
    ]
    assert [relation.id_dataset for relation in parts.relations] == ["digits"]  # and no heading without anything below
    assert all(", with digits as ID data" in sentence for sentence in parts.missing[1:])
    assert found(absent).missing == ()  # the summary says it


# Curves and images ---------------------------------------------------------------------------------------------------


def scored(
    model: str = "a", method: str = "knn", sets: tuple[str, ...] = ("far/test",), auroc: float = 0.8, **changes: Any
) -> Result:
    (score, *_) = SCORES[method]
    rng = np.random.default_rng(len(model + method))
    arrays = {f"{score}/{name}": rng.normal(size=9) for name in ("digits/test", "letters/test", *sets)}
    table = {score: {name: metrics(auroc) for name in sets}}
    return result(model, method, **{"scores": arrays, "metrics": table, **changes})


class Damaged(Mapping[str, Any]):
    """Scores whose bytes on disk are not those that were written."""

    def __getitem__(self, name: str) -> Any:
        raise StoreCorrupt(f"array {name} cannot be read")

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_with_all_scores_no_curve_is_missing() -> None:
    parts = found([scored(), scored(method="linear")])
    assert len(parts.separations) == 1
    assert not any(sentence.startswith(CURVES) for sentence in parts.missing)


def test_scores_that_are_not_kept_are_damaged_or_of_no_image_are_told_apart() -> None:
    damaged = "the stored scores are damaged; `embedstore probe --recompute` computes them again"
    blank = {"cosine/digits/test": np.ones(3), "cosine/far/test": np.full(3, np.nan)}
    for scores, why in (({}, NOT_KEPT), (Damaged(), damaged), (blank, "no image of far/test has a score")):
        parts = found([scored(scores=scores)])
        assert parts.separations == ()
        assert f"{CURVES}; {IMAGES}: {why}." in parts.missing


def test_a_lack_of_one_method_or_ood_set_is_said_of_that_one() -> None:
    both = ("far/test", "near/test")
    whole = scored(sets=both, auroc=0.9)
    only_far = scored(
        "a", "linear", sets=both, scores={f"msp/{name}": np.arange(3.0) for name in ("digits/test", both[0])}
    )
    assert about([whole, only_far], CURVES) == [f" of linear · msp against near: {NOT_KEPT}."]
    assert about([whole, scored("a", "linear", sets=both, scores={})], CURVES) == [f" of linear · msp: {NOT_KEPT}."]
    neither = [
        replace(item, scores={k: v for k, v in item.scores.items() if "near" not in k}) for item in (whole, only_far)
    ]
    assert about(neither, CURVES) == [f" against near; {IMAGES} against near: {NOT_KEPT}."]


def test_methods_that_lack_different_ood_sets_are_said_one_by_one() -> None:
    both = ("far/test", "near/test")
    whole = [scored(sets=both, auroc=0.9), scored("a", "linear", sets=both), scored("a", "plp", sets=both)]
    lost = {"linear": ["far"], "plp": ["far", "near"]}
    results = [
        replace(item, scores={k: v for k, v in item.scores.items() if k.split("/")[1] not in lost.get(item.method, ())})
        for item in whole
    ]
    assert about(results, CURVES) == [f" of plp · msp against all and linear · msp against far: {NOT_KEPT}."]


def test_what_is_shown_is_not_read_again(tmp_path: Path) -> None:
    gathered = gather(stored(tmp_path / "s"))
    unreadable = tuple(replace(item, scores=Damaged()) for item in gathered.results)
    assert not any("damaged" in sentence for sentence in sections(replace(gathered, results=unreadable)).missing)


def test_an_ood_set_that_the_best_model_was_not_tested_against_is_named() -> None:
    results = [scored("a", sets=("far/test", "near/test")), scored("b", sets=("other/val",), auroc=0.99)]
    why = "a, the model that is shown, was not tested so; `embedstore probe --ood` does that"
    assert about(results, CURVES) == [f" against other:val; {IMAGES} against other:val: {why}."]
    without = scored("a", sets=("far/test", "near/test", "third/test"))
    nan = {"cosine": {**without.metrics["cosine"], "third/test": metrics(float("nan"))}}
    assert about([replace(without, metrics=nan)], CURVES) == [
        f" against third; {IMAGES} against third: there the AUROC of a, the model that is shown, has no value."
    ]


def test_without_any_auroc_all_that_is_drawn_of_it_has_that_reason() -> None:
    table = {"cosine": {"far/test": metrics(float("nan"))}}
    parts = found([scored(metrics=table), scored("b", metrics=table)])
    assert f"{CURVES}; {IMAGES}; {SIZE[0].lower() + SIZE[1:]}: no result in this report has an AUROC." in parts.missing


def test_of_two_id_sets_the_one_without_scores_is_named() -> None:
    results = [scored(), *letters([scored(scores={})])]
    parts = found(results)
    assert [part.id_dataset for part in parts.separations] == ["digits"]
    assert about(results, CURVES) == [f"; {IMAGES}, with letters as ID data: {NOT_KEPT}."]


def stored(path: Path) -> Store:
    """A store on disk with two results, the scores of nine images in each."""
    store = Store.create(path)
    store.add_model(provenance(), None)
    unknown = np.full(9, -1)
    for name in ("digits", "far"):
        split = store.add_rows(name, "test", Rows(list("abcdefghi"), *(unknown,) * 4, (), None, "/nowhere"))
        store.image_writer("a", split).write(0, 9, np.full(9, OK, dtype=np.uint8), features=np.ones((9, 8), np.float32))
    for item in (scored(inputs={}, auroc=0.9), scored(method="linear", inputs={})):
        store.add_result(item)
    return store


def spoil(folder: Path, kind: str) -> None:
    """Change the last byte of every chunk of the arrays of that name."""
    chunks = [path for path in folder.rglob("*") if path.is_file() and kind in str(path) and path.name != "zarr.json"]
    assert chunks
    for path in chunks:
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 255]))


def test_damaged_scores_cost_their_curve_and_images_and_nothing_else(tmp_path: Path) -> None:
    gathered = gather(stored(tmp_path / "s"))
    assert len(gathered.curves) == 2
    assert [sentence for sentence in sections(gathered).missing if IMAGES in sentence] == []
    spoil(tmp_path / "s" / "results" / "a" / "digits" / "linear", "scores")
    gathered = gather(Store.open(tmp_path / "s"))
    assert [curve.label for curve in gathered.curves] == ["knn · cosine"]
    sentences = [sentence for sentence in sections(gathered).missing if "damaged" in sentence]
    damaged = "the stored scores are damaged; `embedstore probe --recompute` computes them again."
    assert sentences == [f"{CURVES} of linear · msp: {damaged}"]
    spoil(tmp_path / "s" / "results" / "a" / "digits" / "knn", "scores")
    gathered = gather(Store.open(tmp_path / "s"))
    assert (gathered.curves, gathered.galleries) == ((), ())
    assert f"{CURVES}; {IMAGES}: {damaged}" in Page(render(gathered)).text


def test_a_damaged_row_list_costs_the_names_of_the_images(tmp_path: Path) -> None:
    stored(tmp_path / "s")
    spoil(tmp_path / "s" / "datasets" / "far" / "test" / "key", "c")
    gathered = gather(Store.open(tmp_path / "s"))
    (gallery,) = gathered.galleries
    assert [len(strip.pictures) for strip in (*gallery.own, *gallery.others["far/test"])] == [8, 0]
    assert any(why.startswith("far/test: The row list is damaged") for why in gallery.reasons)


def test_images_of_one_detector_that_are_missing_are_said_of_that_one(tmp_path: Path) -> None:
    results = [scored(), scored(method="linear", scores={}, auroc=0.9)]
    store = stored(tmp_path / "s")
    shown = tuple(galleries(store, detectors(cells(results), results)))
    assert about(results, IMAGES.capitalize(), galleries=shown) == []
    (sentence,) = about(results, CURVES, galleries=shown)
    assert sentence == f" of linear · msp; {IMAGES} of linear · msp: {NOT_KEPT}."


# Size ----------------------------------------------------------------------------------------------------------------


def sized(*models: str, **changes: Any) -> dict[str, Provenance | None]:
    return {name: provenance(name, **{"parameters": 10_000_000, "gflops": 2.0, **changes}) for name in models}


def test_models_of_known_size_leave_nothing_to_say() -> None:
    parts = found(study(2), models=sized("model0", "model1"))
    assert len(parts.scalings) == 1
    assert not any("size and cost" in sentence for sentence in parts.missing)


def test_which_models_have_no_size_is_said_and_why() -> None:
    elsewhere = "the store holds results alone, without the provenance that has their size"
    early = (
        "no parameters or GFLOPs are recorded, as by early versions; `embedstore extract` into a new store records them"
    )
    one = {**sized("model0"), "model1": None, "model2": provenance("model2")}
    assert about(study(3), SIZE, models=one) == [
        f": it takes two models, and of model1 {elsewhere}; of model2 {early}."
    ]
    two = {**sized("model0", "model3"), "model1": None, "model2": provenance("model2")}
    assert about(study(4), SIZE, models=two) == [f", for model1: {elsewhere}.", f", for model2: {early}."]
    part = {**sized("model0", "model1"), **sized("model2", gflops=None)}
    assert about(study(3), SIZE, models=part) == [f", for model2: {early.replace('parameters or ', '')}."]


def test_a_single_model_is_the_reason_whatever_is_recorded_of_it() -> None:
    one = ": there is one model, model0, and it takes two; `embedstore extract --model` embeds with another."
    for models in (sized("model0"), {"model0": None}):
        assert about(study(1), SIZE, models=models) == [one]


def test_a_model_without_the_score_that_all_are_compared_by_is_named() -> None:
    results = [scored(name, sets=("far/test", "near/test")) for name in "ab"] + [scored("c")]
    lacking = "there is no AUROC of knn · cosine against near"
    assert about(results, SIZE, models=sized(*"abc")) == [f", for c: {lacking}."]
    assert about(results[1:], SIZE, models=sized(*"bc")) == [f": it takes two models, and of c {lacking}."]


def test_accuracies_that_are_not_known_are_missing_from_the_plots_of_size() -> None:
    results, models = study(3, id_accuracy=None), sized("model0", "model1", "model2")
    beginning = "ID accuracy against the size and cost of the models"
    why = "knn has no ID accuracy there, which takes labels of the ID images"
    assert about(results, beginning, models=models) == [f": {why}."]
    mixed = [*study(2), *[item for item in results if item.model == "model2"]]
    assert about(mixed, beginning, models=models) == [f", for model2: {why}."]


def test_of_two_id_sets_the_one_with_too_few_models_is_named() -> None:
    results = [*study(2), *letters(study(1))]
    parts = found(results, models=sized("model0", "model1"))
    assert [part.id_dataset for part in parts.scalings] == ["digits"]
    (sentence,) = about(results, SIZE, models=sized("model0", "model1"))
    assert sentence.startswith(", with letters as ID data: there is one model, model0, and it takes two;")


# Shots ---------------------------------------------------------------------------------------------------------------


def shot(
    variant: str, model: str = "a", sets: tuple[str, ...] = ("far/test",), seed: int = 0, **changes: Any
) -> Result:
    table = {"msp": {name: metrics(0.7) for name in sets}}
    return run(model, "linear", variant, seed, metrics=table, **changes)


def test_whether_there_is_no_number_of_shots_or_only_one_is_told_apart() -> None:
    none = (
        ": no method in this report was trained on some images of each class only; `embedstore probe --shots N` adds "
        "that, with --shots once for each number."
    )
    assert about(study(2), SHOTS) == [none]
    assert about([shot("shots=2"), run("a", "knn")], SHOTS) == [
        ": there is one number of training images a class only, 2; `embedstore probe --shots N` adds others."
    ]
    parts = found([shot("shots=2"), shot("")])
    assert len(parts.few_shots) == 1
    assert not any(sentence.startswith(SHOTS) for sentence in parts.missing)


def test_a_model_with_one_number_of_shots_is_named_beside_those_with_several() -> None:
    results = [shot("shots=2"), shot("shots=4"), shot("", "b"), shot("shots=2", "c")]
    assert about(results, SHOTS) == [
        ", for linear of b: there is one number of training images a class only, all of them; "
        "`embedstore probe --shots N` adds others.",
        ", for linear of c: there is one number of training images a class only, 2; "
        "`embedstore probe --shots N` adds others.",
    ]


def test_a_number_of_shots_that_was_not_tested_against_all_ood_sets_is_named() -> None:
    both = ("far/test", "near/test")
    results = [shot("shots=2", sets=both), shot("", sets=both), shot("shots=4")]
    why = "with 4 training images a class there are no results against near"
    assert found(results).few_shots[0].shots == ("2", "all")
    assert about(results, SHOTS) == [f", for linear of a: {why}."]
    assert about(results[1:], SHOTS) == [f": {why}."]
    apart = [shot("shots=2", sets=both), shot("shots=4", sets=both[:1]), shot("shots=4", sets=both[1:], seed=1)]
    assert about(apart, SHOTS) == [
        ": with 4 training images a class no seed has an ID accuracy or an AUROC on all OOD sets."
    ]


def test_of_two_id_sets_the_one_without_shots_is_named() -> None:
    results = [shot("shots=2"), shot(""), *letters([shot("")])]
    (sentence,) = about(results, SHOTS)
    assert sentence.startswith(", with letters as ID data: no method in this report was trained on some images")


# Classes -------------------------------------------------------------------------------------------------------------

NO_LABELS = "the ID test images have no labels"
EARLY = "results of early versions do not hold that; `embedstore probe --recompute` adds it"
DETAILS = {"class_accuracy": [["cat", 0.5, 4], ["dog", 1.0, 4]], "confused": [["cat", "dog", 2]]}
AGREED = {**DETAILS, "agreement": 0.5, "class_agreement": [["cat", 0.5]]}


def classes(results: list[Result]) -> list[str]:
    parts = ("the classes", "what pseudo-labels", "the accuracy of every")
    return [sentence for sentence in found(results).missing if sentence.lower().startswith(parts)]


def everything() -> list[Result]:
    prompts = {**DETAILS, "template_accuracy": [["a {}.", 0.5]]}
    return [
        result("a", "zero-shot", details=prompts),
        result("a", "plp", details=AGREED),
        result("a", "linear", id_accuracy=0.95, details=DETAILS),
    ]


def test_with_every_detail_no_class_is_missing() -> None:
    assert classes(everything()) == []


def test_without_labels_classes_are_missing_for_want_of_them_and_of_nothing_else() -> None:
    blank = [replace(item, id_accuracy=None, details={"trained_on": [3]}) for item in everything()]
    first, second = classes(blank)
    assert first.startswith(
        f"The classes that fail; what pseudo-labels take for what; the accuracy of every single prompt: {NO_LABELS};"
    )
    assert second == (
        "The classes whose training images get wrong pseudo-labels: the ID training images have no labels, or more "
        "classes than there are prompts."
    )


def test_results_of_early_versions_are_to_be_computed_again() -> None:
    (sentence,) = classes([replace(item, details={}) for item in everything()])
    assert sentence.endswith(f": {EARLY}.")
    assert "accuracy of every single prompt" in sentence


def test_methods_that_do_not_classify_are_no_proof_that_labels_are_missing() -> None:
    results = [result("a", "knn", id_accuracy=None), result("a", "residual", id_accuracy=None)]
    assert classes(results)[0] == (
        "The classes that fail: residual has no classes, and knn classifies where both training and test images have "
        "labels."
    )


def test_methods_that_were_not_run_and_methods_that_could_not_run_are_told_apart() -> None:
    absent = result("a", "plp", metrics={}, absent="no prompts", id_accuracy=None)
    said = classes([result("a", "linear", details=DETAILS), absent])
    assert said == [
        "What pseudo-labels take for what: that takes zero-shot or mcm, and this report has no result of it.",
        "The classes whose training images get wrong pseudo-labels: plp could not run, for the reasons above.",
        "The accuracy of every single prompt: that takes zero-shot, and this report has no result of it.",
    ]


def test_a_better_classifier_without_classes_is_named_and_the_other_is_not_called_the_best() -> None:
    results = [*everything()[:2], result("b", "logistic", id_accuracy=0.99)]
    (part,), _ = weak_spots(results)
    assert part.tables[0].caption == (
        "The classes of digits in which the best classifier that has accuracies by class (zero-shot, a) is wrong most "
        "often, in percent."
    )
    assert f"The classes in which logistic, b is wrong: {EARLY}." in found(results).missing
    (whole,), _ = weak_spots(everything())
    assert "in which the best classifier (linear, a) is wrong" in whole.tables[0].caption


def test_of_two_id_sets_the_one_without_labels_is_named() -> None:
    # Labels of training images alone say how good pseudo-labels are.
    agreed = {name: AGREED[name] for name in ("agreement", "class_agreement")}
    blank = [replace(item, id_accuracy=None, details=agreed) for item in everything()]
    results = [*everything(), *letters(blank)]
    first, second = found(results).weak_spots
    assert (first.id_dataset, second.id_dataset) == ("digits", "letters")
    assert [table.columns for table in second.tables] == [("Class", "Right pseudo-labels")]
    (sentence,) = classes(results)
    assert f", with letters as ID data: {NO_LABELS};" in sentence


def test_what_a_class_is_taken_for_is_said_as_far_as_it_is_known() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(30), 40)
    guess = np.where(rng.random(len(truth)) < 0.3 * (truth % 5) / 4, rng.integers(0, 30, len(truth)), truth)
    guess[truth == 0], guess[truth == 5] = 0, 5
    names = [f"class {n}" for n in range(30)]
    tested = SimpleNamespace(test_labels=truth, test_class_names=lambda count: names[:count])
    details = _by_class(cast(Any, tested), guess)
    assert len(details["confused"]) == 50
    (part,), _ = weak_spots([result("a", "linear", details=details)])
    counts = {n: Counter(guess[(truth == n) & (guess != truth)].tolist()) for n in range(30)}
    last = details["confused"][-1][2]
    kinds = set()
    for name, _, _, said in part.tables[0].rows:
        errors = counts[names.index(name)]
        if said.startswith("none more than"):
            assert said == ("none more than once" if last == 1 else f"none more than {last} times")
            assert 0 < max(errors.values()) <= last
            kinds.add("rare")
        else:
            assert errors[names.index(said)] == max(errors.values())
            kinds.add("known")
    assert "known" in kinds
    assert ("the 50 that are confused most often" in part.tables[0].fine) == ("rare" in kinds)


def test_a_class_that_is_confused_too_seldom_to_be_kept_is_not_left_blank() -> None:
    pairs = [["cat", f"other {n}", 9] for n in range(49)] + [["cat", "last", 3]]
    by_class = [["cat", 0.1, 500], ["dog", 0.9, 40], ["cow", 1.0, 40]]
    (part,), _ = weak_spots([result("a", "linear", details={"class_accuracy": by_class, "confused": pairs})])
    table = part.tables[0]
    assert {row[0]: row[3] for row in table.rows} == {"cat": "other 0", "dog": "none more than 3 times", "cow": "–"}
    assert table.fine.endswith("Of all pairs of classes, the result keeps the 50 that are confused most often.")


# Rows ----------------------------------------------------------------------------------------------------------------


def test_splits_whose_embeddings_are_gone_are_named_where_the_store_knows_the_model() -> None:
    beginning = "How many images"
    why = "results are of embeddings that the store does not hold, or no longer"
    parts = content(study(2), models={"model0": provenance("model0"), "model1": None})
    (sentence,) = [text for text in sections(parts).missing if text.startswith(beginning)]
    assert sentence == f"{beginning} of digits/test and far/test are embedded by model0: {why}."


def test_all_rows_that_are_there_leave_nothing_to_say(tmp_path: Path) -> None:
    store = stored(tmp_path / "s")
    read = {f"images/{name}/test": store.images("a", name, "test").fingerprint for name in ("digits", "far")}
    store.add_result(scored(method="mcm", inputs=read))
    assert not any(text.startswith("How many images") for text in sections(gather(store)).missing)


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text_in_every_reason(text: str) -> None:
    more = replace(result(f"{text}1", "linear", variant="shots=2"), id_dataset=text)
    results = [*study(2), result(text), more, result(text, "linear", metrics={"msp": {f"{text}/x": metrics(0.9)}})]
    known = {text: provenance(text), f"{text}1": None}
    said = sections(content(results, models={**sized("model0", "model1"), **known})).missing
    assert len([sentence for sentence in said if text in sentence]) >= 4
    parsed = page(results, models={**sized("model0", "model1"), **known})
    assert all(sentence in parsed.text for sentence in said)
    assert "img" not in parsed.tags
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
