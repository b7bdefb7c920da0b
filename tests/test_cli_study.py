"""The commands of the study on the command line: probe with all its options, leaks, correlation, methods."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from synthetic_study import LABELS, X, put, study

from embedstore.cli import main
from embedstore.evaluate import METHODS, PRESETS
from embedstore.store import Store

BENCHMARK = """
name = "zoo"
title = "Pets against the rest"
source = "made up"

[id]
name = "pets"
title = "Pets"
where = "the shelter"
test_size = 18
train_size = 24

[[ood]]
name = "cars"
title = "Cars"
where = "the street"
group = "far"
size = 11

[[ood]]
name = "flat"
title = "Flat"
where = "the drawer"
group = "near"

[[ood]]
name = "boats"
title = "Boats"
where = "the harbour, pier 3"
group = "near"
size = 7
"""


@pytest.fixture
def store(fake_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fake_store, tmp_path / "clip.zarr"))


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, args)), catch_exceptions=False)


def rows(*args: str | Path) -> list[dict[str, Any]]:
    done = invoke(*args, "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    return list(json.loads(done.stdout))


def probing(store: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return ("probe", "--store", store, "--id", "pets", "--ood", "cars", "--model", "fake", *more)


# Nothing is computed twice --------------------------------------------------------------------------------------------


def test_a_second_call_says_that_it_computed_nothing(store: Path) -> None:
    both = ("probe", "--store", store, "--id", "pets", "--ood", "cars", "--method", "linear", "--method", "knn")
    first = invoke(*both)
    assert first.exit_code == 0, first.stderr
    assert "already" not in first.stdout
    created = {result.created for result in Store.open(store).results()}
    again = invoke(*both)
    assert "4 of 4 results were in the store already, nothing was computed; --recompute computes all" in again.stdout
    assert {result.created for result in Store.open(store).results()} == created
    more = invoke(*both, "--method", "mcm")
    assert "4 of 6 results were in the store already, the others are new" in more.stdout
    anew = invoke(*both, "--recompute")
    assert "already" not in anew.stdout
    assert not {r.created for r in Store.open(store).results() if r.method != "mcm"} & created


def test_every_method_of_the_table_costs_a_printed_time(store: Path) -> None:
    done = invoke(*probing(store, "--method", "knn", "--method", "linear"))
    (header,) = [line for line in done.stdout.splitlines() if "score" in line]
    assert header.split("┃")[-2].strip() == "seconds"
    assert all(row["seconds"] > 0 for row in rows(*probing(store)) if "auroc" in row)


# Options, presets, shots ----------------------------------------------------------------------------------------------


def test_options_make_variants_beside_the_defaults(store: Path) -> None:
    found = rows(*probing(store, "--method", "knn", "--option", "knn.k=3", "--option", "knn.accuracy-k=5"))
    assert {row["variant"] for row in found} == {"k=3, accuracy_k=5"}
    rows(*probing(store, "--method", "knn"))
    assert {(r.method, r.variant) for r in Store.open(store).results()} == {("knn", "k=3, accuracy_k=5"), ("knn", "")}


def test_shots_run_beside_all_images_for_the_methods_that_learn(store: Path) -> None:
    args = ("--method", "linear", "--method", "knn", "--shots", "1", "--shots", "2", "--seed", "0", "--seed", "3")
    found = rows(*probing(store, *args))
    runs = {(row["method"], row["variant"], row["seed"]) for row in found}
    linear = {("linear", variant, seed) for variant in ("", "shots=1", "shots=2") for seed in (0, 3)}
    assert runs == {("knn", "", None), *linear}


def test_the_official_preset_brings_its_methods_seed_and_metrics(store: Path) -> None:
    found = rows(*probing(store, "--preset", "official"))
    assert {row["method"] for row in found} == set(PRESETS["official"].methods)
    assert {row["seed"] for row in found if row["method"] in ("plp", "linear")} == {42}
    assert "logit-distance" in {row["score"] for row in found if row["method"] == "linear"}
    assert all("metrics=official" in row["variant"] for row in found)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--option", "knn.k"), "--option knn.k: it must read METHOD.OPTION=VALUE"),
        (("--option", "knm.k=1"), "unknown method 'knm'. Did you mean 'knn'"),
        (("--option", "knn.kk=1"), "unknown option of knn 'kk'. Did you mean 'k'"),
        (("--option", "knn.k=x"), "--option knn.k=x: 'x' is no int"),
        (("--option", "knn.k=2", "--option", "knn.k=3"), "knn.k is given twice"),
        (("--method", "mcm", "--option", "knn.k=2"), "--option is given for knn, which does not run; add --method knn"),
        (
            ("--method", "mcm", "--shots", "2"),
            "--shots needs a method that learns from few images: plp, linear, logistic",
        ),
        (("--preset", "offical"), "unknown preset 'offical'. Did you mean 'official'"),
        (("--threshold", "0.9"), "--threshold is that of duplicates: give --drop-duplicates too"),
        (("--benchmark", "cifar10"), "--benchmark says what is in distribution and what is not"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(store: Path, more: tuple[str, ...], message: str) -> None:
    done = invoke(*probing(store, *more))
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(Store.open(store).results()) == []


def test_without_sets_the_request_says_what_to_name(store: Path) -> None:
    done = invoke("probe", "--store", store, "--id", "pets")
    assert done.exit_code == 2
    assert "with --ood, or a --benchmark" in done.stderr


# Benchmarks -----------------------------------------------------------------------------------------------------------


def test_a_benchmark_of_ones_own_runs_what_is_there_and_lists_the_rest(store: Path, tmp_path: Path) -> None:
    (tmp_path / "zoo.toml").write_text(BENCHMARK)
    args = ("probe", "--store", store, "--model", "fake", "--method", "mcm", "--benchmark", tmp_path / "zoo.toml")
    done = invoke(*args)
    assert done.exit_code == 0, done.stderr
    assert (
        "boats/test (Boats, 7 images) is not in the store. Where to get it: the harbour, pier 3. Then: embedstore "
        in (done.stdout)
    )
    assert "cars/test has 10 images, and the benchmark zoo expects 11" in done.stdout
    assert "pets/train has" not in done.stdout
    (header,) = [line for line in done.stdout.splitlines() if "score" in line]
    assert [cell.strip() for cell in header.split("┃")][4:8] == ["ID accuracy", "cars/test", "flat/test", "mean far"]
    assert {row["ood"] for row in rows(*args)} == {"cars/test", "flat/test"}


def test_a_benchmark_that_the_store_lacks_says_where_to_get_each_set(store: Path) -> None:
    done = invoke("probe", "--store", store, "--benchmark", "imagenet")
    assert done.exit_code == 1
    assert "imagenet cannot be run on what the store holds" in done.stderr
    for name in (
        "imagenet/train",
        "imagenet/test",
        "inaturalist/test",
        "sun/test",
        "places/test",
        "textures/full",
        "ninco/",
    ):
        assert name in done.stderr
    assert "https://github.com/j-cb/NINCO" in done.stderr


# Leaks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Train rows 7 and 8 are also test row 3 (slightly changed) and OOD row 2; the first train rows are pending."""
    of, location = study(), tmp_path / "leaky.zarr"
    store = Store.create(location)
    store.add_model(of.provenance, of.store.projection("m"))
    test, ood = X["test"].copy(), X["ood"].copy()
    test[3] = X["train"][7] * 1.001 + 1e-3
    ood[2] = X["train"][8]
    put(store, "pets/train", X["train"], LABELS["train"], status=np.repeat([0, 1], [5, 55]).astype(np.uint8))
    put(store, "pets/test", test, LABELS["test"])
    put(store, "cars/test", ood)
    return location


