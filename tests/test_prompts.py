"""Templates and filling."""

import subprocess
import sys

import pytest

from embedstore import prompts
from embedstore.errors import UnknownName, UsageError
from embedstore.sources import read_classes


def test_the_papers_five_prompts_to_the_letter():
    assert prompts.templates("plp") == (
        "a photo of a {}.",
        "a blurry photo of a {}.",
        "a photo of many {}.",
        "a photo of the large {}.",
        "a photo of the small {}.",
    )


def test_mcms_one_prompt_has_no_full_stop():
    assert prompts.templates("mcm") == ("a photo of a {}",)


@pytest.mark.parametrize(("name", "count"), [("plp", 5), ("mcm", 1), ("simple", 7), ("openai80", 80)])
def test_every_template_has_one_place_for_the_name(name, count):
    found = prompts.templates(name)
    assert len(found) == len(set(found)) == count
    assert all(template.count("{}") == 1 for template in found)


@pytest.mark.parametrize("name", ["simple", "openai80"])
def test_templates_of_open_clip_say_what_open_clip_says(name):
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    theirs = {"simple": SIMPLE_IMAGENET_TEMPLATES, "openai80": OPENAI_IMAGENET_TEMPLATES}[name]
    assert prompts.prompts(["tiger cat"], name) == [[template("tiger cat") for template in theirs]]


def test_an_unknown_set_is_refused_with_the_known_ones():
    message = r"unknown template set 'openai8'. Did you mean 'openai80'\? Known: mcm, openai80, plp, simple\."
    with pytest.raises(UnknownName, match=message):
        prompts.templates("openai8")


@pytest.mark.parametrize("name", ["{", "a {0} b", "{}", "{name}", "100 % {}"])
def test_braces_in_a_class_name_stay_as_they_are(name):
    assert prompts.fill("a photo of a {}.", name) == f"a photo of a {name}."


def test_prompts_are_lists_of_classes_of_templates():
    found = prompts.prompts(["cat", "dog"], "plp")
    assert [len(row) for row in found] == [5, 5]
    assert found[1][1] == "a blurry photo of a dog."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "empty; give one name per class"),
        ("cat", "not the one string 'cat'"),
        (["cat", "", "dog", "  "], "numbers 1, 3"),
        (["cat", 7], "number 1 is 7"),
    ],
)
def test_class_names_that_cannot_be_meant(names, message):
    with pytest.raises(UsageError, match=message):
        prompts.check_class_names(names)
    with pytest.raises(UsageError):
        prompts.prompts(names, "plp")


def test_duplicates_name_all_their_places():
    assert prompts.duplicates(["crane", "cat", "maillot", "crane", "maillot", "crane"]) == [
        ("crane", [0, 3, 5]),
        ("maillot", [2, 4]),
    ]
    assert prompts.duplicates(["cat", "dog"]) == []


def test_prompts_import_nothing_heavy():
    code = (
        "import sys, embedstore.prompts as p; p.templates('plp'); p.templates('mcm'); p.prompts(['cat'], 'plp');"
        "print(sorted({'torch', 'open_clip', 'timm', 'PIL', 'torchvision'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_first_synonyms_of_imagenet_are_those_of_the_released_code() -> None:
    """As counted in the file of the released code: 998 distinct names, 637 of them OpenAI's (docs/methods.md)."""
    first, openai = prompts.class_list("imagenet:first-synonym"), prompts.class_list("imagenet:openai")
    assert (len(first), len(openai)) == (1000, 1000)
    assert prompts.duplicates(first) == [("crane", [134, 517]), ("maillot", [638, 639])]
    assert [name for name, _ in prompts.duplicates(openai)] == ["missile", "sunglasses"]
    assert sum(a == b for a, b in zip(first, openai, strict=True)) == 637
    assert (first[7], first[20], openai[7], openai[20]) == ("cock", "water ouzel", "rooster", "American dipper")
    assert read_classes("imagenet:openai") == openai
    with pytest.raises(UnknownName, match=r"unknown class list 'imagenet:opena'\. Did you mean 'imagenet:openai'"):
        read_classes("imagenet:opena")
