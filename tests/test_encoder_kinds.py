"""The image-only encoder (timm) and the fake one."""

import json
import pickle

import numpy as np
import pytest
from encoder_models import CONFIGS, batch_of, pictures, save

from embedstore.encoders import load_encoder
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import ModelUnavailable, NotAvailable
from embedstore.records import Provenance


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "mine.safetensors"
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), path)
    return path


def test_a_timm_backbone_gives_its_pooled_output(timm_file):
    import timm
    import torch

    encoder = load_encoder(f"timm:test_vit//{timm_file}")
    model = timm.create_model("test_vit", num_classes=7, checkpoint_path=str(timm_file)).eval()
    batch = batch_of(encoder, pictures(3))
    with torch.no_grad():
        theirs = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    np.testing.assert_allclose(encoder.images(batch).features, theirs, rtol=1e-4, atol=1e-5)
    assert np.array_equal(encoder.projection, np.eye(theirs.shape[1], dtype=np.float32))
    found = encoder.provenance
    assert (found.name, found.architecture, found.pretrained) == ("mine", "timm:test_vit", "local")
    assert (found.tokenizer, found.logit_scale) == (None, None)
    assert found.preprocess["input_size"] == [3, 160, 160]
    assert not encoder.has_text
    with pytest.raises(NotAvailable, match="image-only"):
        encoder.texts(["a cat"])


def test_size_and_operations_of_an_image_tower_are_those_counted_by_hand(tmp_path):
    """The ViT of 4 patches and a class token, 5 rows of width 32, in two layers with an MLP four times as wide."""
    width, rows, patch = 32, 5, 3 * 16 * 16
    layer = rows * width * 3 * width + 2 * rows * rows * width + rows * width * width + 2 * rows * width * 4 * width
    multiplications = 4 * patch * width + 2 * layer
    found = load_encoder(f"local-dir:{save(tmp_path / 'vit', CONFIGS['vit'])}").provenance
    assert found.gflops == pytest.approx(2 * multiplications / 1e9, rel=5e-3)
    per_layer = 4 * (width * width + width) + 8 * width * width + 5 * width + 2 * 2 * width
    assert found.parameters == patch * width + width + rows * width + 2 * 2 * width + 2 * per_layer + width * 12
    assert Provenance.from_json(found.to_json()) == found
    early = {name: value for name, value in found.to_json().items() if name not in ("parameters", "gflops")}
    assert Provenance.from_json(early).fingerprint() == found.fingerprint(), (
        "stores of early versions are the same model's"
    )
    assert Provenance.from_json(early).to_json() == early


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_timm_preprocessing_takes_every_kind_of_picture(timm_file, mode):
    encoder = load_encoder(f"timm:test_vit//{timm_file}")
    image = pictures(1)[0].convert(mode)
    assert encoder.preprocess(image).shape == (3, 160, 160)


def test_timm_weights_of_another_model_are_not_half_loaded(timm_file):
    with pytest.raises(ModelUnavailable, match="could not be loaded from"):
        load_encoder(f"timm:test_resnet//{timm_file}")
    with pytest.raises(ModelUnavailable, match=r"nowhere\.pt"):
        load_encoder("timm:test_vit//nowhere.pt")


def test_the_fake_is_an_encoder():
    fake = load_encoder("fake")
    batch = batch_of(fake, pictures(5))
    out = fake.images(batch)
    assert out.features.shape == (5, 24)
    assert out.features.dtype == np.float32
    assert fake.projection.shape == (24, 12)
    assert out.projected is None
    assert fake.provenance.name == "fake"
    assert Provenance.from_json(json.loads(json.dumps(fake.provenance.to_json()))).difference(fake.provenance) is None


def test_a_row_of_the_fake_does_not_depend_on_its_batch():
    fake = FakeEncoder(mlp=True)
    batch = batch_of(fake, pictures(9))
    whole = fake.images(batch)
    for i in range(9):
        alone = fake.images(batch[i : i + 1])
        assert alone.features.tobytes() == whole.features[i].tobytes()
        assert alone.projected.tobytes() == whole.projected[i].tobytes()


def test_variants_of_the_fake_are_different_models():
    a, b = load_encoder("fake:a"), load_encoder("fake:b", dtype="float32")
    assert a.provenance.name == "fake-a"
    assert a.provenance.weights_sha256 != b.provenance.weights_sha256
    assert b.provenance.dtype == "float32"
    assert load_encoder("fake:a").provenance == a.provenance
    batch = batch_of(a, pictures(2))
    assert not np.allclose(a.images(batch).features, b.images(batch).features)


def test_the_fake_can_have_an_mlp_head_and_other_widths():
    assert load_encoder("fake:mlp").projection is None
    fake = FakeEncoder(feature_dim=5, joint_dim=3, mlp=True)
    out = fake.images(batch_of(fake, pictures(2)))
    assert (out.features.shape, out.projected.shape) == ((2, 5), (2, 3))
    assert fake.texts(["a"]).shape == (1, 3)


def test_texts_of_the_fake_depend_on_the_text_alone():
    fake = load_encoder("fake")
    vectors = fake.texts(["a cat", "a dog", "a cat"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1])
    assert fake.texts([]).shape == (0, 12)


def test_preprocess_travels_without_the_model(timm_file):
    for encoder in (load_encoder(f"timm:test_vit//{timm_file}"), FakeEncoder()):
        data = pickle.dumps(encoder.preprocess)
        assert len(data) < 4000
        image = pictures(1)[0]
        assert np.array_equal(np.asarray(pickle.loads(data)(image)), np.asarray(encoder.preprocess(image)))