def test_leaks_are_named_by_key_and_left_out_on_request(leaky: Path) -> None:
    asked = ("--store", leaky, "--id", "pets", "--ood", "cars", "--threshold", "0.9999")
    found = json.loads(invoke("leaks", *asked, "--json").stdout)
    pairs = {(each["seen"], each["seen_key"], each["tested"], each["tested_key"], each["exact"]) for each in found}
    assert pairs == {("pets/train", "7", "pets/test", "3", False), ("pets/train", "8", "cars/test", "2", True)}
    shown = invoke("leaks", *asked).stdout
    assert "pets/test and pets/train: 1 pair, cosine of at least 0.9999 by m" in shown
    assert "1.0000  cars/test '2' = pets/train '8'" in shown
    whole = rows("probe", *asked[:6], "--method", "knn")
    part = rows("probe", *asked, "--method", "knn", "--drop-duplicates")
    assert [(row["n_id"], row["n_ood"]) for row in whole + part] == [(30, 25), (29, 24)]
    assert part[0]["auroc"] > whole[0]["auroc"], "an OOD image that is in the bank looks like ID"
    said = invoke("probe", *asked, "--method", "knn", "--drop-duplicates").stdout
    assert "duplicates by m, left out for all models: 1 of cars/test, 1 of pets/test" in said
    assert "pets/test: 1 of 30 finished rows are left out as duplicates" in said


