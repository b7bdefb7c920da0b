"""Transforms in two halves: bytes and their normalisation give, bit for bit, what the whole transform gives."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import encoder_models
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms

from embedstore.encoders import load_encoder
from embedstore.encoders.defences import Defence, with_defence
from embedstore.encoders.fake import FakeEncoder, shrink
from embedstore.encoders.fast import fast_transform
from embedstore.encoders.levels import levels
from embedstore.extract import embed_images, list_rows, loading
from embedstore.extract.plan import make_plan
from embedstore.extract.reembed import embed_again
from embedstore.sources import open_source
from embedstore.store import Store


def clip(**config: Any) -> Callable[[Any], Any]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**{"size": 32, **config}), is_train=False)


def timm(**config: Any) -> Callable[[Any], Any]:
    from timm.data import create_transform

    transform: Any = create_transform((3, 32, 32), is_training=False, **config)
    return transform


def fast() -> Callable[[Any], Any]:
    found = fast_transform(clip())
    assert found is not None
    return found


def defended(kind: str, strength: float, make: Callable[[], Callable[[Any], Any]] = clip) -> Callable[[Any], Any]:
    encoder: Any = FakeEncoder()
    encoder.preprocess = make()
    return with_defence(encoder, Defence(kind, strength)).preprocess


TRANSFORMS: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "shortest": clip,
    "bilinear": partial(clip, interpolation="bilinear"),
    "longest": partial(clip, resize_mode="longest"),
    "squash": partial(clip, resize_mode="squash"),
    "other means": partial(clip, mean=(0.5, 0.1, 0.9), std=(0.5, 0.3, 0.7)),
    "timm": timm,
    "timm, cut": partial(timm, crop_pct=0.8, interpolation="bilinear"),
    "no normalisation": lambda: transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()]),
    "fast": fast,
    "jpeg": partial(defended, "jpeg", 60),
    "blur of fast": partial(defended, "blur", 1.0, fast),
}


@cache
def made(name: str) -> Callable[[Any], Any]:
    return TRANSFORMS[name]()


@pytest.mark.parametrize("name", TRANSFORMS)
@example(width=48, height=48, seed=0, smooth=True)  # nothing is cut off
@given(width=st.integers(4, 90), height=st.integers(4, 90), seed=st.integers(0, 9), smooth=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_halves_give_what_the_whole_gives(name, width, height, seed, smooth):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    images = [Image.fromarray(noise), ImageOps.mirror(Image.fromarray(noise))]
    if smooth:
        images = [image.resize((3, 2)).resize((width, height)) for image in images]
    halves = levels(made(name))
    assert halves is not None
    pixels = torch.stack([halves.to_bytes(image) for image in images])
    # Channels last in memory, a batch would go through other convolutions, which round otherwise.
    assert (pixels.dtype, pixels.is_contiguous()) == (torch.uint8, True)
    whole = torch.stack([made(name)(image) for image in images])
    found = halves.normalized(pixels)
    assert found.dtype == whole.dtype == torch.float32
    assert torch.equal(found, whole)
    assert torch.equal(halves.normalized(pixels[0]), whole[0])
    again = pickle.loads(pickle.dumps(halves.to_bytes))
    assert torch.equal(again(images[0]), pixels[0])


class Brighter:
    """After the tensor, and no normalisation."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels + 0.1).clip(0, 1)


