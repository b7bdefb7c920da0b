"""A transform in two halves: down to bytes, and their normalisation.

Scaling and cutting give bytes; dividing, subtracting and dividing follow. So pixels travel as bytes, a quarter of the
memory, from the process that decodes to the device of the model, and whole batches are normalised there: by the same
three operations on the same numbers, and so to the same last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import PIL.Image
    import torch

ByChannel: TypeAlias = tuple[float, float, float]

# Steps of a composition that make a tensor of an image; by their names, because three libraries have their own.
_FLOATS = frozenset({"ToTensor", "MaybeToTensor"})
TO_TENSOR = _FLOATS | {"PILToTensor"}


@dataclass(frozen=True)
class Levels:
    """Both halves of a transform.

    Attributes
    ----------
    to_bytes : callable
        From a PIL image to a (3, H, W) uint8 tensor on the CPU. It pickles on its own, as the transform does.
    mean, std : 3 float
        Of each channel, of pixels in [0, 1].
    """

    to_bytes: Callable[[PIL.Image.Image], torch.Tensor]
    mean: ByChannel
    std: ByChannel

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) float32 of (..., 3, H, W) uint8, on whatever device that is."""
        return normalized(pixels, self.mean, self.std)


def levels(preprocess: Callable[[Any], Any]) -> Levels | None:
    """The halves of a transform: one of ours that knows them, or a torchvision composition; None where it has none."""
    known: Levels | None = getattr(preprocess, "levels", None)
    steps = list(getattr(preprocess, "transforms", ()))
    at = next((at for at, step in enumerate(steps) if type(step).__name__ in TO_TENSOR), None)
    if known is not None or at is None:
        return known
    from torchvision.transforms import Compose

    found, first = normalization(steps[at:]), Compose(steps[:at])
    if found is None or getattr(first(_every_byte()), "mode", None) != "RGB":
        return None
    return Levels(Compose([*steps[:at], as_bytes]), *found)


def as_bytes(image: PIL.Image.Image) -> torch.Tensor:
    """(3, H, W) uint8 of an RGB image."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalized(pixels: torch.Tensor, mean: ByChannel, std: ByChannel) -> torch.Tensor:
    """(..., 3, H, W) float32 of (..., 3, H, W) uint8: what ToTensor and Normalize give."""
    import torch

    # By tensors, not numbers: torch divides by a number on a GPU by multiplying, which rounds otherwise.
    whole, mean_, std_ = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device)[:, None, None]
        for values in ((255.0,) * 3, mean, std)
    )
    return pixels.float().div_(whole).sub_(mean_).div_(std_)


def normalization(steps: list[Any]) -> tuple[ByChannel, ByChannel] | None:
    """Mean and standard deviation, if these steps make a tensor of an RGB image and normalise it, and do nothing else.

    They are known by their names, and tried on an image that has every byte in every channel.
    """
    names = [type(step).__name__ for step in steps]
    if not _FLOATS.intersection(names[:1]) or names[1:] not in ([], ["Normalize"]):
        return None
    given = (steps[1].mean, steps[1].std) if len(steps) > 1 else ((0, 0, 0), (1, 1, 1))
    if [np.shape(values) for values in given] != [(3,), (3,)]:
        return None
    mean, std = ((float(a), float(b), float(c)) for a, b, c in given)
    image = _every_byte()
    made: Any = image
    for step in steps:
        made = step(made)
    return (mean, std) if np.array_equal(np.asarray(made), normalized(as_bytes(image), mean, std).numpy()) else None


def _every_byte() -> PIL.Image.Image:
    from PIL import Image

    every = np.random.default_rng(0).permuted(np.tile(np.arange(256, dtype=np.uint8), (3, 1)), axis=1)
    return Image.fromarray(np.ascontiguousarray(every.reshape(3, 16, 16).transpose(1, 2, 0)))
