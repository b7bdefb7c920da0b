"""What every encoder is: the seam between extraction and the models.

B is the batch, Dp the width before the projection, D after it, T the number of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from embedstore.errors import NotAvailable
from embedstore.records import FloatArray, Provenance

if TYPE_CHECKING:
    import PIL.Image
    import torch


@dataclass(frozen=True)
class ImageFeatures:
    """What one batch of images gives.

    Attributes
    ----------
    features : (B, Dp) float32
        Before the projection, not normalised (Adaloglou et al., arXiv 2303.05828, probe these).
    projected : (B, D) float32, or None
        In the joint space, not normalised; only where the head is not one matrix.
    """

    features: FloatArray
    projected: FloatArray | None = None


@dataclass(frozen=True)
class Differentiable:
    """An encoder's image tower as a function of pixels that gradients flow through. Its parameters are frozen.

    Attributes
    ----------
    pixels : callable
        From a PIL image to what `preprocess` makes of it before normalisation: a (3, H, W) tensor of `dtype` on the
        CPU, in [0, 1].
    features : callable
        (B, 3, H, W) in [0, 1], of `dtype` on `device`, to (B, Dp) of `dtype`: normalised, embedded, before the
        projection. Rows do not depend on each other, but for rounding.
    joint : callable
        (B, Dp) to (B, D): the image head.
    device : torch.device
    dtype : torch.dtype
        float32; float64 for the fake encoder.
    """

    pixels: Callable[[PIL.Image.Image], torch.Tensor]
    features: Callable[[torch.Tensor], torch.Tensor]
    joint: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    dtype: torch.dtype


class Encoder(Protocol):
    """A frozen model in evaluation mode.

    Attributes
    ----------
    provenance : Provenance
    projection : (Dp, D) float32, or None
        ``features @ projection`` lies in the joint space. The identity where the model has no projection; None where
        the head is not one matrix (an MLP, or a linear layer with a bias), and then :meth:`images` projects.
    has_text : bool
    device : str
        Where it computes, as torch names it.
    preprocess : callable
        From a PIL image to a (3, H, W) float32 tensor (or array, for encoders without torch). It pickles on its own,
        without the model, so that worker processes need not hold one.
    """

    @property
    def provenance(self) -> Provenance: ...  # noqa: D102
    @property
    def projection(self) -> FloatArray | None: ...  # noqa: D102
    @property
    def has_text(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def preprocess(self) -> Callable[[PIL.Image.Image], Any]: ...  # noqa: D102

    def images(self, batch: torch.Tensor) -> ImageFeatures:
        """Embed (B, 3, H, W) float32, on its device or on the CPU; an array where `preprocess` gives arrays."""
        ...

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts as unit vectors, (T, D) float32; NotAvailable where the model has no text tower."""
        ...


def seeing_through(encoder: Encoder, preprocess: Callable[[PIL.Image.Image], Any], **said: str) -> Encoder:
    """The same encoder with another transform, and what its provenance is to say of that."""
    changed: Any = encoder
    changed.preprocess = preprocess
    changed.provenance = replace(encoder.provenance, preprocess={**encoder.provenance.preprocess, **said})
    return encoder


def differentiable(encoder: Encoder) -> Differentiable:
    """The encoder's differentiable view. It is no part of the protocol, so that an encoder may do without.

    Raises
    ------
    NotAvailable
        It has none.
    ModelUnavailable
        Its preprocessing does not end with the normalisation, so that pixels cannot be told from what follows them.
    """
    view = getattr(encoder, "differentiable", None)
    if view is None:
        raise NotAvailable(
            f"{encoder.provenance.name} gives no gradients: {type(encoder).__name__} has no `differentiable()`, so its "
            f"images cannot be attacked. Models of open_clip and timm have one; make the images with such a model and "
            f"score them with this one"
        )
    made: Differentiable = view()
    return made
