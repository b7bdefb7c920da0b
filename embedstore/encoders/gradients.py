"""The image tower of a torch model as a function of pixels that gradients flow through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encoders.base import Differentiable
from embedstore.encoders.fast import FastTransform
from embedstore.encoders.runtime import computing_in, exact_convolutions
from embedstore.errors import ModelUnavailable

if TYPE_CHECKING:
    import PIL.Image
    import torch

_FP16_SCALE = 4096.0


def differentiable_tower(
    preprocess: Callable[[PIL.Image.Image], Any],
    features: Callable[[torch.Tensor], torch.Tensor],
    joint: Callable[[torch.Tensor], torch.Tensor],
    *,
    device: torch.device,
    precision: str,
) -> Differentiable:
    """The view of a tower: `features` from normalised pixels and `joint` from features, both plain forward passes.

    Raises
    ------
    ModelUnavailable
        The last step of `preprocess` is not the normalisation.
    """
    import torch

    to_pixels, normalize = _taken_apart(preprocess)

    def from_pixels(pixels: torch.Tensor) -> torch.Tensor:
        inner = pixels.clone()
        with exact_convolutions(device), computing_in(device, precision):
            found = features(normalize(inner))
        found = found.float()
        if precision == "fp16" and found.requires_grad:
            # Parts of a gradient are below what float16 can hold: up on its way in, and down on its way out.
            found.register_hook(lambda gradient: gradient * _FP16_SCALE)  # type: ignore[no-untyped-call]
            inner.register_hook(lambda gradient: gradient / _FP16_SCALE)  # type: ignore[no-untyped-call]
        return found

    def to_joint(vectors: torch.Tensor) -> torch.Tensor:
        with computing_in(device, precision):
            return joint(vectors).float()

    return Differentiable(to_pixels, from_pixels, to_joint, device, torch.float32)


def _taken_apart(preprocess: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """What comes before the normalisation, and the normalisation."""
    from torchvision.transforms import Compose, Normalize

    if isinstance(preprocess, FastTransform):
        grey = np.arange(256, dtype=np.float32) / 255
        low, high = preprocess.table[:, 0].tolist(), preprocess.table[:, 255].tolist()
        std = [1 / (top - bottom) for bottom, top in zip(low, high, strict=True)]
        mean = [-bottom * each for bottom, each in zip(low, std, strict=True)]
        return replace(preprocess, table=np.stack([grey] * 3)), Normalize(mean, std)
    steps = list(getattr(preprocess, "transforms", ()))
    if steps and isinstance(steps[-1], Normalize):
        return Compose(steps[:-1]), steps[-1]
    last = type(steps[-1]).__name__ if steps else type(preprocess).__name__
    raise ModelUnavailable(
        f"the model's preprocessing ends with {last} and not with Normalize, so the pixels before normalisation, where "
        f"an attack works, cannot be had"
    )
