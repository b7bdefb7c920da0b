"""From bytes to upright RGB, and a plain reason where there is no image in them."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from embedstore.errors import ImageError
from embedstore.sources import decode

RAMP = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(payload: bytes | Image.Image) -> np.ndarray[Any, Any]:
    image = decode(payload)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(RAMP), kind, **options)), RAMP)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_what_pillow_converts_it_to(mode: str) -> None:
    source = Image.fromarray(RAMP)
    image = source.convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (24, 16), (120, 30, 40))
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs(mode: str) -> None:
    raw = encoded(Image.fromarray(RAMP).convert(mode), "JPEG")
    np.testing.assert_array_equal(pixels(raw), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


def test_palette_with_transparency_drops_it_without_a_warning() -> None:
    image = Image.fromarray(RAMP).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    raw = encoded(image, "PNG", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
    np.testing.assert_array_equal(pixels(raw), expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(red, kind, save_all=True, append_images=[blue], **options)
    assert pixels(raw)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel() -> None:
    assert pixels(encoded(Image.new("L", (1, 1), 7), "PNG")).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 255, 256, 32768, 65535, 128, 129]], dtype=np.uint16)
    grey = pixels(encoded(Image.fromarray(values), kind))[0, :, 0]
    assert grey.tolist() == np.rint(values / 257).astype(int)[0].tolist() == [0, 1, 1, 128, 255, 0, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 257, 65535], np.int32), [0, 1, 255]),
        (np.array([-100, 0, 100], np.int32), [0, 128, 255]),
        (np.array([0, 65536, 131072], np.int32), [0, 128, 255]),
        (np.array([-5, -5, -5], np.int32), [0, 0, 0]),
        (np.array([0, 0.2, 1], np.float32), [0, 51, 255]),
        (np.array([0, 51, 255], np.float32), [0, 51, 255]),
        (np.array([0, np.nan, np.inf], np.float32), [0, 0, 0]),
        (np.array([0, 257, 65535], np.float32), [0, 1, 255]),
    ],
)
def test_wide_greyscale(values: np.ndarray[Any, Any], expected: list[int]) -> None:
    assert pixels(encoded(Image.fromarray(values[None]), "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(Image.fromarray(RAMP), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB")
    np.testing.assert_array_equal(pixels(raw), np.asarray(expected))
    assert pixels(raw).shape[:2] == ((24, 16) if orientation in (5, 6, 7, 8) else (16, 24))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_lose_the_image() -> None:
    raw = encoded(Image.fromarray(RAMP), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert pixels(raw).shape == (16, 24, 3)


def test_an_image_payload_is_not_changed() -> None:
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    decoded = decode(image)
    decoded.putpixel((0, 0), (9, 9, 9))
    assert image.getpixel((0, 0)) == (1, 2, 3)


# What is no image


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"the image is empty: 0 bytes"),
        (
            b"<!DOCTYPE html><html>404</html>",
            r"not an image but a web page or XML \(31 bytes, starts with b'<!DOCTYPE html>",
        ),
        (b"\n <svg xmlns=''/>", r"web page or XML"),
        (b"\x00\x01\x02", r"not an image in a format that is read \(3 bytes, starts with b'\\x00\\x01\\x02'\)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"not an image in a format that is read"),
        (encoded(Image.fromarray(RAMP), "JPEG")[:400], r"cannot be decoded \(400 bytes\): OSError: .*[Tt]runcated"),
        (encoded(Image.fromarray(RAMP), "PNG")[:100], r"cannot be decoded \(100 bytes\): "),
        (encoded(Image.fromarray(RAMP), "JPEG")[:10], r"\(10 bytes"),
        (png_of(100_000, 100_000), r"too many pixels, perhaps a decompression bomb"),
        (png_of(10, 10), r"cannot be decoded"),
        (png_of(0, 10), r"\(\d+ bytes"),
    ],
)
def test_reasons(raw: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        decode(raw)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # it must come back from a loader worker


def test_an_error_payload_is_raised() -> None:
    error = ImageError("no image member")
    with pytest.raises(ImageError) as caught:
        decode(error)
    assert caught.value is error


@pytest.mark.filterwarnings("ignore")  # some damage only makes Pillow warn
def test_any_damage_is_an_image_or_an_image_error() -> None:
    rng = np.random.default_rng(0)
    seeds = [
        encoded(Image.fromarray(RAMP), f) for f in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")
    ]
    for raw in seeds:
        for _ in range(60):
            damaged = bytearray(raw)
            for place in rng.integers(0, len(raw), 4):
                damaged[place] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                assert decode(bytes(damaged)).mode == "RGB"
