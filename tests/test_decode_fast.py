"""`--decode fast`: the same pixels as torchvision's transforms but for the last bit of some, and said in provenance."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from embedstore.cli import main
from embedstore.encoders import load_encoder
from embedstore.encoders.fast import FastTransform, fast_transform
from embedstore.errors import UnknownName, UsageError
from embedstore.sources import decode, open_source

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[2] / "shared"
MODELS = SHARED / "models"
PHOTOGRAPHS = SHARED / "data" / "imagenet1k-sample" / "test-000000.tar"


def clip_transform(size: int | tuple[int, int] = 224, **more: Any) -> Callable[[Any], Any]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(size=size, **more), is_train=False)


def timm_transform(**more: Any) -> Callable[[Any], Any]:
    from timm.data import create_transform
    from torchvision.transforms import Compose

    from embedstore.encoders.timm_backbone import to_rgb

    transform: Any = create_transform((3, 64, 64), is_training=False, **more)
    return Compose([to_rgb, *transform.transforms])


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(rng.uniform(2, 30) * x + rng.uniform(2, 30) * y) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, axis=2) + rng.normal(0, 10, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def levels(transform: Callable[[Any], Any], fast: FastTransform, image: Image.Image) -> np.ndarray:
    """By how many of 255 the two differ, at every pixel: normalising is one to one."""
    slow = np.asarray(transform(image))
    quick = fast(image).numpy()
    assert slow.shape == quick.shape
    assert slow.dtype == quick.dtype
    scale = np.arange(256, dtype=np.float32) / np.float32(255)
    tables = [(scale - np.float32(mean)) / np.float32(std) for mean, std in zip(fast.mean, fast.std, strict=True)]
    back = [[np.searchsorted(table, values) for table, values in zip(tables, of, strict=True)] for of in (slow, quick)]
    return np.abs(np.array(back[0]).astype(int) - np.array(back[1]))


def made(transform: Callable[[Any], Any]) -> FastTransform:
    found = fast_transform(transform)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "transform",
    [
        lambda: clip_transform(64),
        lambda: clip_transform((64, 64), interpolation="bilinear"),
        lambda: timm_transform(crop_pct=0.9, interpolation="bicubic"),
        lambda: timm_transform(crop_pct=0.875, interpolation="bilinear"),
    ],
)
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (64, 64), (32, 32), (65, 64), (333, 1000), (28, 91), (128, 64)]
)
def test_pixels_agree_but_for_rounding(transform: Callable[[], Any], size: tuple[int, int]) -> None:
    slow = transform()
    apart = levels(slow, made(slow), picture(*size))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.2


@settings(max_examples=60)
@example(width=196, height=2, seed=0)
@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 5))
def test_any_size_is_scaled_and_cut_as_torchvision_does(width: int, height: int, seed: int) -> None:
    slow = clip_transform(24)
    apart = levels(slow, made(slow), picture(width, height, seed))
    assert apart.max() <= (1 if min(width, height) >= 24 else 3)  # coarser where a few pixels are blown up
    assert apart.mean() < 0.5


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_modes_become_rgb_first(mode: str) -> None:
    slow = clip_transform(32)
    assert levels(slow, made(slow), picture(50, 40, mode=mode)).max() <= 1


def test_the_table_is_exact() -> None:
    """At the model's own size nothing is scaled, and every byte value must come out to the bit."""
    slow, image = clip_transform(16), Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    np.testing.assert_array_equal(made(slow)(image).numpy(), np.asarray(slow(image)))


@pytest.mark.parametrize(
    "transform",
    [
        lambda: clip_transform(32, resize_mode="longest"),
        lambda: timm_transform(crop_pct=1.0, interpolation="lanczos"),
        lambda: lambda image: image,
    ],
)
def test_what_is_not_known_has_no_fast_form(transform: Callable[[], Any]) -> None:
    assert fast_transform(transform()) is None


def test_the_fast_form_travels_to_workers() -> None:
    fast = made(clip_transform(16))
    again = pickle.loads(pickle.dumps(fast))
    np.testing.assert_array_equal(again(picture(20, 30)).numpy(), fast(picture(20, 30)).numpy())


def test_names_are_checked_and_unknown_transforms_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown way to decode 'quick'.*exact, fast"):
        load_encoder("fake", decode="quick")
    with pytest.raises(UsageError, match=r"--decode fast knows transforms that scale.*and fake has another one"):
        load_encoder("fake", decode="fast")


def photographs(count: int) -> list[Image.Image]:
    source = open_source(str(PHOTOGRAPHS))
    rows = source.scan()
    return [decode(payload) for payload in source.read(rows, 0, min(count, len(rows)))]


@pytest.mark.skipif(not PHOTOGRAPHS.exists() or not MODELS.exists(), reason="no shared photographs and models here")
@pytest.mark.parametrize("model", ["lite0-56", "lite0-160"])
def test_embeddings_of_real_photographs_agree(model: str) -> None:
    import torch

    exact, fast = (load_encoder(f"local-dir:{MODELS / model}", decode=way) for way in ("exact", "fast"))
    images = photographs(48)
    features = [
        encoder.images(torch.stack([encoder.preprocess(image) for image in images])).features.astype(np.float64)
        for encoder in (exact, fast)
    ]
    lengths = [np.linalg.norm(of, axis=1) for of in features]
    cosines = (features[0] * features[1]).sum(axis=1) / (lengths[0] * lengths[1])
    assert cosines.min() > 0.999
    assert not np.array_equal(*features)
    assert (exact.provenance.decode, fast.provenance.decode) == ("exact", "fast")
    assert exact.provenance.fingerprint() != fast.provenance.fingerprint()


@pytest.mark.skipif(not MODELS.exists(), reason="no shared models here")
def test_a_store_keeps_the_two_apart_and_embeds_again_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "test" / "cat"
    folder.mkdir(parents=True)
    for number in range(6):
        buffer = io.BytesIO()
        picture(90 + number, 70, number).save(buffer, "JPEG")
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
    model = f"local-dir:{MODELS / 'lite0-56'}"
    asked = ["extract", str(tmp_path / "images"), "--split", "test", "--store", str(tmp_path / "s"), "--model", model]
    run = CliRunner().invoke
    assert run(main, [*asked, "--quiet"]).exit_code == 0
    refused = run(main, [*asked, "--decode", "fast", "--quiet"])
    assert refused.exit_code == 5
    assert "preprocess" in refused.stderr
    named = [*asked, "--decode", "fast", "--name", "quick", "--quiet", "--devices", "cpu:2", "--block-rows", "3"]
    assert run(main, named).exit_code == 0
    source = ["--source", str(tmp_path / "images"), "--split", "test", "--model", model, "--name", "quick"]
    checked = run(main, ["verify", "--store", str(tmp_path / "s"), "--re-embed", "6", *source, "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["re_embedded"]["smallest_cosine"] > 0.99999
