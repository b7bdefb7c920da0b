"""A second call computes only what changed; and features that do not fit into memory change nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_study import LABELS, X, put, study

from embedstore.errors import NotAvailable, UsageError
from embedstore.evaluate import METHODS, Study, duplicates, run_methods
from embedstore.evaluate.rows import chosen, gathered
from embedstore.probes import linear as training
from embedstore.records import Result
from embedstore.store import Store

OPTIONS = {"plp": {"threshold": 0.4, "labels": "soft", "balanced": True}, "linear": {"shots": 5}}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every training of linear layers from here on."""
    seen: list[int] = []
    train = training.train

    def counted(stack: Any, rows: Any, *rest: Any) -> Any:
        seen.append(len(rows))
        return train(stack, rows, *rest)

    monkeypatch.setattr(training, "train", counted)
    return seen


def kept(of: Study, **how: Any) -> list[Result]:
    """Run everything and put it into the store, as `probe` does; what comes back is what the store holds."""
    for result in run_methods(of, known=list(of.store.results()), **how):
        of.store.add_result(result)
    return list(of.store.results())


def fresh(of: Study, **changes: Any) -> Study:
    """The same study, that has read and fitted nothing yet."""
    names = [name.replace("/", ":") for name in changes.pop("ood", of.ood)]
    return Study(of.store, "m", "pets", names, **changes)


def test_a_second_call_returns_what_is_there(trainings: list[int]) -> None:
    of = study()
    known = kept(of)
    del trainings[:]
    again = list(run_methods(fresh(of), known=known))
    assert len(again) == len(METHODS)
    assert {id(result) for result in again} == {id(result) for result in known}
    assert trainings == []


def test_without_known_results_all_is_computed(trainings: list[int]) -> None:
    of = study()
    kept(of, methods=["linear"])
    list(run_methods(fresh(of), ["linear"]))
    assert len(trainings) == 2


def test_another_metric_set_measures_the_stored_scores(trainings: list[int]) -> None:
    of = study(test_split={"status": np.repeat([1, 0, 1], 10).astype(np.uint8)})
    known = kept(of, methods=["linear", "knn"])
    del trainings[:]
    measured = list(run_methods(fresh(of), ["linear", "knn"], seeds=[0], preset="mcm", known=known))
    direct = list(run_methods(fresh(of), ["linear", "knn"], seeds=[0], preset="mcm"))
    assert trainings == [60], "the direct one alone"
    for result, expected in zip(measured, direct, strict=True):
        assert result.metrics == expected.metrics
        assert (result.params, result.variant, result.key()) == (expected.params, expected.variant, expected.key())
        np.testing.assert_array_equal(result.scores.keys(), expected.scores.keys())
    assert measured[0].metrics != known[0].metrics


def test_another_ood_set_or_other_scores_train_nothing_again(trainings: list[int]) -> None:
    of = study()
    known = kept(of, methods=["linear", "plp"])
    put(of.store, "vans/test", X["ood"] + 1)
    del trainings[:]
    more = fresh(of, ood=["cars/test", "vans/test"])
    options = {"linear": {"scores": ("msp", "gen")}}
    found = list(run_methods(more, ["linear", "plp", "vim"], known=known, options=options))
    assert trainings == []
    direct = list(run_methods(fresh(more), ["linear", "plp", "vim"], options=options))
    assert len(trainings) == 2, "one layer each for linear and plp; vim uses that of linear"
    for result, expected in zip(found, direct, strict=True):
        assert result.metrics == expected.metrics
        assert result.details == expected.details
        assert result.notes == expected.notes


