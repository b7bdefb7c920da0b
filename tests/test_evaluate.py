"""Every method against an independent restatement, and what becomes of it where something is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from synthetic_study import LABELS, NAMES, PROJECTION, PROVENANCE, TEXT, X, put, study
from zarr.storage import MemoryStore

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.evaluate import METHODS, Study, run_methods
from embedstore.probes import LinearProbe, LogisticProbe
from embedstore.records import Result
from embedstore.scores import KMeansMahalanobisDetector, NNGuideDetector, ResidualDetector, ViMDetector
from embedstore.store import Store


def run(of: Study, *methods: str) -> dict[str, Result]:
    return {result.method: result for result in run_methods(of, methods)}


@pytest.fixture(scope="module")
def found() -> dict[str, Result]:
    return run(study())


# Restated -------------------------------------------------------------------------------------------------------------


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosines(name: str) -> np.ndarray:
    return unit(X[name].astype(np.float64) @ PROJECTION) @ unit(TEXT[:, 0].astype(np.float64)).T


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def naive_distance(name: str, relative: bool) -> tuple[np.ndarray, np.ndarray]:
    train, labels = X["train"].astype(np.float64), LABELS["train"]
    means = np.array([train[labels == c].mean(axis=0) for c in range(3)])
    within = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(train, labels, strict=True)) / (60 - 3)
    whole = np.cov(train.T)

    def distance(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
        ridge = 1e-6 * np.trace(covariance) / 6 * np.eye(6)
        return float((x - mean) @ np.linalg.inv(covariance + ridge) @ (x - mean))

    table = np.array([[distance(x, mean, within) for mean in means] for x in X[name]])
    background = np.array([distance(x, train.mean(axis=0), whole) for x in X[name]])
    return -(table.min(axis=1) - (background if relative else 0)), table.argmin(axis=1)


def naive_knn_labels(train: np.ndarray, test: np.ndarray, k: int = 20, temperature: float = 0.02) -> np.ndarray:
    similarities = unit(test.astype(np.float64)) @ unit(train.astype(np.float64)).T
    guesses = []
    for row in similarities:
        votes = np.zeros(3)
        for neighbour in np.argsort(-row)[:k]:
            votes[LABELS["train"][neighbour]] += np.exp(row[neighbour] / temperature)
        guesses.append(votes.argmax())
    return np.array(guesses)


def probe_logits(name: str, labels: np.ndarray) -> np.ndarray:
    return LinearProbe(n_classes=3, batch_size=256, seed=0).fit(X["train"], labels).decision_function(X[name])


def expected(method: str, score: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Score and predicted class of every row of ``"test"`` or ``"ood"``."""
    if method == "knn":
        nearest = (unit(X[name].astype(np.float64)) @ unit(X["train"].astype(np.float64)).T).max(axis=1)
        return nearest, naive_knn_labels(X["train"], X["test"])
    if method == "mcm":
        return softmax(cosines(name)).max(axis=1), cosines(name).argmax(axis=1)
    if method in ("mahalanobis", "relative-mahalanobis"):
        return naive_distance(name, relative=method.startswith("relative"))
    if method == "zero-shot":
        logits = cosines(name) * (20 if score.startswith("scaled-") else 1)
        return logit_score(logits, score.removeprefix("scaled-")), logits.argmax(axis=1)
    if method == "combined":
        return naive_sum(name), cosines(name).argmax(axis=1)
    if method == "prototypes":
        to_each = unit(X[name].astype(np.float64)) @ unit(np.array([means_on_sphere(c) for c in range(3)])).T
        return to_each.max(axis=1), to_each.argmax(axis=1)
    pseudo = cosines("train").argmax(axis=1)
    if method in ("vim", "nnguide", "residual", "kmeans-mahalanobis"):
        fitted = naive_detectors()[method].fit(X["train"])
        return fitted.score_samples(X[name]), probe_logits(name, LABELS["train"]).argmax(axis=1)
    if method == "logistic":
        logits = LogisticProbe(n_classes=3, seed=0).fit(X["train"], LABELS["train"]).decision_function(X[name])
    else:
        logits = probe_logits(name, pseudo if method == "plp" else LABELS["train"])
    return logit_score(logits, score), logits.argmax(axis=1)


