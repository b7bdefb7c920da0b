"""The image tower of a torch model as a function of pixels that gradients flow through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embedstore.encoders.base import Differentiable
from embedstore.encoders.fast import FastTransform
from embedstore.encoders.runtime import computing_in, exact_convolutions
from embedstore.errors import ModelUnavailable

if TYPE_CHECKING:
    import PIL.Image
    import torch

_FP16_EXPONENT = 7  # what a model is given back is below 2**7 = 128: far from float16's 65504, and from its 6e-8


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
            _keep_in_float16(found, inner)
        return found

    def to_joint(vectors: torch.Tensor) -> torch.Tensor:
        inner = vectors.clone()
        with computing_in(device, precision):
            found = joint(inner).float()
        if precision == "fp16" and found.requires_grad:
            _keep_in_float16(found, inner)
        return found

    return Differentiable(to_pixels, from_pixels, to_joint, device, torch.float32)


def _keep_in_float16(given: torch.Tensor, taken: torch.Tensor) -> None:
    """Scale each image's gradient on its way into what gave (B, D) for what was taken, (B, …), and back on its way out.

    Parts of it are below what float16 can hold, or all of it above. Powers of two change no digit, and each image has
    its own, so that nothing depends on the batch.
    """
    import torch

    exponents: list[torch.Tensor] = []

    def scale(gradient: torch.Tensor) -> torch.Tensor:
        largest = torch.frexp(gradient.abs().amax(dim=1)).exponent  # of no meaning where it is not finite; so it stays
        exponents[:] = [(_FP16_EXPONENT - largest).clamp(-100, 100)]
        return torch.ldexp(gradient, exponents[0][:, None])

    def unscale(gradient: torch.Tensor) -> torch.Tensor:
        return torch.ldexp(gradient, -exponents[0].reshape(-1, *[1] * (gradient.ndim - 1)))

    given.register_hook(scale)  # type: ignore[no-untyped-call]
    taken.register_hook(unscale)  # type: ignore[no-untyped-call]


def _taken_apart(preprocess: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """What comes before the normalisation, and the normalisation."""
    from torchvision.transforms import Compose, Normalize

    if isinstance(preprocess, FastTransform):
        return replace(preprocess, mean=(0, 0, 0), std=(1, 1, 1)), Normalize(preprocess.mean, preprocess.std)
    steps = list(getattr(preprocess, "transforms", ()))
    if steps and isinstance(steps[-1], Normalize):
        return Compose(steps[:-1]), steps[-1]
    last = type(steps[-1]).__name__ if steps else type(preprocess).__name__
    raise ModelUnavailable(
        f"the model's preprocessing ends with {last} and not with Normalize, so the pixels before normalisation, where "
        f"an attack works, cannot be had"
    )