def test_fewer_ood_sets_are_found_among_more(trainings: list[int]) -> None:
    of = study()
    put(of.store, "vans/test", X["ood"] + 1, status=np.repeat([1, 0], [20, 5]).astype(np.uint8))
    both = fresh(of, ood=["cars/test", "vans/test"])
    known = kept(both, methods=["linear", "logistic", "knn"])
    for ood in ("cars/test", "vans/test"):
        del trainings[:]
        found = list(run_methods(fresh(of, ood=[ood]), ["linear", "logistic", "knn"], known=known))
        assert trainings == []
        for result, alone in zip(found, run_methods(fresh(of, ood=[ood]), ["linear", "logistic", "knn"]), strict=True):
            assert (result.metrics, result.key(), result.notes) == (alone.metrics, alone.key(), alone.notes)
            assert sorted(result.scores) == sorted(alone.scores)
    part = fresh(of, ood=["cars/test"], without={"cars/test": np.array([1])})
    assert next(run_methods(part, ["knn"], known=known)).metrics["cosine"]["cars/test"]["n_ood"] == 24
    without = kept(fresh(of, ood=["cars/test", "vans/test"], without={"cars/test": np.array([1])}), methods=["knn"])
    again = next(run_methods(fresh(of, ood=["cars/test"]), ["knn"], known=[r for r in without if r.variant]))
    assert again.metrics["cosine"]["cars/test"]["n_ood"] == 25


def test_what_a_layer_depends_on_trains_it_again(trainings: list[int]) -> None:
    of = study()
    known = kept(of, methods=["linear"])
    other = study(train_split={"values": X["train"][::-1].copy(), "labels": LABELS["train"][::-1].copy()})
    for changed, how in (
        (fresh(of), {"options": {"linear": {"lr": 2e-3}}}),
        (fresh(of), {"seeds": [1]}),
        (fresh(of), {"options": {"linear": {"shots": 3}}}),
        (other, {}),
    ):
        del trainings[:]
        (found,) = run_methods(changed, ["linear"], known=known, **how)
        assert len(trainings) == 1, how
        assert found.key() not in {result.key() for result in known}


def test_results_of_another_version_and_absences_are_no_results(trainings: list[int]) -> None:
    of = study()
    known = [replace(result, version="0.0.9") for result in kept(of, methods=["linear"])]
    del trainings[:]
    list(run_methods(fresh(of), ["linear"], known=known))
    assert len(trainings) == 1
    nothing = study(texts=False)
    absent = list(run_methods(nothing, ["mcm"]))
    assert absent[0].absent
    assert next(run_methods(study(), ["mcm"], known=absent)).absent is None


def test_seeds_that_are_missing_are_added(trainings: list[int]) -> None:
    of = study()
    known = kept(of, methods=["linear"], seeds=[0, 1])
    del trainings[:]
    found = list(run_methods(fresh(of), ["linear"], seeds=[1, 2, 0], known=known))
    assert [result.params["seed"] for result in found] == [1, 2, 0]
    assert [id(result) in {id(each) for each in known} for result in found] == [True, False, True]
    alone = next(run_methods(fresh(of), ["linear"], seeds=[2]))
    np.testing.assert_array_equal(found[1].weights["coef"], alone.weights["coef"])


def test_features_that_do_not_fit_into_memory_give_the_same_numbers() -> None:
    labels = np.where(np.arange(60) % 7 == 0, -1, LABELS["train"])
    status = np.ones(60, np.uint8)
    status[[3, 30]] = 2
    store = study(train_split={"labels": labels, "status": status}).store
    small, large = (Study(store, "m", "pets", ["cars"], in_memory=size) for size in (0, 1 << 30))
    assert isinstance(small.train_features, np.memmap)
    assert isinstance(small.labelled()[0], np.memmap)
    assert not isinstance(large.train_features, np.memmap)
    pairs = zip(run_methods(small, options=OPTIONS), run_methods(large, options=OPTIONS), strict=True)
    for mapped, held in pairs:
        assert (mapped.absent, mapped.metrics, mapped.details) == (None, held.metrics, held.details), mapped.method
        assert mapped.key() == held.key()