def logit_score(logits: np.ndarray, score: str) -> np.ndarray:
    p = softmax(logits)
    found = {
        "msp": p.max(axis=1),
        "energy": np.log(np.exp(logits).sum(axis=1)),
        "max-logit": logits.max(axis=1),
        "entropy": (p * np.log(p)).sum(axis=1),
        "gen": -(p**0.1 * (1 - p) ** 0.1).sum(axis=1),
    }
    return np.asarray(found[score])


def means_on_sphere(label: int) -> np.ndarray:
    return np.asarray(unit(X["train"][LABELS["train"] == label].astype(np.float64)).mean(axis=0))


def naive_sum(name: str) -> np.ndarray:
    """Half of each: MCM and the nearest *other* train image, in units of what they are over the train images."""
    near = unit(X["train"].astype(np.float64)) @ unit(X["train"].astype(np.float64)).T
    np.fill_diagonal(near, -2)
    of_train = {"text": softmax(cosines("train")).max(axis=1), "image": near.max(axis=1)}
    here = {"text": softmax(cosines(name)).max(axis=1), "image": expected("knn", "cosine", name)[0]}
    parts = [(here[one] - of_train[one].mean()) / of_train[one].std(ddof=1) for one in of_train]
    return np.asarray((parts[0] + parts[1]) / 2)


def naive_detectors() -> dict[str, Any]:
    """Each is held to a formula in test_scores_*.py; here, to be given the right things."""
    probe = LinearProbe(n_classes=3, seed=0).fit(X["train"], LABELS["train"])
    coef = probe.coef_ / probe.scale_
    layer = (coef, probe.intercept_ - coef @ probe.mean_)
    return {
        "vim": ViMDetector(*layer),
        "nnguide": NNGuideDetector(*layer, k=10),
        "residual": ResidualDetector(),
        "kmeans-mahalanobis": KMeansMahalanobisDetector(n_clusters=10, seed=0),
    }


SCORES = [
    ("knn", "cosine"),
    ("mcm", "msp"),
    *(("zero-shot", score) for score in ("max-logit", "energy", "entropy", "gen")),
    *(("zero-shot", f"scaled-{score}") for score in ("msp", "energy", "entropy")),
    ("combined", "sum"),
    *((method, score) for method in ("plp", "linear", "logistic") for score in ("msp", "energy")),
    ("mahalanobis", "distance"),
    ("relative-mahalanobis", "distance"),
    ("kmeans-mahalanobis", "distance"),
    ("prototypes", "cosine"),
    ("residual", "residual"),
    ("vim", "vim"),
    ("nnguide", "guided-energy"),
]
WITHOUT_CLASSIFIER = ("residual", "kmeans-mahalanobis")
WITH_PROMPTS = ("mcm", "zero-shot", "combined", "plp")
WITHOUT_TRAINING = ("mcm", "zero-shot")
WITH_LABELS = ("linear", "logistic", "mahalanobis", "relative-mahalanobis", "prototypes", "vim", "nnguide")


@pytest.mark.parametrize(("method", "score"), SCORES)
def test_scores_accuracy_and_auroc_equal_the_restatement(found: dict[str, Result], method: str, score: str) -> None:
    result = found[method]
    (inside, predicted), (outside, _) = expected(method, score, "test"), expected(method, score, "ood")
    np.testing.assert_allclose(result.scores[f"{score}/pets/test"], inside, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.scores[f"{score}/cars/test"], outside, rtol=1e-4, atol=1e-6)
    assert result.id_accuracy == (None if method in WITHOUT_CLASSIFIER else (predicted == LABELS["test"]).mean())
    metrics = result.metrics[score]["cars/test"]
    assert (metrics["n_id"], metrics["n_ood"]) == (30, 25)
    truth = np.repeat([1, 0], [30, 25])
    assert metrics["auroc"] == pytest.approx(roc_auc_score(truth, np.concatenate([inside, outside])), abs=1e-9)
    assert 0.1 < metrics["auroc"] < 0.98, "neither trivial nor hopeless, or this compares nothing"


