"""How models are spelled, and what they are called. Strings only: nothing here loads a model."""

import subprocess
import sys

import pytest

from embedstore.encoders import ModelSpec, load_encoder, parse_model
from embedstore.errors import UnknownName, UsageError

TABLE = {
    "ViT-B-32/laion2b_s34b_b79k": ("open_clip", "ViT-B-32", "laion2b_s34b_b79k", None, "ViT-B-32/laion2b_s34b_b79k"),
    "ViT-B-32,openai": ("open_clip", "ViT-B-32", "openai", None, "ViT-B-32/openai"),
    "ViT-B-32:openai": ("open_clip", "ViT-B-32", "openai", None, "ViT-B-32/openai"),
    "ViT-B/32,openai": ("open_clip", "ViT-B-32", "openai", None, "ViT-B-32/openai"),
    "open_clip:ViT-B-32/openai": ("open_clip", "ViT-B-32", "openai", None, "ViT-B-32/openai"),
    "open_clip:ViT-B-32:openai": ("open_clip", "ViT-B-32", "openai", None, "ViT-B-32/openai"),
    "hf-hub:org/repo": ("open_clip", "hf-hub:org/repo", None, None, "hf-hub:org/repo"),
    "local-dir:/x/lite0-224": ("open_clip", "local-dir:/x/lite0-224", None, None, "lite0-224"),
    "local-dir:/x/lite0-224/": ("open_clip", "local-dir:/x/lite0-224/", None, None, "lite0-224"),
    "local-dir:lite0-224": ("open_clip", "local-dir:lite0-224", None, None, "lite0-224"),
    "open_clip:local-dir:/x/lite0-224": ("open_clip", "local-dir:/x/lite0-224", None, None, "lite0-224"),
    "ViT-B-32//w/my.v2.safetensors": ("open_clip", "ViT-B-32", None, "w/my.v2.safetensors", "my.v2"),
    "ViT-B-32///w/mine.pt": ("open_clip", "ViT-B-32", None, "/w/mine.pt", "mine"),
    "timm:resnet50.a1_in1k": ("timm", "resnet50.a1_in1k", None, None, "timm:resnet50.a1_in1k"),
    "timm:resnet50//w/mine.pt": ("timm", "resnet50", None, "w/mine.pt", "mine"),
    "fake": ("fake", "fake", None, None, "fake"),
    "fake:a": ("fake", "fake", "a", None, "fake-a"),
    # Bare words may be names in a store.
    "lite0-224": ("open_clip", "lite0-224", None, None, "lite0-224"),
    "ViT-B-32": ("open_clip", "ViT-B-32", None, None, "ViT-B-32"),
}


@pytest.mark.parametrize("spec", TABLE)
def test_spellings(spec):
    assert parse_model(spec) == ModelSpec(*TABLE[spec])


@pytest.mark.parametrize("spec", TABLE)
def test_a_name_is_a_spelling_of_itself(spec):
    name = parse_model(spec).name
    assert parse_model(name).name == name


@pytest.mark.parametrize(
    "spec",
    ["", "ViT-B-32/", "/openai", "ViT-B-32,", ":openai", "hf-hub:", "local-dir:", "timm:", "fake:", "a//", "//b"],
)
def test_empty_parts_are_refused(spec):
    with pytest.raises(UsageError):
        parse_model(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "local-dir:.",
        "local-dir:/",
        "local-dir:/x/..",
        "local-dir:/x/.hidden",
        "local-dir:/x/my model",
        "a/../b",
        "a/b/",
    ],
)
def test_names_that_are_no_safe_path_are_refused_and_the_way_out_named(spec):
    with pytest.raises(UsageError, match="--name"):
        parse_model(spec)
    assert parse_model(spec, name="good/one").name == "good/one"


@pytest.mark.parametrize("name", ["../up", "a//b", "", "/a", "a b", "-a", "a/", "a\n"])
def test_given_names_are_checked_too(name):
    with pytest.raises(UsageError):
        parse_model("fake", name=name)


@pytest.mark.parametrize("name", ["ViT-B-32:openai", "open_clip:a", "fake:x", "local-dir:a"])
def test_a_name_that_reads_as_another_models_spelling_is_refused(name):
    with pytest.raises(UsageError, match="reads as a spelling"):
        parse_model("fake", name=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'.*bf16, fp16, fp32"),
        ({"dtype": "float64"}, "unknown storage dtype 'float64'.*float16, float32"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(UnknownName, match=message):
        load_encoder("fake", **options)


def test_parsing_and_faking_import_nothing_heavy():
    code = (
        "import sys; from embedstore.encoders import load_encoder, parse_model;"
        "parse_model('ViT-B-32/openai'); load_encoder('fake').texts(['a']);"
        "print(sorted({'torch', 'open_clip', 'timm', 'PIL', 'torchvision', 'safetensors'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
