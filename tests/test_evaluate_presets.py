"""Presets and options: what each choice computes, what a result is called by it, and the official code's traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_study import LABELS, NAMES, TEXT, X, study

from embedstore.errors import UnknownName, UsageError
from embedstore.evaluate import METHODS, PRESETS, Study, run_methods, settings
from embedstore.metrics import METRIC_SETS
from embedstore.probes import LinearProbe
from embedstore.prompts import TEMPLATES
from embedstore.records import Result
from embedstore.scores import LOGIT_SCORES


def one(of: Study, method: str, preset: str = "default", **options: Any) -> Result:
    (result,) = run_methods(of, [method], preset=preset, options={method: options})
    assert result.absent is None, result.absent
    return result


def test_presets_name_what_exists() -> None:
    for preset in PRESETS.values():
        assert preset.metrics in METRIC_SETS
        assert preset.templates in TEMPLATES
        assert set(preset.methods) | set(preset.options) <= set(METHODS)
        for method, options in preset.options.items():
            assert set(options) <= set(METHODS[method].defaults())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_metric_of_a_preset_is_that_of_its_metric_set(preset: str) -> None:
    (result,) = run_methods(study(), ["mcm"], preset=preset)
    inside, outside = result.scores["msp/pets/test"], result.scores["msp/cars/test"]
    metrics = result.metrics["msp"]["cars/test"]
    for name, function in METRIC_SETS[PRESETS[preset].metrics].items():
        assert metrics[name] == function(inside, outside), name


def test_official_measures_distances_of_logits_with_the_unweighted_mean_of_class_covariances() -> None:
    """Protocol 5.3 and 1.5, restated: every feature goes through the head first, the training features too."""
    found = one(study(), "linear", preset="official").scores
    probe = LinearProbe(n_classes=3, seed=42).fit(X["train"], LABELS["train"])
    train, test = probe.decision_function(X["train"]), probe.decision_function(X["test"])
    of_class = [train[LABELS["train"] == label] for label in range(3)]
    means = [rows.mean(axis=0) for rows in of_class]
    inverse = np.linalg.inv(sum(np.cov(rows.T) for rows in of_class) / 3)
    whole, inverse_of_whole = train.mean(axis=0), np.linalg.inv(np.cov(train.T))
    to_classes = np.array([[(z - mean) @ inverse @ (z - mean) for mean in means] for z in test])
    to_all = np.array([(z - whole) @ inverse_of_whole @ (z - whole) for z in test])
    np.testing.assert_allclose(found["logit-distance/pets/test"], -to_classes.min(axis=1), rtol=1e-5)
    relative = -(to_classes - to_all[:, None]).min(axis=1)
    np.testing.assert_allclose(found["relative-logit-distance/pets/test"], relative, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["l1/pets/test"], (test - test.min(axis=1, keepdims=True)).sum(axis=1), rtol=1e-6)


def test_a_preset_and_options_settle_every_option() -> None:
    settled = settings("knn", "openood", {"metric": "l2"})
    assert settled == {**METHODS["knn"].defaults(), "k": 50, "reduce": "kth", "metric": "l2"}
    assert settings("knn", "openood", {"k": 3})["k"] == 3, "what is given wins over the preset"
    with pytest.raises(UnknownName, match=r"unknown option of knn 'kk'\. Did you mean 'k'"):
        settings("knn", "default", {"kk": 3})
    with pytest.raises(UnknownName, match=r"unknown preset 'offical'\. Did you mean 'official'"):
        list(run_methods(study(), ["knn"], preset="offical"))


def test_a_variant_says_in_what_a_result_differs_from_the_defaults() -> None:
    assert one(study(), "knn").variant == ""
    assert one(study(), "knn", k=1).variant == ""
    assert one(study(), "knn", k=3, metric="l2").variant == "k=3, metric=l2"
    assert one(study(), "linear", scores=("msp", "gen")).variant == "scores=msp+gen"
    assert one(study(), "mcm", preset="official").variant == "metrics=official"


def test_options_reach_what_they_are_for() -> None:
    whole = study()
    train, test = X["train"].astype(np.float64), X["test"].astype(np.float64)
    third = np.sort(np.linalg.norm(test[:, None] - train, axis=2), axis=1)[:, 2]
    found = one(whole, "knn", k=3, metric="l2", reduce="kth")
    np.testing.assert_allclose(found.scores["distance/pets/test"], -third, rtol=1e-5)
    first_two = one(whole, "mcm", temperature=0.5).scores["msp/pets/test"]
    assert (first_two > one(whole, "mcm").scores["msp/pets/test"]).all(), "a lower temperature is surer"
    assert set(one(whole, "linear", scores=("all",)).metrics) == set(one(whole, "plp", scores=("all",)).metrics)
    with pytest.raises(UnknownName, match=r"unknown score 'mspp'\. Did you mean 'msp'"):
        one(whole, "linear", scores=("mspp",))
    with pytest.raises(UsageError, match="labels are 'true', 'pseudo'"):
        one(whole, "mahalanobis", labels="psuedo")
    with pytest.raises(UsageError, match="plp trains on pseudo-labels"):
        one(whole, "plp", labels="true")


@pytest.mark.parametrize(
    ("method", "option", "text", "value"),
    [
        ("knn", "k", "10", 10),
        ("knn", "reduce", "kth", "kth"),
        ("plp", "threshold", "0.5", 0.5),
        ("plp", "temperature", "none", None),
        ("plp", "temperature", "0.1", 0.1),
        ("plp", "shots", "4", 4),
        ("plp", "balanced", "true", True),
        ("plp", "balanced", "No", False),
        ("plp", "scores", "msp,gen", ("msp", "gen")),
        ("mahalanobis", "shrinkage", "none", None),
    ],
)
def test_options_are_parsed_by_their_types(method: str, option: str, text: str, value: object) -> None:
    parsed = METHODS[method].parse(method, option, text)
    assert (parsed, type(parsed)) == (value, type(value))


def test_text_that_fits_no_type_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--option knn\.k=many: 'many' is no int"):
        METHODS["knn"].parse("knn", "k", "many")
    with pytest.raises(UsageError, match="'nan' is no float"):
        METHODS["plp"].parse("plp", "threshold", "nan")
    with pytest.raises(UsageError, match="'maybe' is no bool"):
        METHODS["plp"].parse("plp", "balanced", "maybe")


def test_every_option_of_every_method_can_be_parsed() -> None:
    for name, method in METHODS.items():
        for option, default in method.defaults().items():
            text = ",".join(default) if isinstance(default, tuple) else str(default)
            assert method.parse(name, option, text) == default, (name, option)


def pseudo_logits() -> np.ndarray:
    projection = study().store.projection("m")
    joint = X["train"].astype(np.float64) @ projection
    return (joint / np.linalg.norm(joint, axis=1, keepdims=True)) @ (
        TEXT[:, 0] / np.linalg.norm(TEXT[:, 0], axis=1, keepdims=True)
    ).T


def moments() -> tuple[np.ndarray, np.ndarray]:
    return X["train"].mean(axis=0, dtype=np.float64), X["train"].std(axis=0, ddof=1, dtype=np.float64)


def test_a_threshold_keeps_confident_pseudo_labels_and_all_rows_set_the_scale() -> None:
    cosines = pseudo_logits()
    sure = np.exp(20 * cosines).max(axis=1) / np.exp(20 * cosines).sum(axis=1)
    cut = float(np.median(sure))
    found = one(study(), "plp", threshold=cut)
    kept = sure >= cut
    assert 20 < kept.sum() < 40
    assert sum(found.details["trained_on"]) == kept.sum()
    np.testing.assert_allclose(found.weights["mean"], moments()[0], rtol=1e-6)
    np.testing.assert_allclose(found.weights["scale"], moments()[1], rtol=1e-6)
    mean, scale = moments()
    standard = ((X["train"][kept] - mean) / scale).astype(np.float32)
    probe = LinearProbe(n_classes=3, seed=0, standardize=False).fit(standard, cosines.argmax(axis=1)[kept])
    np.testing.assert_allclose(found.weights["coef"], probe.coef_, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError, match=r"no train image has a pseudo-label of confidence 0\.99 or more"):
        one(study(), "plp", threshold=0.99, temperature=1.0)
    for wrong in (1.1, -0.1):
        with pytest.raises(UsageError, match=r"threshold is a confidence, in \[0, 1\]"):
            one(study(), "plp", threshold=wrong)


def test_soft_labels_are_the_softmax_at_the_models_logit_scale() -> None:
    cosines = pseudo_logits()
    soft = np.exp(20 * cosines) / np.exp(20 * cosines).sum(axis=1, keepdims=True)
    probe = LinearProbe(n_classes=3, seed=0, lr=0.05).fit_soft(X["train"], soft)
    found, hard = one(study(), "plp", labels="soft", lr=0.05), one(study(), "plp", lr=0.05)
    np.testing.assert_allclose(found.weights["coef"], probe.coef_, rtol=1e-3, atol=1e-4)
    assert np.abs(found.weights["coef"] - hard.weights["coef"]).max() > 0.1
    colder = one(study(), "plp", labels="soft", temperature=1e-4, lr=0.05)
    np.testing.assert_allclose(colder.weights["coef"], hard.weights["coef"], rtol=1e-2, atol=1e-2)


def test_shots_are_drawn_per_class_by_the_seed_and_balanced_rows_are_equally_many() -> None:
    few = [one_seed(study(), seed, shots=4) for seed in (0, 1)]
    assert [found.details["trained_on"] for found in few] == [[4, 4, 4], [4, 4, 4]]
    assert (few[0].weights["coef"] != few[1].weights["coef"]).any()
    np.testing.assert_array_equal(few[0].weights["mean"], few[1].weights["mean"])
    together = run_methods(study(), ["linear"], seeds=[0, 1], options={"linear": {"shots": 4}})
    for found, alone in zip(together, few, strict=True):
        np.testing.assert_array_equal(found.weights["coef"], alone.weights["coef"])
    (many,) = run_methods(study(), ["linear"], options={"linear": {"shots": 21}})
    assert many.notes == ("3 of 3 classes have fewer than 21 train images; all of them are used",)
    counts = one(study(), "plp", balanced=True).details["trained_on"]
    assert len(set(counts)) == 1
    assert len(set(one(study(), "plp").details["trained_on"])) > 1, "this data would not tell"


def one_seed(of: Study, seed: int, **options: Any) -> Result:
    (result,) = run_methods(of, ["linear"], seeds=[seed], options={"linear": options})
    return result


def test_pseudo_labels_are_compared_with_true_ones_where_those_exist() -> None:
    guessed = pseudo_logits().argmax(axis=1)
    details = one(study(), "plp").details
    assert details["agreement"] == (guessed == LABELS["train"]).mean()
    by_class = [[name, (guessed == c)[LABELS["train"] == c].mean()] for c, name in enumerate(NAMES)]
    assert details["class_agreement"] == by_class
    assert "agreement" not in one(study(train_split={"labels": None}), "plp").details
    assert "agreement" not in one(study(), "linear").details


def test_every_class_has_its_accuracy_and_errors_are_counted_by_pair() -> None:
    of = study()
    (result,) = run_methods(of, ["mcm"])
    joint = X["test"].astype(np.float64) @ of.store.projection("m")
    guess = (joint @ (TEXT[:, 0] / np.linalg.norm(TEXT[:, 0], axis=1, keepdims=True)).T).argmax(axis=1)
    right = guess == LABELS["test"]
    assert result.details["class_accuracy"] == [[name, right[c::3].mean(), 10] for c, name in enumerate(NAMES)]
    table = confused(guess)
    pairs = {(NAMES[t], NAMES[g]): table[t, g] for t in range(3) for g in range(3) if table[t, g]}
    assert {(true, guessed): count for true, guessed, count in result.details["confused"]} == pairs
    counts = [count for _, _, count in result.details["confused"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == (~right).sum() > 0
    confidence = result.scores["msp/pets/test"]
    risk = [(~right)[np.argsort(-confidence)][:k].mean() for k in range(1, 31)]
    assert result.details["aurc"] == {"msp": pytest.approx(np.mean(risk), abs=1e-12)}
    (unlabelled,) = run_methods(study(test_split={"labels": None}), ["mcm"])
    assert "class_accuracy" not in unlabelled.details


def confused(guess: np.ndarray) -> np.ndarray:
    """Naive (3, 3) confusion matrix without its diagonal."""
    table = np.zeros((3, 3), dtype=int)
    for true, guessed in zip(LABELS["test"], guess, strict=True):
        table[true, guessed] += true != guessed
    return table


def test_accuracy_of_every_template_and_scores_of_a_single_one() -> None:
    of = study(texts=False)
    other = np.random.default_rng(11).standard_normal((3, 1, 4)).astype(np.float32)
    both = np.concatenate([TEXT, other], axis=1)
    of.store.add_texts("m", "pets", "plp", names=NAMES, templates=["a {}", "the {}"], vectors=both)
    joint = X["test"].astype(np.float64) @ of.store.projection("m")

    def accuracy(text: np.ndarray) -> float:
        guess = (joint @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T).argmax(axis=1)
        return float((guess == LABELS["test"]).mean())

    details = one(of, "zero-shot").details["template_accuracy"]
    assert details == [["a {}", accuracy(TEXT[:, 0])], ["the {}", accuracy(other[:, 0])]]
    assert one(of, "mcm", template=1).id_accuracy == accuracy(other[:, 0]) != accuracy(TEXT[:, 0])
    with pytest.raises(UsageError, match="has templates 0 to 1, not 2"):
        one(of, "mcm", template=2)


def test_duplicate_class_names_are_named_and_get_no_pseudo_label() -> None:
    of = study(texts=False)
    twice = TEXT[[0, 1, 1]]
    of.store.add_texts("m", "pets", "plp", names=("cat", "crane", "crane"), templates=["{}"], vectors=twice)
    found = one(of, "plp")
    assert "classes [1, 2] are all called 'crane': no image can be told to be any but the first of them" in found.notes
    assert found.details["trained_on"][2] == 0


def test_a_method_that_lacks_rows_is_absent_and_the_others_run() -> None:
    results = {r.method: r for r in run_methods(study(), ["knn", "mcm"], options={"knn": {"k": 61}})}
    assert results["knn"].absent == "k=61 needs 61 finished rows, and pets/train has 60"
    assert results["mcm"].absent is None


def test_the_document_has_every_method_preset_option_and_score() -> None:
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    for name in [*METHODS, *PRESETS, *LOGIT_SCORES]:
        assert f"`{name}`" in text, name
    for preset in PRESETS.values():
        for options in preset.options.values():
            for value in options.values():
                if isinstance(value, str):
                    assert value in text
