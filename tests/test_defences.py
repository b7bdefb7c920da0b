"""Defences: the image at the model's input size goes through them and nothing else changes; a model of its own."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Command
from PIL import Image
from scipy.ndimage import gaussian_filter

from embedstore.cli import main
from embedstore.encoders import differentiable, load_encoder
from embedstore.encoders.defences import Defence, Defended, with_defence
from embedstore.encoders.fake import FakeEncoder, shrink
from embedstore.encoders.fast import fast_transform
from embedstore.errors import NotAvailable, UsageError
from embedstore.store import Store


def clip_transform(size: int = 32, **more: Any) -> Callable[[Any], Any]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(size=size, **more), is_train=False)


def fast() -> Callable[[Any], Any]:
    found = fast_transform(clip_transform())
    assert found is not None
    return found


def timm_transform() -> Callable[[Any], Any]:
    from timm.data import create_transform
    from torchvision.transforms import Compose

    from embedstore.encoders.timm_backbone import to_rgb

    return Compose([to_rgb, *create_transform((3, 32, 32), is_training=False, crop_pct=0.9).transforms])


def picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (50, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j]
    waves = [np.sin(rng.uniform(2, 20) * x + rng.uniform(2, 20) * y) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, axis=2) + rng.normal(0, 10, (size[1], size[0], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


class Seen(FakeEncoder):
    """A fake with another transform."""

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        super().__init__()
        self.preprocess = transform


def defended(transform: Callable[[Any], Any], defence: str) -> Defended:
    found = with_defence(Seen(transform), Defence.parse(defence)).preprocess
    assert isinstance(found, Defended)
    return found


# What it does --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("make", [lambda: shrink, clip_transform, timm_transform, fast])
def test_around_the_defence_nothing_changes(make: Callable[[], Callable[[Any], Any]], mode: str) -> None:
    transform = make()
    found, image = defended(transform, "blur:1"), picture(mode=mode)
    small = found.fit(image)
    assert small.size == ((16, 16) if transform is shrink else (32, 32))
    np.testing.assert_array_equal(np.asarray(found.normalize(small)), np.asarray(transform(image)))
    assert (np.asarray(found(image)) != np.asarray(transform(image))).any()
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(np.asarray(again(image)), np.asarray(found(image)))


def test_jpeg_is_a_file_of_the_input_size_read_again(tmp_path: Path) -> None:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize
    from torchvision.transforms.functional import normalize, to_tensor

    image = picture()
    small = CenterCrop(32)(Resize(32, interpolation=InterpolationMode.BICUBIC)(image))
    for quality in (1, 30, 75, 100):
        small.save(tmp_path / "x.jpg", quality=quality)
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
        with Image.open(tmp_path / "x.jpg") as file:
            expected = normalize(to_tensor(file), mean, std)
        np.testing.assert_allclose(
            np.asarray(defended(clip_transform(), f"jpeg:{quality}")(image)), expected.numpy(), atol=1e-6
        )


def test_blur_is_gaussian() -> None:
    image = picture(3)
    for radius in (0.5, 1.0, 2.0):
        wide = np.asarray(image, dtype=np.float64)
        expected = np.stack([gaussian_filter(wide[..., c], radius, mode="nearest") for c in range(3)], axis=2)
        found = np.asarray(Defence("blur", radius)(image)).astype(np.float64)
        assert np.abs(found - expected).mean() < 1  # of 255; Pillow's Gaussian is three box filters
        assert np.abs(found - expected).mean() < 0.2 * np.abs(found - wide).mean()


def white(number: int) -> Image.Image:
    """All but white, and different for each number: 255 or 254 by its bits."""
    levels = np.full(32 * 32 * 3, 255, dtype=np.uint8)
    levels[:16] -= np.unpackbits(np.array([number >> 8, number & 255], dtype=np.uint8))
    return Image.fromarray(levels.reshape(32, 32, 3))


def test_resize_shrinks_and_shifts_on_black_by_a_draw_of_its_own_for_each_image() -> None:
    boxes = []
    for number in range(60):
        found = np.asarray(Defence("resize", 0.7)(white(number)))
        np.testing.assert_array_equal(found, np.asarray(Defence("resize", 0.7)(white(number))))
        assert found.shape == (32, 32, 3)
        rows, columns = np.flatnonzero(found.any(axis=(1, 2))), np.flatnonzero(found.any(axis=(0, 2)))
        box = int(columns[0]), int(rows[0]), len(columns), len(rows)
        inside = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.min() >= 254, "one rectangle"
        boxes.append(box)
    widths, heights = (np.array([box[at] for box in boxes]) for at in (2, 3))
    assert widths.min() >= round(0.7 * 32)
    assert widths.max() <= 32
    np.testing.assert_array_equal(widths, heights)
    assert len(set(widths.tolist())) > 5, "the side is drawn"
    assert len(set(boxes)) > 40, "and the place"


def test_resize_keeps_the_picture() -> None:
    """What is inside is the image scaled, wherever it came to lie."""
    image = picture(1, size=(32, 32))
    found = Defence("resize", 0.8)(image)
    pixels = np.asarray(found)
    rows, columns = np.flatnonzero(pixels.any(axis=(1, 2))), np.flatnonzero(pixels.any(axis=(0, 2)))
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    scaled = image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(found.crop(box)), np.asarray(scaled))


# How it is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("jpeg:75", "jpeg75"),
        ("blur:1.0", "blur1"),
        ("blur:.5", "blur0.5"),
        ("resize:0.90", "resize0.9"),
        ("blur:1.23456789", "blur1.23456789"),
        ("blur:0.00000001", "blur0.00000001"),
    ],
)
def test_one_defence_has_one_spelling_and_names_the_model(text: str, name: str) -> None:
    found = Defence.parse(text)
    assert Defence.parse(str(found)) == found
    encoder = load_encoder("fake:other", defence=text)
    assert encoder.provenance.name == f"fake-other+{name}"
    assert encoder.provenance.defence == str(found)
    plain = load_encoder("fake:other", name=encoder.provenance.name)
    assert plain.provenance.defence is None
    assert plain.provenance.fingerprint() != encoder.provenance.fingerprint()
    assert load_encoder("fake", defence=text, name="mine").provenance.name == "mine"


@pytest.mark.parametrize(
    "text",
    ["jpeg", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:75.5", "blur:0", "blur:-1", "blur:nan", "resize:1", "jpg:75", ""],
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"give jpeg:QUALITY \(1 to 100\), blur:RADIUS in pixels, or resize:SHARE"):
        load_encoder("fake", defence=text)


def test_a_transform_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--defence blur:1 goes between scaling.*the transform of fake has no such"):
        with_defence(Seen(lambda image: image), Defence("blur", 1))


def test_a_defended_model_gives_no_gradients() -> None:
    with pytest.raises(
        NotAvailable, match=r"fake\+jpeg75 sees images through the defence jpeg:75, which gradients do not pass"
    ):
        differentiable(load_encoder("fake", defence="jpeg:75"))


# In a store ----------------------------------------------------------------------------------------------------------


def run(*args: str | Path) -> Any:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_a_store_keeps_it_beside_the_plain_model_and_every_worker_builds_it(
    pictures: Path, fake_store: Path, tmp_path: Path, command: Command
) -> None:
    store = Path(shutil.copytree(fake_store, tmp_path / "s"))
    source = pictures / "pets" / "test"
    extract = ("extract", source, "--model", "fake", "--block-rows", "8", "--defence", "jpeg:20", "--quiet")
    assert run(*extract, "--store", store).exit_code == 0
    opened = Store.open(store)
    assert opened.provenance("fake+jpeg20").preprocess["defence"] == "jpeg:20"
    found = opened.images("fake+jpeg20", "pets", "test").embedded()
    expected = []
    for key in opened.rows("pets", "test").keys.tolist():
        with Image.open(source / key) as image:
            file = io.BytesIO()
            image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC).save(file, "JPEG", quality=20)
        pixels = np.asarray(Image.open(file), dtype=np.float32).transpose(2, 0, 1)
        expected.append(FakeEncoder().images(pixels[None] / 127.5 - 1).features[0])
    np.testing.assert_allclose(found, expected, atol=2e-3)  # stored as float16
    assert np.abs(found - opened.images("fake", "pets", "test").embedded()).max() > 0.02

    again = command(*extract, "--store", tmp_path / "other", "--devices", "cpu:1")
    assert again.returncode == 0, again.stderr
    elsewhere = Store.open(tmp_path / "other").images("fake+jpeg20", "pets", "test").embedded()
    np.testing.assert_array_equal(elsewhere, found)

    verify = ("verify", "--store", store, "--re-embed", "18", "--source", source, "--model", "fake", "--json")
    told = run(*verify, "--name", "fake+jpeg20")
    assert told.exit_code == 0, told.output
    compared = json.loads(told.stdout)["re_embedded"]
    assert (compared["rows"], compared["largest_difference"]) == (18, 0)
    assert run("verify", "--store", store).exit_code == 0


def test_wrong_requests_end_before_the_work(pictures: Path, fake_store: Path, tmp_path: Path) -> None:
    told = run("extract", pictures / "flat", "--store", tmp_path / "s", "--model", "fake", "--defence", "jpeg:0")
    assert (told.exit_code, (tmp_path / "s").exists()) == (2, False)
    store = Path(shutil.copytree(fake_store, tmp_path / "t"))
    source = pictures / "pets" / "test"
    same_name = ("extract", source, "--store", store, "--model", "fake", "--defence", "blur:1", "--name", "fake")
    told = run(*same_name)
    assert told.exit_code == 5
    assert "preprocess" in told.output