def test_the_accuracy_of_knn_is_by_a_vote_of_20_neighbours_at_temperature_002() -> None:
    train, test = X["train"] + 3, X["test"] + 3  # all in one direction, so that the vote is close
    result = run(study(train_split={"values": train}, test_split={"values": test}), "knn")["knn"]
    accuracies = {
        (k, t): (naive_knn_labels(train, test, k, t) == LABELS["test"]).mean()
        for k, t in [(20, 0.02), (1, 0.02), (10, 0.02), (60, 0.02), (20, 1.0), (20, 0.05)]
    }
    assert result.id_accuracy == accuracies.pop((20, 0.02))
    assert result.id_accuracy not in accuracies.values(), "this data would not tell"


def test_every_method_is_compared_and_says_what_it_read(found: dict[str, Result]) -> None:
    assert list(found) == list(METHODS) == list(dict.fromkeys(method for method, _ in SCORES))
    for result in found.values():
        assert {(result.method, score) for score in result.metrics} == {s for s in SCORES if s[0] == result.method}
        read = {"model", "images/pets/test", "images/cars/test"}
        read |= set() if result.method in WITHOUT_TRAINING else {"images/pets/train"}
        read |= {"texts/pets/plp"} if result.method in WITH_PROMPTS else set()
        assert set(result.inputs) == read
        assert ("templates" in result.params) == (result.method in WITH_PROMPTS)
        assert ("seed" in result.params) == METHODS[result.method].seeded
        assert (result.absent, result.notes, result.variant) == (None, (), "")
    assert found["plp"].params.items() >= {"seed": 0, "epochs": 100, "batch_size": 0, "lr": 1e-3}.items()


def test_an_mlp_heads_own_output_is_used() -> None:
    store = Store.create(MemoryStore())
    store.add_model(PROVENANCE, None)
    store.add_texts("m", "pets", "plp", names=NAMES, templates=["{}"], vectors=TEXT)
    rng = np.random.default_rng(0)
    joint = {name: rng.standard_normal((len(X[name]), 4)).astype(np.float32) for name in ("test", "ood")}
    put(store, "pets/test", X["test"], LABELS["test"], projected=joint["test"])
    put(store, "cars/test", X["ood"], projected=joint["ood"])
    logits = unit(joint["test"].astype(np.float64)) @ unit(TEXT[:, 0].astype(np.float64)).T
    result = run(Study(store, "m", "pets", ["cars"]), "mcm")["mcm"]
    np.testing.assert_allclose(result.scores["msp/pets/test"], softmax(logits).max(axis=1), rtol=1e-6)


# Something is missing -------------------------------------------------------------------------------------------------


def absences(results: dict[str, Result]) -> dict[str, str]:
    for result in results.values():
        assert (result.absent is None) == bool(result.metrics) == bool(result.scores)
    return {method: result.absent for method, result in results.items() if result.absent is not None}


def test_without_labels_the_methods_that_need_none_run(found: dict[str, Result]) -> None:
    results = run(study(train_split={"labels": None}, test_split={"labels": None}))
    assert absences(results) == dict.fromkeys(WITH_LABELS, "pets/train has no labels")
    assert {result.id_accuracy for result in results.values()} == {None}
    for method in set(METHODS) - set(WITH_LABELS):
        assert results[method].metrics == found[method].metrics


def test_rows_without_a_label_are_left_out_of_training_and_of_accuracy(found: dict[str, Result]) -> None:
    labels = {name: np.where(np.arange(len(LABELS[name])) % 5 == 0, -1, LABELS[name]) for name in ("train", "test")}
    partly = run(study(train_split={"labels": labels["train"]}, test_split={"labels": labels["test"]}), "linear", "mcm")
    known = labels["train"] >= 0
    probe = LinearProbe(n_classes=3, seed=0).fit(X["train"][known], labels["train"][known])
    np.testing.assert_array_equal(partly["linear"].weights["coef"], probe.coef_)
    right = (cosines("test").argmax(axis=1) == labels["test"])[labels["test"] >= 0]
    assert partly["mcm"].id_accuracy == right.mean()


