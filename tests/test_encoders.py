"""The open_clip encoder against the models it wraps: small towers of every kind, and small real models."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from encoder_models import CONFIGS, VIT, batch_of, cosines, joint, oracle, pictures, save

from embedstore.encoders import load_encoder
from embedstore.records import Provenance

# Width of the features, and which kind of projection: a matrix, the identity, or none.
EXPECTED = {
    "vit": (32, "matrix"),
    "vit-avg": (32, "matrix"),
    "timm-linear": (256, "matrix"),
    "timm-bias": (256, "none"),
    "timm-mlp": (256, "none"),
    "timm-attention": (16, "matrix"),
    "timm-attention-only": (16, "identity"),
    "timm-classifier": (12, "identity"),
    "rn": (12, "identity"),
    "coca": (12, "matrix"),
}
REAL = Path(__file__).resolve().parents[2] / "shared" / "models"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name, config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def vit(folders):
    return load_encoder(f"local-dir:{folders['vit']}")


@pytest.mark.parametrize("name", CONFIGS)
def test_features_times_projection_are_the_models_own_embedding(folders, name):
    import torch

    encoder = load_encoder(f"local-dir:{folders[name]}")
    model, preprocess = oracle(folders[name])
    images = pictures(5)
    batch = batch_of(encoder, images)
    assert torch.equal(batch, torch.stack([preprocess(image) for image in images]))
    with torch.no_grad():
        theirs = model.encode_image(batch, normalize=False).numpy()
    out = encoder.images(batch)
    np.testing.assert_allclose(joint(encoder, out), theirs, rtol=1e-4, atol=1e-5)
    assert cosines(joint(encoder, out), theirs).min() > 0.9999
    # The model stays whole, and is what the oracle is.
    with torch.no_grad():
        assert np.array_equal(encoder.model.encode_image(batch, normalize=False).numpy(), theirs)

    width, kind = EXPECTED[name]
    assert out.features.shape == (5, width)
    assert out.features.dtype == np.float32
    assert (encoder.provenance.feature_dim, encoder.provenance.joint_dim) == (width, theirs.shape[1])
    if kind == "none":
        assert encoder.projection is None
        assert out.projected.shape == theirs.shape
    else:
        assert out.projected is None
        assert encoder.projection.dtype == np.float32
        assert encoder.projection.flags.c_contiguous
        assert np.array_equal(encoder.projection, np.eye(width)) == (kind == "identity")


@pytest.mark.parametrize("name", ["vit", "coca"])
def test_features_of_a_vit_are_what_the_papers_code_stores(folders, name):
    """It sets ``visual.proj = None`` and calls the tower."""
    import torch

    encoder = load_encoder(f"local-dir:{folders[name]}")
    model, _ = oracle(folders[name])
    model.visual.proj = None
    batch = batch_of(encoder, pictures(3))
    with torch.no_grad():
        out = model.visual(batch)
    theirs = out[0] if isinstance(out, tuple) else out
    np.testing.assert_allclose(encoder.images(batch).features, theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "coca", "timm-linear"])
def test_texts_are_unit_vectors_in_order_across_batches(folders, name, monkeypatch):
    import open_clip
    import torch

    from embedstore.encoders import clip

    monkeypatch.setattr(clip, "_TEXTS_A_BATCH", 3)
    encoder = load_encoder(f"local-dir:{folders[name]}")
    texts = [f"a photo of {i} cats" for i in range(7)]
    vectors = encoder.texts(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    model, _ = oracle(folders[name])
    with torch.no_grad():
        theirs = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folders[name]}")(texts), normalize=True)
    np.testing.assert_allclose(vectors, theirs.numpy(), atol=1e-5)
    assert encoder.texts([]).shape == (0, 12)


def test_provenance_tells_what_was_loaded(vit):
    found = vit.provenance
    assert (found.name, found.pretrained, found.precision, found.dtype) == ("vit", "local", "fp32", "float16")
    assert found.architecture.startswith("CLIP-VisionTransformer-")
    assert found.preprocess["size"] == [32, 32]
    assert found.preprocess["mean"] == [0.5] * 3
    assert found.preprocess["interpolation"] == "bicubic"
    assert found.preprocess["resize_mode"] == "shortest"
    assert found.tokenizer.startswith("SimpleTokenizer, context 16, vocabulary 49408, probe ")
    assert found.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert {"torch", "torchvision", "open_clip", "timm", "pillow", "numpy"} <= set(found.versions)
    assert Provenance.from_json(json.loads(json.dumps(found.to_json()))).difference(found) is None


def test_two_loads_agree_and_one_changed_number_is_noticed(folders, vit, tmp_path):
    from safetensors.torch import load_file, save_file

    assert load_encoder(f"local-dir:{folders['vit']}").provenance.fingerprint() == vit.provenance.fingerprint()
    folder = save(tmp_path / "vit", CONFIGS["vit"])
    state = load_file(folder / "open_clip_model.safetensors")
    state["visual.transformer.resblocks.1.mlp.c_fc.bias"][3] += 1e-6
    save_file(state, folder / "open_clip_model.safetensors")
    changed = load_encoder(f"local-dir:{folder}").provenance
    assert changed.difference(vit.provenance).startswith("weights_sha256")


def test_the_same_weights_in_another_configuration_are_another_model(folders, vit, tmp_path):
    config = CONFIGS["vit"] | {"vision_cfg": VIT | {"head_width": 32}}
    folder = save(tmp_path / "vit", config)
    found = load_encoder(f"local-dir:{folder}").provenance
    assert found.weights_sha256 == vit.provenance.weights_sha256
    assert found.difference(vit.provenance).startswith("architecture")


def test_the_hash_covers_name_dtype_shape_and_bytes_and_not_the_order():
    import torch

    from embedstore.encoders.runtime import weights_sha256

    base = {"a": torch.zeros(4), "b": torch.tensor(1)}
    same = weights_sha256(base)
    assert weights_sha256(dict(reversed(base.items()))) == same
    assert weights_sha256(base | {"a": torch.zeros(8)[::2]}) == same
    others = [
        {"a": torch.zeros(4), "c": torch.tensor(1)},
        base | {"a": torch.zeros(2, 2)},
        base | {"a": torch.zeros(4, dtype=torch.int32)},
        base | {"b": torch.tensor(2)},
        base | {"a": torch.tensor([0, 0, 0, -0.0])},
    ]
    assert len({same, *map(weights_sha256, others)}) == 6


def test_quick_gelu_is_seen_in_the_model(folders, vit):
    assert load_encoder(f"local-dir:{folders['vit-avg']}").provenance.quick_gelu
    assert not vit.provenance.quick_gelu


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_close_but_not_equal_and_float32_outside(folders, vit, precision):
    low = load_encoder(f"local-dir:{folders['vit']}", precision=precision)
    batch = batch_of(vit, pictures(4))
    found, full = low.images(batch).features, vit.images(batch).features
    assert found.dtype == np.float32
    assert not np.array_equal(found, full)
    assert cosines(found, full).min() > 0.999
    assert low.provenance.difference(vit.provenance) == f"precision: {precision!r} against 'fp32'"
    np.testing.assert_allclose(np.linalg.norm(low.texts(["a cat"]), axis=1), 1, atol=1e-6)


def test_the_model_is_frozen(vit):
    assert not vit.model.training
    assert not any(parameter.requires_grad for parameter in vit.model.parameters())


def test_preprocess_travels_without_the_model(vit):
    data = pickle.dumps(vit.preprocess)
    assert len(data) < 4000
    image = pictures(1)[0]
    assert np.array_equal(np.asarray(pickle.loads(data)(image)), np.asarray(vit.preprocess(image)))


def test_loading_leaves_logging_alone(folders, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    load_encoder(f"local-dir:{folders['vit']}")
    assert logging.root.handlers == []


def test_a_given_name_wins(folders):
    assert load_encoder(f"local-dir:{folders['vit']}", name="mine/v1").provenance.name == "mine/v1"


# Real models


# Real models


# Real models


# Real models


@pytest.mark.skipif(not REAL.is_dir(), reason="no development models in ../shared/models")
@pytest.mark.parametrize("name", ["lite0-56", "lite0-224"])
def test_small_real_models(name):
    import torch

    encoder = load_encoder(f"local-dir:{REAL / name}")
    model, preprocess = oracle(REAL / name)
    images = pictures(8, side=240)
    batch = batch_of(encoder, images)
    assert torch.equal(batch, torch.stack([preprocess(image) for image in images]))
    with torch.no_grad():
        theirs = model.encode_image(batch, normalize=False).numpy()
    out = encoder.images(batch)
    assert out.features.shape == (8, 1280)
    assert encoder.projection.shape == (1280, 256)
    assert cosines(out.features @ encoder.projection, theirs).min() > 0.9999
    alone = np.concatenate([encoder.images(batch[i : i + 1]).features for i in range(8)])
    np.testing.assert_allclose(alone, out.features, rtol=1e-3, atol=1e-4)
    assert encoder.provenance.name == name
    texts = encoder.texts(["a photo of a cat.", "a picture of a cat.", "a photo of a truck."])
    assert texts[0] @ texts[1] > texts[0] @ texts[2]