TENSOR, NORMALIZE = transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    "transform",
    [
        shrink,
        lambda image: image,
        transforms.Compose([transforms.Resize(32)]),
        transforms.Compose([TENSOR, Brighter(), NORMALIZE]),
        transforms.Compose([TENSOR, NORMALIZE, Brighter()]),
        transforms.Compose([TENSOR, NORMALIZE, NORMALIZE]),
        transforms.Compose([TENSOR, transforms.RandomHorizontalFlip(1.0), NORMALIZE]),
        transforms.Compose([TENSOR, transforms.Grayscale(3), NORMALIZE]),
        transforms.Compose([TENSOR, transforms.Resize(8), NORMALIZE]),
        transforms.Compose([TENSOR, NORMALIZE, transforms.ConvertImageDtype(torch.float64)]),
        transforms.Compose([transforms.Grayscale(1), TENSOR, transforms.Normalize((0.5,), (0.2,))]),
        transforms.Compose([transforms.PILToTensor()]),
        transforms.Compose([transforms.Resize(32), TENSOR, transforms.CenterCrop(16), NORMALIZE]),
        transforms.Compose([TENSOR, transforms.RandomHorizontalFlip(0.5)]),
        transforms.Compose([transforms.Grayscale(1), TENSOR]),
        transforms.Compose([transforms.PILToTensor(), NORMALIZE]),
        transforms.Compose([TENSOR, transforms.Normalize(0.5, 0.5)]),  # type: ignore[arg-type]
        defended("jpeg", 60, lambda: transforms.Compose([transforms.Resize(32), TENSOR, Brighter()])),
    ],
)
def test_other_transforms_are_left_whole(transform):
    assert levels(transform) is None


def test_a_gpu_divides_as_a_cpu_does(monkeypatch):
    """By a number it would multiply with the reciprocal, which rounds otherwise; nothing here could tell."""
    operations = {name: getattr(torch.Tensor, name) for name in ("div_", "sub_")}

    def by_tensors(name: str, mine: torch.Tensor, other: Any) -> Any:
        assert isinstance(other, torch.Tensor)
        assert other.shape == (3, 1, 1)
        return operations[name](mine, other)

    for name in operations:
        monkeypatch.setattr(torch.Tensor, name, lambda mine, other, name=name: by_tensors(name, mine, other))
    halves = levels(made("shortest"))
    assert halves is not None
    assert halves.normalized(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).shape == (1, 3, 2, 2)


def test_what_is_cut_off_does_not_wait_in_memory():
    for name in ("shortest", "fast"):
        halves = levels(made(name))
        assert halves is not None
        assert halves.to_bytes(Image.new("RGB", (4000, 100))).untyped_storage().nbytes() == 3 * 32 * 32


@pytest.fixture
def vit(tmp_path: Path) -> Any:
    folder = encoder_models.save(tmp_path / "vit", encoder_models.CONFIGS["vit"])
    return load_encoder(f"local-dir:{folder}", device="cpu")


def test_whoever_embeds_normalises(vit: Any, pictures: Path, tmp_path: Path) -> None:
    source, store = open_source(str(pictures / "pets/train")), Store.create(tmp_path / "s.zarr")
    assert make_plan(None, vit, source, block_rows=4, workers=0).images_per_second is not None
    split = list_rows(store, source, block_rows=4)
    store.add_model(vit.provenance, vit.projection)
    embed_images(store, vit, source, split, workers=0)
    found = embed_again(store, vit, source, 8)
    assert (found.rows, found.problems) == (8, ())
    assert found.smallest_cosine > 0.99999


def test_what_travels_is_bytes_and_the_store_is_the_same(vit: Any, pictures: Path, tmp_path: Path, monkeypatch) -> None:
    encoder, source = vit, open_source(str(pictures / "pets/train"))
    travelled = []
    pixels_on = loading.Batch.on

    def watched(batch: loading.Batch, device: str) -> Any:
        found = pixels_on(batch, device)
        travelled.append((batch.pixels.dtype, found.dtype))
        return found

    monkeypatch.setattr(loading.Batch, "on", watched)

    def features(place: str) -> bytes:
        store = Store.create(tmp_path / place)
        split = list_rows(store, source, block_rows=4)
        store.add_model(encoder.provenance, encoder.projection)
        embed_images(store, encoder, source, split, batch_size=3, workers=0)
        return store.images(encoder.provenance.name, split.dataset, split.split).features[:].tobytes()

    halved = features("halved.zarr")
    assert set(travelled) == {(torch.uint8, torch.float32)}
    travelled.clear()
    monkeypatch.setattr(loading, "levels", lambda preprocess: None)
    whole = features("whole.zarr")
    assert set(travelled) == {(torch.float32, torch.float32)}
    assert halved == whole
