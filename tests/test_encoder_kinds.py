"""The image-only encoder (timm) and the fake one."""

import json
import pickle

import numpy as np
import pytest
from encoder_models import batch_of, pictures

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