def test_rows_are_gathered_in_order_in_memory_or_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = np.random.default_rng(0).standard_normal((9000, 3)).astype(np.float16)
    parts = np.split(rows, [10, 4000, 4000])
    index = np.random.default_rng(1).permutation(9000)[:5000]
    for size in (0, 4 * rows.size - 1, 4 * rows.size):
        whole = gathered(iter(parts), rows.shape, rows.dtype, size)
        in_file = size < 4 * rows.size
        assert isinstance(whole, np.memmap) == in_file
        assert whole.dtype == (np.float16 if in_file else np.float32)
        assert whole.flags.writeable != in_file
        np.testing.assert_array_equal(whole, rows)
        np.testing.assert_array_equal(chosen(whole, index, size), rows[index])
    del whole
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    of = study()
    small = Study(of.store, "m", "pets", ["cars"], in_memory=0)
    (result,) = run_methods(small, ["knn"])
    assert "do not fit into memory" in str(result.absent)
    assert "set TMPDIR" in str(result.absent)


def test_left_out_rows_are_neither_tested_nor_forgotten() -> None:
    whole = study()
    without = {"pets/test": np.array([3, 4]), "cars/test": np.array([0])}
    part = Study(whole.store, "m", "pets", ["cars"], without=without)
    for result, before in zip(run_methods(part), run_methods(whole), strict=True):
        (score,) = list(before.metrics)[:1]
        assert result.metrics[score]["cars/test"]["n_id"] == 28
        assert result.metrics[score]["cars/test"]["n_ood"] == 24
        mine, all_rows = result.scores[f"{score}/pets/test"], before.scores[f"{score}/pets/test"]
        assert np.flatnonzero(np.isnan(mine)).tolist() == [3, 4]
        np.testing.assert_allclose(mine[5:], all_rows[5:], rtol=1e-5, atol=1e-7)
        assert result.key() != before.key()
        assert "pets/test: 2 of 30 finished rows are left out as duplicates" in result.notes


def test_other_splits_can_train_and_test() -> None:
    of = study()
    put(of.store, "pets/val", X["test"][::-1].copy(), LABELS["test"][::-1].copy())
    swapped = Study(of.store, "m", "pets", ["cars"], train_split="test", test_split="val")
    (result,) = run_methods(swapped, ["knn"])
    assert result.metrics["cosine"]["cars/test"]["auroc"] == 1.0, "every test row is in the bank"
    assert set(result.inputs) == {"model", "images/pets/test", "images/pets/val", "images/cars/test"}


def test_what_trains_and_what_tests_is_part_of_a_result(trainings: list[int]) -> None:
    """Two splits of one data set can take each other's place; the fingerprints of what was read are then the same."""
    of = study()
    put(of.store, "pets/val", X["test"] + 0.5, LABELS["test"])

    def ran(train: str, test: str, known: list[Result]) -> dict[str, Result]:
        swapped = Study(of.store, "m", "pets", ["cars"], train_split=train, test_split=test)
        return {each.method: each for each in run_methods(swapped, ["knn", "linear", "vim"], known=known)}

    known: list[Result] = []
    for splits in (("train", "test"), ("test", "train"), ("train", "val"), ("val", "test"), ("test", "val")):
        found, alone = ran(*splits, known), ran(*splits, [])
        for method, result in found.items():
            assert result.metrics == alone[method].metrics, (splits, method)
            assert result.id_accuracy == alone[method].id_accuracy
            marks = {f"train_split={splits[0]}"} - {"train_split=train"} | {f"test_split={splits[1]}"} - {
                "test_split=test"
            }
            assert set(result.variant.split(", ")) - {""} == marks
        known += found.values()
    with pytest.raises(UsageError, match="pets/test cannot be both"):
        Study(of.store, "m", "pets", ["cars"], train_split="test")


def test_a_layer_of_other_prompts_is_not_the_same(trainings: list[int]) -> None:
    of = study()
    other = np.random.default_rng(3).standard_normal((3, 1, 4)).astype(np.float32)
    of.store.add_texts("m", "pets", "mcm", names=("cat", "dog", "fish"), templates=["a {}"], vectors=other)
    known = kept(of, methods=["plp"])
    del trainings[:]
    (found,) = run_methods(fresh(of, templates="mcm"), ["plp"], known=known)
    assert len(trainings) == 1
    assert (found.weights["coef"] != known[0].weights["coef"]).any()