def test_without_prompts_what_needs_them_is_absent() -> None:
    missing = absences(run(study(texts=False)))
    assert list(missing) == list(WITH_PROMPTS)
    assert all("m has no prompts pets/plp" in reason and "--classes" in reason for reason in missing.values())


def test_without_a_text_tower_what_needs_it_is_absent() -> None:
    store = Store.create(MemoryStore())
    store.add_model(replace(PROVENANCE, tokenizer=None), PROJECTION)
    for name, key in (("pets/train", "train"), ("pets/test", "test"), ("cars/test", "ood")):
        put(store, name, X[key], None if key == "ood" else LABELS[key])
    missing = absences(run(Study(store, "m", "pets", ["cars"])))
    assert missing == dict.fromkeys(WITH_PROMPTS, "m has no text tower")


def test_without_a_train_split_mcm_runs(found: dict[str, Result]) -> None:
    results = run(study(train=False))
    trained = [name for name in METHODS if name not in WITHOUT_TRAINING]
    assert absences(results) == dict.fromkeys(trained, "pets has no train split in the store")
    assert {name: results[name].metrics for name in WITHOUT_TRAINING} == {
        name: found[name].metrics for name in WITHOUT_TRAINING
    }


def test_a_train_split_without_a_finished_row_is_no_train_split() -> None:
    missing = absences(run(study(train_split={"status": np.zeros(60, np.uint8)})))
    assert set(missing) == set(METHODS) - set(WITHOUT_TRAINING)
    assert all("pets/train has no finished rows for m" in reason for reason in missing.values())


def test_unfinished_rows_are_left_out_and_said(found: dict[str, Result]) -> None:
    status = np.ones(30, np.uint8)
    status[5:15], status[[0, 17]] = 0, 2
    out = np.where(np.arange(25) < 5, 0, 1).astype(np.uint8)
    results = run(study(test_split={"status": status}, ood_split={"status": out}))
    assert absences(results) == {}
    for method, score in SCORES:
        for name, finished in (("pets/test", status == 1), ("cars/test", out == 1)):
            mine, whole = results[method].scores[f"{score}/{name}"], found[method].scores[f"{score}/{name}"]
            assert np.isnan(mine[~finished]).all()
            np.testing.assert_allclose(mine[finished], whole[finished], rtol=1e-5, atol=1e-6)
        metrics = results[method].metrics[score]["cars/test"]
        assert (metrics["n_id"], metrics["n_ood"]) == (18, 20)
        assert results[method].notes[:2] == (
            "pets/test: 18 of 30 rows are used (10 pending, 2 failed)",
            "cars/test: 20 of 25 rows are used (5 pending, 0 failed)",
        )
    assert results["mcm"].id_accuracy == (cosines("test").argmax(axis=1) == LABELS["test"])[status == 1].mean()
    assert results["knn"].key() != found["knn"].key(), "other rows, another result"


def test_an_ood_set_without_a_finished_row_is_left_out_and_said() -> None:
    whole = study()
    put(whole.store, "vans/test", X["ood"], status=np.zeros(25, np.uint8))
    both = Study(whole.store, "m", "pets", ["vans", "cars"])
    (result,) = run_methods(both, ["mcm"])
    assert list(result.metrics["msp"]) == ["cars/test"]
    assert result.notes == ()
    (missing,) = both.missing
    assert missing.startswith("vans/test has no finished rows for m; run `embedstore extract` again, or with --retry-f")
    with pytest.raises(NotAvailable, match="vans/test has no finished rows for m"):
        Study(whole.store, "m", "pets", ["vans"])


def test_an_id_test_split_without_a_finished_row_is_an_error() -> None:
    with pytest.raises(NotAvailable, match="pets/test has no finished rows for m"):
        study(test_split={"status": np.full(30, 2, np.uint8)})


