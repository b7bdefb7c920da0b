"""The usual transform of an image, in half the time: what ``--decode fast`` runs.

Pillow scales with plain code, torch with vector instructions (on x86 with AVX2): the same filter on the same bytes, and
what comes out differs by 1 of 255 here and there, by 2 or 3 where an image of a few pixels is blown up. What follows is
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encoders.base import seeing_through
from embedstore.encoders.levels import ByChannel, Levels, normalization, normalized
from embedstore.errors import UsageError

if TYPE_CHECKING:
    import PIL.Image
    import torch

    from embedstore.encoders.base import Encoder


@dataclass(frozen=True)
class FastTransform:
    """Scale, cut out the centre, normalise: what torchvision's transforms of these names do with an RGB image.

    Attributes
    ----------
    size : int or (int, int)
        Of the shorter side, or height and width.
    crop : (int, int)
        Height and width that are cut out.
    mode : {"bicubic", "bilinear"}
    mean, std : 3 float
        Of each channel, of pixels in [0, 1].
    """

    size: int | tuple[int, int]
    crop: tuple[int, int]
    mode: str
    mean: ByChannel
    std: ByChannel

    def __call__(self, image: PIL.Image.Image) -> torch.Tensor:
        """(3, H, W) float32."""
        return normalized(self.to_bytes(image), self.mean, self.std)

    @property
    def levels(self) -> Levels:
        """Its halves."""
        return Levels(self.to_bytes, self.mean, self.std)

    def to_bytes(self, image: PIL.Image.Image) -> torch.Tensor:
        """(3, H, W) uint8: scaled and cut out."""
        import torch
        from torch.nn.functional import interpolate

        rgb = image if image.mode == "RGB" else image.convert("RGB")
        # Rows of RGB triples, which is what torch calls channels last and has its fast code for.
        pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).unsqueeze(0)
        size = self._scaled(rgb.width, rgb.height)
        if size != (rgb.height, rgb.width):
            pixels = interpolate(pixels, size=size, mode=self.mode, antialias=True, align_corners=False)
        height, width = self.crop
        # As torchvision's CenterCrop rounds: half to even.
        top, left = round((size[0] - height) / 2.0), round((size[1] - width) / 2.0)
        # A copy: what is cut off must not wait in memory for the rest of the batch.
        return pixels[0, :, top : top + height, left : left + width].contiguous()

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Height and width after scaling, as torchvision's Resize computes them."""
        if not isinstance(self.size, int):
            return self.size
        short, long = sorted((width, height))
        longer = int(self.size * long / short)
        return (longer, self.size) if width <= height else (self.size, longer)


def with_fast_transform(encoder: Encoder) -> Encoder:
    """Give an encoder a fast transform, and return it; its provenance then says so, as features differ in some bits.

    Raises
    ------
    UsageError
        Its transform is not one that this knows: scale, cut out the centre, normalise.
    """
    found = fast_transform(encoder.preprocess)
    if found is None:
        raise UsageError(
            f"--decode fast knows transforms that scale, cut out the centre and normalise, and "
            f"{encoder.provenance.name} has another one: {' '.join(str(encoder.preprocess).split())[:200]}; "
            "leave --decode away"
        )
    return seeing_through(encoder, found, decode="fast")


def fast_transform(preprocess: Callable[[Any], Any]) -> FastTransform | None:
    """The fast form of a torchvision composition; None where it has none."""
    steps = [step for step in getattr(preprocess, "transforms", []) if not _makes_rgb(step)]
    if len(steps) < 3 or [type(step).__name__ for step in steps[:2]] != ["Resize", "CenterCrop"]:
        return None
    resize, cut, *rest = steps
    size, crop, mode = _size(resize.size), _size(cut.size), resize.interpolation.value
    crop = (crop, crop) if isinstance(crop, int) else crop
    fits = min(crop) > 0 and (
        max(crop) <= size if isinstance(size, int) else (crop[0] <= size[0] and crop[1] <= size[1])
    )
    if not fits or mode not in ("bicubic", "bilinear") or resize.max_size is not None or not resize.antialias:
        return None
    found = normalization(rest)
    return found and FastTransform(size, crop, mode, *found)


def _size(size: Any) -> int | tuple[int, int]:
    """Torchvision has an int, or one or two of them in a sequence."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))


def _makes_rgb(step: Any) -> bool:
    """Whether a step does nothing to an image that is RGB, as all are here; open_clip has had two of them."""
    name = getattr(step, "__name__", type(step).__name__)
    return name in ("to_rgb", "_convert_to_rgb", "MaybeConvertMode") and getattr(step, "mode", "RGB") == "RGB"