def test_left_out_rows_make_a_variant_of_their_own() -> None:
    whole = study()
    part = fresh(whole, without={"cars/test": np.array([0, 5])})
    (result,) = run_methods(part, ["knn"])
    assert result.variant == "left_out=2"
    assert next(run_methods(fresh(whole, without={"cars/test": np.array([], int)}), ["knn"])).variant == ""


def test_few_labels_and_all_features_set_the_scale_of_every_probe() -> None:
    labels = np.where(np.arange(60) < 30, LABELS["train"], -1)
    of = study(train_split={"labels": labels})
    options = {method: {"shots": 2} for method in ("plp", "linear", "logistic")}
    found = {result.method: result for result in run_methods(of, list(options), options=options)}
    np.testing.assert_allclose(found["plp"].weights["mean"], X["train"].mean(axis=0), rtol=1e-5, atol=1e-6)
    for method in ("linear", "logistic"):
        np.testing.assert_allclose(found[method].weights["mean"], X["train"][:30].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_options_do_not_make_a_method_run() -> None:
    assert [r.method for r in run_methods(study(), ["knn"], options={"residual": {"dim": 2}})] == ["knn"]


def test_the_store_keeps_variant_and_details(tmp_path: Path) -> None:
    of = study()
    (result,) = run_methods(of, ["plp"], options={"plp": {"threshold": 0.2}})
    store = Store.create(tmp_path / "r.zarr")
    store.add_result(result)
    (back,) = Store.open(tmp_path / "r.zarr").results()
    assert (back.variant, back.details) == ("threshold=0.2", result.details)
    assert back.key() == result.key()


def test_train_rows_that_are_left_out_might_as_well_not_be_there() -> None:
    """Against a store in which they never were; in blocks of five rows, so that whole blocks go, and parts of some."""
    gone = np.array([0, 1, 2, 3, 4, 17, 33, 58])
    kept_rows = np.setdiff1d(np.arange(60), gone)
    whole = study()
    small = study(train_split={"values": X["train"][kept_rows], "labels": LABELS["train"][kept_rows]})
    part = fresh(whole, without={"pets/train": gone})
    known = list(run_methods(whole))
    for result, expected in zip(run_methods(part, known=known), run_methods(small), strict=True):
        assert result.metrics == expected.metrics, result.method
        assert result.id_accuracy == expected.id_accuracy
        reads_train = any(name.startswith("images/pets/train") for name in result.inputs)
        assert result.variant == ("train_left_out=8" if reads_train else "")
        assert ("without/pets/train" in result.inputs) == reads_train
        if reads_train:
            assert "pets/train: 8 of 60 finished rows are left out" in result.notes


def test_duplicates_of_train_rows_that_are_left_out_are_none() -> None:
    of = study()
    put(of.store, "cars/val", X["train"][[7, 8]])
    part = Study(of.store, "m", "pets", ["cars:val"], without={"pets/train": np.array([0, 7])})
    assert [(one.seen_row, one.tested_row) for one in duplicates(part, 0.9999)] == [(8, 1)]


def test_a_layer_that_was_trained_without_some_rows_is_no_layer_of_all(trainings: list[int]) -> None:
    whole = study(ood=("cars",))
    put(whole.store, "vans/test", X["ood"] + 0.1)
    part = fresh(whole, without={"pets/train": np.arange(20)})
    known = list(run_methods(part, ["plp", "linear"]))
    later = Study(whole.store, "m", "pets", ["vans"])
    for found, expected in zip(
        run_methods(later, ["plp", "linear"], known=known), run_methods(fresh(later), ["plp", "linear"]), strict=True
    ):
        assert found.metrics == expected.metrics
        assert sum(found.details["trained_on"]) == sum(expected.details["trained_on"])
    again = fresh(whole, without={"pets/train": np.arange(20)})
    del trainings[:]
    assert [one.metrics for one in run_methods(again, ["plp", "linear"], known=known)] == [r.metrics for r in known]
    assert trainings == []


def test_to_leave_out_every_train_row_is_refused() -> None:
    with pytest.raises(NotAvailable, match="every finished row of pets/train is to be left out"):
        Study(study().store, "m", "pets", ["cars"], without={"pets/train": np.arange(60)})
