"""Gradients through models of every kind, and an attack on a small real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_models import CONFIGS, batch_of, cosines, joint, pictures, save
from PIL import Image

from embedstore.attack import Options, Side, attack, perturb
from embedstore.attack.craft import keeps_pixels
from embedstore.attack.objective import Toward
from embedstore.cli import main
from embedstore.encoders import differentiable, load_encoder
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import ModelUnavailable
from embedstore.sources import open_source
from embedstore.store import Store

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: f"local-dir:{save(root / name, config)}" for name, config in CONFIGS.items()}


def assert_same_as_images(encoder: Any, tolerance: float) -> None:
    view = differentiable(encoder)
    images = pictures(3, side=50)
    pixels = torch.stack([view.pixels(image) for image in images])
    assert pixels.dtype == view.dtype
    assert 0 <= pixels.min() < pixels.max() <= 1
    expected = encoder.images(batch_of(encoder, images))
    features = view.features(pixels.requires_grad_())
    assert features.dtype == view.dtype
    np.testing.assert_allclose(features.detach(), expected.features, rtol=tolerance, atol=tolerance)
    found = view.joint(features).detach()
    np.testing.assert_allclose(found, joint(encoder, expected), rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_differentiable_view_is_the_same_function(folders: dict[str, str], name: str) -> None:
    encoder = load_encoder(folders[name])
    assert_same_as_images(encoder, 1e-5)
    view = differentiable(encoder)
    pixels = torch.stack([view.pixels(image) for image in pictures(2)]).requires_grad_()
    weights = torch.linspace(-1, 1, encoder.provenance.joint_dim)
    (gradient,) = torch.autograd.grad((view.joint(view.features(pixels)) @ weights).sum(), pixels)
    assert gradient.isfinite().all()
    assert (gradient != 0).flatten(1).any(dim=1).all()
    model: Any = encoder
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_so_it_is_with_the_fast_transform(folders: dict[str, str]) -> None:
    encoder = load_encoder(folders["vit"], decode="fast")
    assert_same_as_images(encoder, 1e-5)
    assert keeps_pixels(differentiable(encoder))


@pytest.mark.parametrize("variant", ["", "mlp"])
def test_the_fake_encoders_view_is_the_same_function(variant: str) -> None:
    assert_same_as_images(FakeEncoder(variant), 1e-6)


def test_a_timm_models_view_is_the_same_function(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), tmp_path / "mine.safetensors")
    encoder = load_encoder(f"timm:test_vit//{tmp_path / 'mine.safetensors'}")
    assert_same_as_images(encoder, 1e-5)
    for image in (pictures(1)[0].convert(mode) for mode in ("L", "RGBA", "P")):
        assert differentiable(encoder).pixels(image).shape == (3, 160, 160)
    # It scales to 168 pixels and crops 160: its own attack's files are other pixels to it.
    assert encoder.provenance.preprocess["crop_pct"] < 1
    assert not keeps_pixels(differentiable(encoder))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_lower_precision_gradients_point_the_same_way(folders: dict[str, str], precision: str) -> None:
    """As small and as large as in large models: without scaling, float16 would have zeros of them, or infinities."""
    gradients = []
    for chosen in ("fp32", precision):
        view = differentiable(load_encoder(folders["vit"], precision=chosen))
        pixels = torch.stack([view.pixels(image) for image in pictures(4)]).requires_grad_()
        target = torch.linspace(-1, 1, 32).expand(4, -1)
        similarity = Toward(target)(view, view.features(pixels), slice(0, 4))
        weights = torch.tensor([1e-4, 1e-2, 1e2, 1e4])
        (gradient,) = torch.autograd.grad((weights * similarity).sum(), pixels)
        gradients.append(gradient.flatten(1).numpy())
    assert cosines(*gradients).min() > 0.99
    np.testing.assert_allclose(*(np.linalg.norm(each, axis=1) for each in gradients), rtol=0.05)


def test_preprocessing_that_does_not_end_with_normalisation_is_refused(folders: dict[str, str]) -> None:
    encoder: Any = load_encoder(folders["vit"])
    encoder.preprocess.transforms.append(torch.nn.Identity())
    with pytest.raises(ModelUnavailable, match="ends with Identity and not with Normalize"):
        differentiable(encoder)
    encoder.preprocess = lambda image: image
    with pytest.raises(ModelUnavailable, match="ends with function"):
        differentiable(encoder)


@pytest.mark.parametrize("name", ["vit", "rn", "timm-mlp"])
def test_a_small_model_is_fooled_whatever_the_batch(folders: dict[str, str], name: str) -> None:
    from embedstore.attack import Batches

    view = differentiable(load_encoder(folders[name]))
    assert keeps_pixels(view)
    pixels = torch.stack([view.pixels(image) for image in pictures(6)])
    objective = Toward(view.features(pixels.flip(0)).detach())
    options = Options(steps=20, smoothness=0.0, lr=0.005)
    seeds = [(0, row) for row in range(6)]
    one, all_at_once = (
        perturb(view, pixels, objective, options, seeds=seeds, batches=Batches(size)) for size in (1, 6)
    )
    assert (all_at_once.similarity > all_at_once.similarity_before).all()
    np.testing.assert_allclose(one.similarity, all_at_once.similarity, atol=5e-3)
    # The sign of a gradient near zero may hang on rounding, so a pixel may differ; not many do.
    assert np.mean(np.abs(one.images - all_at_once.images) > 1e-3) < 0.02


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="needs ../shared with real images and models")
def test_a_real_model_on_real_photographs(tmp_path: Path) -> None:
    """Extracted again by the command, the files give the features that the attack measured after rounding."""
    model, store = f"local-dir:{SHARED / 'models' / 'lite0-56'}", str(tmp_path / "store.zarr")
    sides = []
    for dataset, split in (("cifar10", "test"), ("cifar100", "train")):
        place = str(SHARED / "data" / dataset)
        main(
            ["extract", place, "--split", split, "--limit", "40", "--model", model, "--store", store, "--quiet"],
            standalone_mode=False,
        )
        sides.append(Side(open_source(place, split=split), dataset, split))
    encoder = load_encoder(model)
    assert keeps_pixels(differentiable(encoder))
    out = tmp_path / "out"
    made = attack(Store.open(store), encoder, *sides, out, num=6, options=Options(steps=30))
    assert (made.arrays["similarity"] > made.arrays["similarity_before"] + 0.1).all()
    stored = Store.open(store).images("lite0-56", "cifar10", "test").embedded()
    assert cosines(made.arrays["features_clean"], stored[made.arrays["ood_row"]]).min() > 0.9999
    for split, name in (("adversarial", "features_rounded"), ("clean", "features_clean")):
        arguments = ["extract", str(out / split), "--dataset", "attacked", "--split", split, "--store", store]
        main([*arguments, "--model", model, "--quiet"], standalone_mode=False)
        again = Store.open(store).images("lite0-56", "attacked", split)
        assert again.keys.tolist() == made.arrays["keys"].tolist()
        assert cosines(again.embedded(), made.arrays[name]).min() > 0.9999
    size = Image.open(next(_pngs(out / "adversarial"))).size
    assert size == (56, 56)


def _pngs(folder: Path) -> Any:
    import io
    import tarfile

    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".png"):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield io.BytesIO(file.read())