def test_the_same_file_is_found_by_its_bytes(pictures: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    shutil.copy(images / "pets/train/dog/2.png", images / "cars/test/bus/1.png")
    location = tmp_path / "s.zarr"
    for source in ("pets/train", "pets/test", "cars/test"):
        assert invoke("extract", images / source, "--store", location, "--model", "fake", "-q").exit_code == 0
    asked = ("leaks", "--store", location, "--id", "pets", "--ood", "cars", "--files", "--threshold", "1", "--json")
    by_bytes = [each for each in json.loads(invoke(*asked).stdout) if each["cosine"] is None]
    pairs = [(each["seen"], each["seen_key"], each["tested"], each["tested_key"]) for each in by_bytes]
    assert pairs == [("pets/train", "dog/2.png", "cars/test", "bus/1.png")]
    (images / "cars").rename(images / "gone")
    lost = invoke(*asked)
    assert lost.exit_code == 1
    assert "cars" in lost.stderr


def test_no_leak_is_said_too(store: Path) -> None:
    done = invoke("leaks", "--store", store, "--id", "pets", "--ood", "cars", "--threshold", "1")
    assert "fake finds no duplicates between pets/train, pets/test, cars/test." in done.stdout


# Correlation ----------------------------------------------------------------------------------------------------------


def test_correlation_of_a_store_is_that_of_its_results(store: Path) -> None:
    for tag in ("third", "fourth"):
        for name in ("pets/train", "pets/test", "cars/test"):
            source = Store.open(store).rows(*name.split("/")).source
            assert invoke("extract", source, "--store", store, "--model", f"fake:{tag}", "-q").exit_code == 0
    asked = ("probe", "--store", store, "--id", "pets", "--ood", "cars")
    found = rows(*asked, "--method", "knn", "--method", "linear", "--seed", "0", "--seed", "1")
    by_model: dict[str, list[float]] = {}
    for row in found:
        if (row["method"], row["score"]) == ("linear", "energy"):
            by_model.setdefault(row["model"], []).append(row["auroc"])
    accuracy = {row["model"]: row["id_accuracy"] for row in found if row["method"] == "knn"}
    x, y = np.array([(accuracy[model], np.mean(values)) for model, values in by_model.items()]).T
    (one,) = [
        each
        for each in json.loads(invoke("correlation", "--store", store, "--method", "linear", "--json").stdout)
        if each["name"] == "pets: linear · energy, cars/test"
    ]
    assert one["n"] == 4
    assert one["r_squared"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-9)
    shown = invoke("correlation", "--store", store, "--family", "one=fake", "--family", "more=fake-*").stdout
    assert "R² needs at least 3 points, there are 1" in shown
    bad = invoke("correlation", "--store", store, "--metric", "aurocc")
    assert (bad.exit_code, "Did you mean 'auroc'" in bad.stderr) == (2, True)


def test_correlation_of_published_numbers(tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    lines = ["model,accuracy,auroc,family", "a,70,81,clip", "b,75,85,clip", "c,80,88,clip", "d,77,60,other"]
    table.write_text("\n".join(lines))
    (clip, other) = json.loads(invoke("correlation", "--csv", table, "--unit", "percent", "--json").stdout)
    assert clip["r_squared"] == pytest.approx(np.corrcoef([70, 75, 80], [81, 85, 88])[0, 1] ** 2, abs=1e-12)
    assert (clip["group"], clip["models"], other["reason"]) == (
        "clip",
        ["a", "b", "c"],
        "R² needs at least 3 points, there are 1",
    )
    assert invoke("correlation", "--csv", table).exit_code == 2
    assert invoke("correlation").exit_code == 2


def test_methods_lists_every_method_preset_and_benchmark() -> None:
    shown = invoke("methods").stdout
    for name in [*METHODS, *(f"preset {preset}" for preset in PRESETS), "imagenet", "openood-cifar10"]:
        assert f"{name}: " in shown
    assert json.loads(invoke("methods", "knn", "--json").stdout)["knn"]["options"]["k"] == 1
    assert "0.02" in invoke("methods", "knn").stdout
    assert "metrics" in invoke("methods", "official").stdout
    bad = invoke("methods", "knm")
    assert (bad.exit_code, "Did you mean 'knn'" in bad.stderr) == (2, True)


def test_listed_train_images_are_left_out(leaky: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("8\n\n", encoding="utf-8")
    asked = ("probe", "--store", leaky, "--id", "pets", "--ood", "cars", "--method", "knn")
    whole, part = rows(*asked), rows(*asked, "--without", keys)
    assert part[0]["auroc"] > whole[0]["auroc"], "an OOD image that is in the bank looks like ID"
    assert "pets/train: 1 of 55 finished rows are left out" in invoke(*asked, "--without", keys).stdout
    keys.write_text("7\nnobody\n", encoding="utf-8")
    refused = invoke(*asked, "--without", keys)
    assert refused.exit_code == 2
    assert "1 of 2 keys are not, 'nobody' first" in refused.stderr
    assert "cannot be read" in invoke(*asked, "--without", tmp_path / "none").stderr
    keys.write_text("", encoding="utf-8")
    assert "it is empty" in invoke(*asked, "--without", keys).stderr


def test_targets_of_another_split_are_refused(leaky: Path, tmp_path: Path) -> None:
    """Keys are bare, and splits made of class folders share them."""
    keys = tmp_path / "targets.txt"
    keys.write_text("8\n", encoding="utf-8")
    asked = ("probe", "--store", leaky, "--id", "pets", "--ood", "cars", "--method", "knn", "--without", keys)
    for split, code in (("test", 2), ("train", 0)):
        (tmp_path / "attack.json").write_text(json.dumps({"target": {"dataset": "pets", "split": split}}))
        found = invoke(*asked)
        assert found.exit_code == code, found.output
        assert ("lists images of pets/test" in found.stderr) == (code == 2)
    (tmp_path / "attack.json").write_text("[]")
    assert invoke(*asked).exit_code == 0
