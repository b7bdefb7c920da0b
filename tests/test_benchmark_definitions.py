"""Benchmarks that are shipped, and anyone's own: what they say, what is refused, what a store lacks for them."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from embedstore.benchmarks import (
    Benchmark,
    IdSet,
    OodSet,
    benchmark_names,
    classes,
    load_benchmark,
    missing,
    sizes,
)
from embedstore.errors import SourceError, UnknownName, UsageError
from embedstore.prompts import TEMPLATES, check_class_names, duplicates
from embedstore.sources.vision import DATASETS
from embedstore.store.layout import check_name

SHIPPED = (
    "cifar10", "cifar100", "imagenet", "imagenet-official",
    "openood-cifar10", "openood-cifar100", "openood-imagenet", "openood-imagenet200",
)  # fmt: skip
DATA = Path(__file__).parent.parent.parent / "shared" / "data"

# As published: the protocol's section 2.3, ImageNet-O's README, and the lines of OpenOOD's image lists.
PUBLISHED = {
    "cifar10": {"cifar10/train": 50_000, "cifar10/test": 10_000, "cifar100/test": 10_000},
    "cifar100": {"cifar100/train": 50_000, "cifar100/test": 10_000, "cifar10/test": 10_000},
    "imagenet": {
        "imagenet/train": 1_281_167, "imagenet/test": 50_000, "inaturalist/test": 10_000, "sun/test": 10_000,
        "places/test": 10_000, "textures/full": 5_640, "ninco/test": 5_879, "imagenet-o/test": 2_000,
    },
    "imagenet-official": {
        "imagenet/train": 1_281_167, "imagenet/test": 50_000, "inaturalist/test": 10_000, "sun/test": 10_000,
        "places/test": 10_000, "textures/test": 1_880, "ninco/test": 5_879, "imagenet-o/test": 2_000,
    },
    "openood-cifar10": {
        "cifar10/train": 50_000, "cifar10/test-openood": 9_000, "cifar100/test-openood": 9_000,
        "tin/test-openood-cifar10": 7_793, "mnist/full": 70_000, "svhn/test": 26_032, "textures/full": 5_640,
        "places365/test-openood-cifar10": 35_195,
    },
    "openood-cifar100": {
        "cifar100/train": 50_000, "cifar100/test-openood": 9_000, "cifar10/test": 10_000,
        "tin/test-openood-cifar100": 6_526, "mnist/full": 70_000, "svhn/test": 26_032, "textures/full": 5_640,
        "places365/test-openood-cifar100": 33_773,
    },
    "openood-imagenet": {
        "imagenet/train": 1_281_167, "imagenet/test-openood": 45_000, "ssb-hard/test": 49_000, "ninco/test": 5_879,
        "inaturalist/test": 10_000, "textures/test-openood-imagenet": 5_160, "openimage-o/test-openood": 15_869,
    },
    "openood-imagenet200": {
        "imagenet200/train": None, "imagenet200/test-openood": 9_000, "ssb-hard/test": 49_000, "ninco/test": 5_879,
        "inaturalist/test": 10_000, "textures/test-openood-imagenet": 5_160, "openimage-o/test-openood": 15_869,
    },
}  # fmt: skip
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1_000, "imagenet200": 200}
OPENOOD = {
    "openood-cifar10": {"near": ["cifar100", "tin"], "far": ["mnist", "svhn", "textures", "places365"]},
    "openood-cifar100": {"near": ["cifar10", "tin"], "far": ["mnist", "svhn", "textures", "places365"]},
    "openood-imagenet": {"near": ["ssb-hard", "ninco"], "far": ["inaturalist", "textures", "openimage-o"]},
    "openood-imagenet200": {"near": ["ssb-hard", "ninco"], "far": ["inaturalist", "textures", "openimage-o"]},
}

MINE = """
name = "mine"
title = "Birds against beetles"
source = "Me, 2025"

[id]
name = "birds"
title = "My birds"
where = "my disk"

