"""Where models come from: tags, weights files, folders, the hub; and one clear error when they cannot be had."""

import json
import socket

import numpy as np
import pytest
from encoder_models import CONFIGS, batch_of, pictures, save

from embedstore.encoders import load_encoder
from embedstore.errors import ModelUnavailable, UnknownName, UsageError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name, CONFIGS[name]) for name in ("vit", "rn")}


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The hub as on a machine without a network and without a cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """`tiny`, an architecture built into open_clip, with a tag whose weights were trained with QuickGELU."""
    import open_clip
    from open_clip import factory, pretrained

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    weights = save(tmp_path / "made", CONFIGS["vit"]) / "open_clip_model.safetensors"
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIGS["vit"]))
    open_clip.add_model_config(tmp_path / "tiny.json")
    tags = {"quick": {"file": str(weights), "quick_gelu": True}, "plain": {"file": str(weights)}}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    return weights


def test_weights_from_a_file(tiny, folders):
    encoder = load_encoder(f"tiny//{tiny}")
    assert (encoder.provenance.name, encoder.provenance.pretrained) == ("open_clip_model", "local")
    assert encoder.provenance.weights_sha256 == load_encoder(f"local-dir:{folders['vit']}").provenance.weights_sha256
    # The grammar's second slash may also be meant as the path's first.
    assert load_encoder(f"tiny/{tiny}").provenance.architecture == "tiny"


def test_the_tag_decides_about_quick_gelu(tiny):
    """Where open_clip alone would warn, and compute with the wrong activation."""
    quick, plain = load_encoder("tiny/quick"), load_encoder("tiny,plain")
    assert quick.provenance.quick_gelu
    assert not plain.provenance.quick_gelu
    assert (quick.provenance.name, quick.provenance.architecture, quick.provenance.pretrained) == (
        "tiny/quick",
        "tiny",
        "quick",
    )
    batch = batch_of(quick, pictures(1))
    assert not np.allclose(quick.images(batch).features, plain.images(batch).features, atol=1e-4)


def test_weights_that_do_not_fit_or_are_not_there(tiny, folders, tmp_path):
    with pytest.raises(ModelUnavailable, match="there is no weights file"):
        load_encoder("tiny//nowhere.pt")
    other = folders["rn"] / "open_clip_model.safetensors"
    with pytest.raises(ModelUnavailable, match=r"Looked for the file .*Missing key"):
        load_encoder(f"tiny//{other}")
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnavailable, match=r"bad\.safetensors"):
        load_encoder(f"tiny//{tmp_path / 'bad.safetensors'}")


def test_a_pickle_that_runs_code_is_refused(tiny, tmp_path):
    import torch

    torch.save({"state_dict": Trap(str(tmp_path / "sprung"))}, tmp_path / "trap.pt")
    for spec in ("tiny", "timm:test_vit"):
        with pytest.raises(ModelUnavailable):
            load_encoder(f"{spec}//{tmp_path / 'trap.pt'}")
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Touches a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_folders_that_cannot_be_loaded(folders, tmp_path):
    with pytest.raises(ModelUnavailable, match="there is no folder"):
        load_encoder(f"local-dir:{tmp_path / 'nowhere'}")
    empty = tmp_path / "model"
    empty.mkdir()
    with pytest.raises(ModelUnavailable, match=r"has no open_clip_config\.json"):
        load_encoder(f"local-dir:{empty}")
    (empty / "open_clip_config.json").write_bytes((folders["vit"] / "open_clip_config.json").read_bytes())
    with pytest.raises(ModelUnavailable, match="has no weights"):
        load_encoder(f"local-dir:{empty}")
    (empty / "model.safetensors").write_bytes((folders["vit"] / "open_clip_model.safetensors").read_bytes())
    (empty / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="model_cfg"):
        load_encoder(f"local-dir:{empty}")


def test_names_nobody_knows():
    with pytest.raises(
        UnknownName, match=r"open_clip architecture 'ViT-B-23'. Did you mean 'ViT-B-32'\?.* more, see"
    ) as caught:
        load_encoder("ViT-B-23/openai")
    assert len(str(caught.value)) < 500
    with pytest.raises(
        UnknownName, match=r"pretrained tag of ViT-B-32 'opnai'. Did you mean 'openai'\?.*laion2b_s34b_b79k"
    ):
        load_encoder("ViT-B-32/opnai")
    with pytest.raises(UnknownName, match="local-dir:PATH"):
        load_encoder("lite0-224")
    with pytest.raises(UnknownName, match=r"timm model 'resnet5o'. Did you mean 'resnet50'\?.* more, see") as caught:
        load_encoder("timm:resnet5o")
    assert len(str(caught.value)) < 500
    with pytest.raises(UnknownName, match=r"pretrained tag of test_vit 'r160'. .*r160_in1k"):
        load_encoder("timm:test_vit.r160")


def test_an_architecture_without_weights_is_refused_with_its_tags():
    with pytest.raises(UsageError, match=r"'ViT-B-32' has no weights without a tag: .*laion2b_s34b_b79k.*openai"):
        load_encoder("ViT-B-32")


@pytest.mark.parametrize(
    ("spec", "looked_for"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K on the Hugging Face Hub"),
        ("hf-hub:org/repo", "hf-hub:org/repo on the Hugging Face Hub"),
        ("timm:test_vit", "timm:test_vit//WEIGHTS"),
    ],
)
def test_no_network_and_no_cache_is_one_error_that_helps(no_network, spec, looked_for):
    with pytest.raises(ModelUnavailable, match=looked_for) as caught:
        load_encoder(spec)
    assert all(word in str(caught.value) for word in ("Looked for", "HF_HOME", "HF_HUB_OFFLINE=1", "//WEIGHTS"))
    assert caught.value.__cause__ is not None


def test_an_unreachable_hub_is_not_asked_six_times(monkeypatch):
    from huggingface_hub import constants

    from embedstore.encoders.runtime import prompt_hub

    def fail(*args):
        raise socket.gaierror

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with prompt_hub():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    with prompt_hub(needed=False):
        assert not constants.HF_HUB_OFFLINE
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    with prompt_hub():
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there(folders, device):
    with pytest.raises(UsageError, match=device):
        load_encoder(f"local-dir:{folders['vit']}", device=device)