@pytest.mark.parametrize("ood", ["pets", "pets:test", "pets:train"])
def test_the_id_data_cannot_be_the_ood_set(ood: str) -> None:
    with pytest.raises(UsageError, match=r"pets/(test|train) is the in-distribution data"):
        study(ood=("cars", ood))


def test_classes_that_nothing_trains_are_named() -> None:
    two, texts = LABELS["train"] % 2, np.repeat(TEXT[:2], [1, 2], axis=0)
    few = study(train_split={"labels": two}, texts=False)
    few.store.add_texts("m", "pets", "plp", names=NAMES, templates=["{}"], vectors=texts)  # fish is said like dog
    results = run(few)
    assert results["linear"].notes == ("1 of 3 classes have no train image: 'fish'",)
    assert results["plp"].notes == ("1 of 3 classes have no train image with their pseudo-label: 'fish'",)
    assert results["linear"].weights["coef"].shape == (3, 6)
    assert absences(results) == {}


def test_labels_that_mean_other_classes_in_train_and_test_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"pets/train has the classes 3 \(cat, dog, fish\) and pets/test 2 \(dog, fish\)"
    ):
        study(test_split={"labels": LABELS["test"] % 2, "names": ("dog", "fish")})


def test_one_training_row_is_too_few_for_a_covariance_and_enough_for_the_rest() -> None:
    results = run(study(train_split={"values": X["train"][:1], "labels": LABELS["train"][:1]}))
    few = {name: reason for name, reason in absences(results).items() if "pets/train has 1" in reason}
    assert few == {
        "combined": "k=1 and the image itself needs 2 finished rows, and pets/train has 1",
        "kmeans-mahalanobis": "clusters=10 needs 10 finished rows, and pets/train has 1",
        "residual": "a principal subspace needs 2 finished rows, and pets/train has 1",
        "vim": "a principal subspace needs 2 finished rows, and pets/train has 1",
        "nnguide": "k=10 needs 10 finished rows, and pets/train has 1",
    }
    others = {"logistic", "mahalanobis", "relative-mahalanobis"}
    assert set(absences(results)) == set(few) | others


def test_unknown_names_list_the_known_ones() -> None:
    store = study().store
    for arguments, message in {
        ("n", "pets", "cars"): "unknown model 'n'.*Known: m",
        ("m", "pet", "cars"): "unknown data set 'pet'. Did you mean 'pets'.*Known: cars, pets",
        ("m", "pets", "car"): "unknown data set 'car'. Did you mean 'cars'.*Known: cars, pets",
        ("m", "pets", "cars:val"): "unknown split 'cars/val'.*Known: cars/test",
        ("m", "cars", "pets:val"): "unknown split 'pets/val'.*Known: pets/test, pets/train",
    }.items():
        with pytest.raises(UnknownName, match=message):
            Study(store, *arguments[:2], arguments[2:])
    with pytest.raises(UnknownName, match=r"unknown method 'nkn'\. Did you mean 'knn'"):
        run(study(), "nkn")
    with pytest.raises(NotAvailable, match="no OOD set"):
        Study(store, "m", "pets", [])


def test_another_seed_is_another_result_and_the_same_seed_the_same() -> None:
    def with_seed(seed: int) -> dict[str, Result]:
        return {result.method: result for result in run_methods(study(), ["plp", "knn"], seeds=[seed])}

    zero, again, one = with_seed(0), with_seed(0), with_seed(1)
    assert zero["plp"].key() == again["plp"].key() != one["plp"].key()
    np.testing.assert_array_equal(zero["plp"].weights["coef"], again["plp"].weights["coef"])
    assert (zero["plp"].weights["coef"] != one["plp"].weights["coef"]).any()
    assert zero["knn"].metrics == one["knn"].metrics
    store = study().store
    for results in (zero, again, one):
        store.add_result(results["plp"])
    assert [result.params["seed"] for result in store.results()] == [0, 1]


def test_one_method_is_what_it_is_among_all(found: dict[str, Result]) -> None:
    alone = run(study(), "linear")
    assert list(alone) == ["linear"]
    assert alone["linear"].metrics == found["linear"].metrics
