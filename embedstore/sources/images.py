"""From a payload to pixels: always RGB, always upright, or an ImageError with a plain reason."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import ImageError, scrub
from embedstore.sources.base import Payload

if TYPE_CHECKING:
    from PIL import Image

# What a file must end with to count as an image. The order decides where one sample holds several.
IMAGE_EXTENSIONS = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bmp",
    "gif",
    "tif",
    "tiff",
    "ppm",
    "pgm",
    "pbm",
    "pnm",
    "jp2",
    "avif",
)

# Pillow's decoders that may run, by its names. Not all of them: opening an EPS, for one, starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

# Of the file, not the pixels. More is no photograph, whatever it is called, and would be read into memory whole.
MOST_BYTES = 1 << 30

_ORIENTATION = 0x0112  # the EXIF tag


def readable(length: int) -> bool:
    """Whether a file of so many bytes can be an image at all."""
    return 0 <= length <= MOST_BYTES


def too_large(length: int) -> str:
    """Why a file that is not :func:`readable` is not read."""
    return f"not read: {length} bytes, and an image has at most {MOST_BYTES}"


def decode(payload: Payload) -> Image.Image:
    """Decode one image.

    - Colours by Pillow's ``convert("RGB")``: no colour management, and transparency is dropped rather than composited
      (what training pipelines do).
    - Greyscale of 16 bits, which Pillow would clip at 255, is scaled: 65535 becomes 255. For 32-bit and floating-point
      images see :func:`_scaled`.
    - EXIF orientation is applied; an orientation that cannot be read is ignored.
    - Of an animation or a multi-page file, the first frame.

    Parameters
    ----------
    payload : bytes, PIL.Image.Image or ImageError

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    ImageError
        The payload is one, or its bytes are no image that we decode: empty, truncated, something else, or so large that
        Pillow takes it for a decompression bomb (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    if isinstance(payload, ImageError):
        raise payload
    if isinstance(payload, bytes) and not payload:
        raise ImageError("the image is empty: 0 bytes")
    try:
        return _rgb(_opened(payload))
    except ImageError:
        raise
    # Damaged files make Pillow's decoders raise nearly anything, from struct.error to MemoryError.
    except Exception as exc:
        raise ImageError(_reason(exc, payload)) from exc


def _opened(payload: bytes | Image.Image) -> Image.Image:
    from PIL import Image

    image: Image.Image
    with warnings.catch_warnings():
        # From half of the limit on, Pillow warns; what is above it still raises.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(payload), formats=_FORMATS) if isinstance(payload, bytes) else payload
    image.load()  # before EXIF is asked for: some decoders turn the image themselves, and then say so
    return image


def _rgb(image: Image.Image) -> Image.Image:
    turn = _transposition(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled(image)
    elif image.mode in ("P", "PA") and "transparency" in image.info:
        # The same colours as straight to RGB, without Pillow's warning that this drops the transparency.
        image = image.convert("RGBA")
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright, after its EXIF orientation; None for nothing to do."""
    from PIL import Image

    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    # Metadata that cannot be parsed is no reason to lose the pixels.
    except Exception:
        return None
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _scaled(image: Image.Image) -> Image.Image:
    """Bring integers of 16 or 32 bits and floats, one channel, to 8 bits.

    The full range is taken to be the smallest of these that holds every pixel: for floats 0 to 1, then 0 to 255; for
    both 0 to 65535; else the image's own minimum to maximum. NaN and infinities count as 0.
    """
    from PIL import Image

    pixels: npt.NDArray[np.float64] = np.nan_to_num(  # (height, width)
        np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0
    )
    low, high = float(pixels.min()), float(pixels.max())
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    if low < 0 or high > 65535:
        pixels, full = pixels - low, (high - low) or 1.0
    else:
        full = next(top for top in ranges if high <= top)
    grey: npt.NDArray[Any] = np.rint(pixels * 255.0 / full).astype(np.uint8)
    return Image.fromarray(grey)


def _reason(exc: Exception, payload: bytes | Image.Image) -> str:
    from PIL import Image, UnidentifiedImageError

    size = f"{len(payload)} bytes" if isinstance(payload, bytes) else f"{payload.width} x {payload.height} pixels"
    if isinstance(exc, UnidentifiedImageError) and isinstance(payload, bytes):
        start = payload[:256].lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
            return f"not an image but a web page or XML ({size}, starts with {payload[:16]!r})"
        return f"not an image in a format that is read ({size}, starts with {payload[:16]!r})"
    if isinstance(exc, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels, perhaps a decompression bomb ({size}): {exc}"
    return f"cannot be decoded ({size}): {type(exc).__name__}: {scrub(str(exc))}"