[[ood]]
name = "beetles"
title = "My beetles"
where = "my disk"
"""


def written(tmp_path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def everything(benchmark: Benchmark) -> dict[str, set[str]]:
    """All splits that a benchmark needs, as a store would list them."""
    have: dict[str, set[str]] = {}
    for dataset, split in benchmark.expected:
        have.setdefault(dataset, set()).add(split)
    return have


def test_the_shipped_ones_are_these():
    assert benchmark_names() == sorted(SHIPPED)
    assert set(PUBLISHED) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_one_can_be_used(name):
    found = load_benchmark(name)
    assert found.name == name, "a result that names the benchmark can be traced to the file"
    for one in (found.id, *found.ood):
        check_name("data set", one.name)
        assert ":" not in one.name, "--ood NAME:SPLIT could not be told apart"
        assert one.where, "a reader must learn where to get it"
        if one.extract:
            assert one.extract.removeprefix("torchvision:") in DATASETS
    for split in (found.id.train, found.id.test, *(ood.split for ood in found.ood)):
        check_name("split", split)
    assert found.id.templates in TEMPLATES
    assert found.source
    assert all(ood.source for ood in found.ood)


@pytest.mark.parametrize("name", SHIPPED)
def test_sizes_are_the_published_ones(name):
    found = load_benchmark(name)
    assert {f"{dataset}/{split}": size for (dataset, split), size in found.expected.items()} == PUBLISHED[name]
    assert found.id.classes == CLASSES[found.id.name]


def test_groups():
    for name, wanted in OPENOOD.items():
        groups = load_benchmark(name).groups
        assert {group: [ood.name for ood in sets] for group, sets in groups.items()} == wanted
    for name in ("imagenet", "imagenet-official"):
        assert list(load_benchmark(name).groups) == ["ood"], "the released code does not divide them"
    for name in ("cifar10", "cifar100"):
        assert list(load_benchmark(name).groups) == ["near"]


def test_class_names_are_those_of_the_data_set():
    known = {name: load_benchmark(name).id for name in SHIPPED}
    for name, one in known.items():
        assert len(one.class_names) in (0, one.classes)
        assert bool(one.class_names) == ("cifar" in name)
        if one.class_names:
            check_class_names(one.class_names)
            assert not duplicates(one.class_names)
            assert list(one.class_names) == sorted(one.class_names), "CIFAR's labels are in alphabetical order"
    for name in ("cifar10", "cifar100"):
        assert known[name].class_names == known[f"openood-{name}"].class_names


def test_lists_of_class_names_go_into_the_command_and_must_exist(tmp_path):
    one, other = (missing(load_benchmark(name), {})[0].command for name in ("imagenet", "imagenet-official"))
    assert "--classes imagenet:openai " in one
    assert "--classes imagenet:first-synonym " in other
    inside = 'name = "i"\ntitle = "I"\nwhere = "here"\nclass_list = "imagenet:x"'
    outside = 'name = "o"\ntitle = "O"\nwhere = "there"'
    path = tmp_path / "b.toml"
    path.write_text(f'name = "b"\ntitle = "B"\nsource = "me"\n[id]\n{inside}\n[[ood]]\n{outside}\n')
    with pytest.raises(UsageError, match=r"b\.toml: id: field 'class_list': unknown class list 'imagenet:x'"):
        load_benchmark(path)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_class_names_are_those_beside_the_real_images(name):
    real = json.loads((DATA / name / "classes.json").read_text())["classes"]
    assert classes(load_benchmark(name), real) == []


def test_one_data_set_is_described_alike_wherever_it_is_used():
    """The same split of the same data set has one size, title and origin in all benchmarks that use it."""
    seen: dict[tuple[str, str], tuple[object, ...]] = {}
    for name in SHIPPED:
        for ood in load_benchmark(name).ood:
            if not ood.split.startswith("test-openood"):  # the list that defines it is another one in each benchmark
                here = (ood.size, ood.source.partition(";")[0])
                assert seen.setdefault((ood.name, ood.split), here) == here


def test_ones_own_file(tmp_path):
    path = written(tmp_path, MINE)
    found = load_benchmark(path)
    assert found == load_benchmark(str(path)), "a str that ends with .toml is a path"
    assert found == Benchmark(
        "mine",
        "Birds against beetles",
        "Me, 2025",
        IdSet("birds", "My birds", "my disk"),
        (OodSet("beetles", "My beetles", "my disk"),),
    )
    assert (found.id.train, found.id.test, found.id.templates, found.ood[0].split) == ("train", "test", "plp", "test")
    assert found.expected == {("birds", "train"): None, ("birds", "test"): None, ("beetles", "test"): None}
    full = MINE.replace("[id]", '[id]\ntrain="t"\nclass_names=["jay", "owl"]\ntemplates="mcm"\ntest_size=2\nclasses=2')
    full = full.replace("[[ood]]", '[[ood]]\ngroup="bugs"\nsplit="all"\nsize=3\ncautions=["small"]')
    found = load_benchmark(written(tmp_path, full))
    assert found.id.class_names == ("jay", "owl")
    assert (found.id.train, found.id.templates, found.ood[0].cautions) == ("t", "mcm", ("small",))
    assert list(found.groups) == ["bugs"]
    assert found.expected == {("birds", "t"): None, ("birds", "test"): 2, ("beetles", "all"): 3}


def test_a_name_nobody_knows_and_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown benchmark 'imagnet'. Did you mean 'imagenet'\?") as caught:
        load_benchmark("imagnet")
    assert all(name in str(caught.value) for name in SHIPPED)
    for path in (tmp_path / "nothing.toml", str(tmp_path / "nothing.toml"), tmp_path):
        with pytest.raises(SourceError, match=r"cannot read the benchmark .*"):
            load_benchmark(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[id]", "[id"), "mine.toml is not TOML"),
        (("[id]", "[it]"), r"the table \[id\] is missing"),
        (("[[ood]]", "[[odd]]"), r"give at least one table \[\[ood\]\]"),
        (("[[ood]]", "[ood]"), r"give at least one table \[\[ood\]\]"),
        (('title = "My birds"\n', ""), "id: field 'title' is missing"),
        (('source = "Me, 2025"\n', ""), "mine.toml: field 'source' is missing"),
        (('title = "My beetles"', 'tittle = "My beetles"'), "number 1: unknown field 'tittle'. Did you mean 'title'"),
        (('title = "My beetles"', 'title = 7'), "ood number 1: field 'title' must be a string, not 7"),
        (('title = "My beetles"', 'title = " "'), "field 'title' is empty"),
        (("[[ood]]", "[[ood]]\nsize = true"), "field 'size' must be a whole number, not True"),
        (("[[ood]]", '[[ood]]\nsize = "10"'), "field 'size' must be a whole number, not '10'"),
        (("[[ood]]", "[[ood]]\nsize = 0"), "field 'size' must be at least 1, not 0"),
        (("[[ood]]", '[[ood]]\ncautions = "one"'), "field 'cautions' must be a list of strings, not 'one'"),
        (("[[ood]]", '[[ood]]\ncautions = [""]'), "field 'cautions' must be a list of strings"),
        (('name = "beetles"', 'name = "a:b"'), "ood number 1: field 'name': 'a:b' cannot name a data set"),
        (('name = "birds"', 'name = "my/birds"'), "id: field 'name': 'my/birds' cannot name a data set"),
        (("[id]", '[id]\ntrain = "a b"'), "id: field 'train': 'a b' cannot name a split"),
        (("[id]", '[id]\ntrain = "test"'), "id: fields 'train' and 'test' are both 'test'"),
        (("[id]", '[id]\ntemplates = "plp5"'), "id: field 'templates': unknown template set 'plp5'.*Known: mcm"),
        (("[id]", '[id]\nclasses = 3\nclass_names = ["jay"]'), "'class_names' has 1 names, and 'classes' is 3"),
        (('name = "beetles"', 'name = "birds"'), "birds/test is there twice"),
        (('name = "mine"', 'name = "mine"\nood_groups = 1'), "mine.toml: unknown field 'ood_groups'"),
    ],
)  # fmt: skip
def test_what_is_no_benchmark_says_file_and_field(tmp_path, change, message):
    assert change[0] in MINE
    with pytest.raises(UsageError, match=message) as caught:
        load_benchmark(written(tmp_path, MINE.replace(*change, 1)))
    assert "mine.toml" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(UsageError, match=r"mine.toml is not TOML"):
        load_benchmark(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_missing_says_where_to_get_it(name):
    benchmark = load_benchmark(name)
    found = missing(benchmark, {})
    assert [(one.dataset, one.split, one.size) for one in found] == [
        (*k, size) for k, size in benchmark.expected.items()
    ]
    assert found[0].dataset == found[1].dataset == benchmark.id.name
    for one in found:
        assert re.search(r"https?://", one.where)
        assert f"--dataset {one.dataset} --split {one.split}" in one.command
        assert one.command.startswith("embedstore extract ")
    assert all(f"--templates {benchmark.id.templates}" in one.command for one in found[:2])
    assert not any("--templates" in one.command for one in found[2:])
    have = everything(benchmark)
    assert missing(benchmark, have) == []
    for lacking in found:
        without = {dataset: splits - {lacking.split} if dataset == lacking.dataset else splits
                   for dataset, splits in have.items()}  # fmt: skip
        assert lacking in missing(benchmark, without)


def test_commands_that_fetch_the_images_themselves_and_others():
    test, cifar100 = (one.command for one in missing(load_benchmark("cifar10"), {"cifar10": ["train"]}))
    assert test.startswith(
        "embedstore extract torchvision:CIFAR10 --store STORE --model MODEL --dataset cifar10 --split"
    )
    assert test.endswith(" --split test --templates plp"), "torchvision knows the class names"
    assert cifar100 == (
        "embedstore extract torchvision:CIFAR100 --store STORE --model MODEL --dataset cifar100 --split test"
    )
    train, *_, imagenet_o = (one.command for one in missing(load_benchmark("imagenet"), {}))
    assert train.startswith("embedstore extract FOLDER ")
    assert train.endswith("--dataset imagenet --split train --classes imagenet:openai --templates plp")
    assert imagenet_o == "embedstore extract FOLDER --store STORE --model MODEL --dataset imagenet-o --split test"


def test_sizes_that_are_not_the_benchmarks():
    benchmark = load_benchmark("openood-imagenet200")
    have = {("imagenet200", "train"): 7, ("ninco", "test"): 5_878, ("ssb-hard", "test"): 49_000, ("other", "test"): 1}
    assert sizes(benchmark, have) == [
        "ninco/test has 5,878 images, and the benchmark openood-imagenet200 expects 5,879"
    ]
    assert sizes(benchmark, {}) == []


def test_class_names_that_are_not_the_benchmarks(tmp_path):
    benchmark = load_benchmark("cifar100")
    names = list(benchmark.id.class_names)
    assert classes(benchmark, names) == []
    assert classes(benchmark, names[:-1]) == ["cifar100 has 99 classes, and the benchmark cifar100 expects 100"]
    assert classes(benchmark, [name.replace(" ", "_") for name in names]) == [
        "9 of 100 class names of cifar100 are not those of the benchmark cifar100: "
        "class 1 is 'aquarium_fish', there 'aquarium fish'"
    ]
    imagenet = load_benchmark("imagenet")
    assert classes(imagenet, ["crane"] * 1000) == [], "the wording is the study's"
    assert classes(imagenet, ["tench"]) == ["imagenet has 1 classes, and the benchmark imagenet expects 1,000"]
    own = load_benchmark(written(tmp_path, MINE.replace("[id]", '[id]\nclass_names = ["jay", "owl"]')))
    assert classes(own, ["jay"]) == ["birds has 1 classes, and the benchmark mine expects 2"]
    assert classes(load_benchmark(written(tmp_path, MINE)), ["anything"]) == []


def test_every_field_has_a_type_that_the_reader_knows():
    for kind in (IdSet, OodSet, Benchmark):
        known = {"str", "int | None", "tuple[str, ...]", "IdSet", "tuple[OodSet, ...]"}
        assert {str(field.type) for field in fields(kind)} <= known
