"""Where an open_clip image tower ends and its projection begins.

Linear probes work on the features *before* the projection into the joint space (Adaloglou et al., arXiv 2303.05828,
take a ViT's class token after its last LayerNorm). Zero-shot classification needs what comes after. So we store the
former, and the projection beside it where it is one matrix. Dp is the width before, D after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Head:
    """An image tower in two parts.

    Attributes
    ----------
    features : callable
        (B, 3, H, W) → (B, Dp).
    matrix : (Dp, D) tensor, or None
    rest : callable or None
        (B, Dp) → (B, D), where the head is not one matrix. With neither, features *are* the joint embedding.
    """

    features: Callable[[torch.Tensor], torch.Tensor]
    matrix: torch.Tensor | None = None
    rest: Callable[[torch.Tensor], torch.Tensor] | None = None


def split_head(model: Any) -> Head:
    """Find the last projection of an open_clip model's image tower.

    A vision transformer has a matrix ``proj``; a timm tower a head whose last layer is linear or an MLP. The modified
    ResNet projects inside its attention pooling, as do timm towers with attention pooling alone; those, and anything
    else, give their joint embedding, and the identity projects it (where the paper's code stops with an error).
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    if isinstance(visual, VisionTransformer) and visual.proj is not None:
        return _transformer(visual)
    if isinstance(visual, TimmModel):
        names = [name for name, _ in visual.head.named_children()]
        last = next((name for name in ("proj", "mlp") if name in names), None)
        if last is not None:
            return _timm(visual, names.index(last))
    return Head(lambda batch: model.encode_image(batch, normalize=False))


def _transformer(visual: Any) -> Head:
    # A second view of the same module, sharing every weight, without `proj`: its forward pass then skips the
    # projection. The model itself stays whole, unlike with `visual.proj = None`.
    headless = copy.copy(visual)
    headless._parameters = {**visual._parameters, "proj": None}

    def features(batch: torch.Tensor) -> torch.Tensor:
        out = headless(batch)
        # CoCa's towers give (pooled, tokens).
        pooled: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return pooled

    return Head(features, matrix=visual.proj)


def _timm(visual: Any, last: int) -> Head:
    import torch

    layers = list(visual.head.children())
    body = torch.nn.Sequential(visual.trunk, *layers[:last])
    rest = torch.nn.Sequential(*layers[last:])
    body.eval()
    rest.eval()
    final = layers[last]
    if last == len(layers) - 1 and isinstance(final, torch.nn.Linear) and final.bias is None:
        return Head(body, matrix=final.weight.T)
    return Head(body, rest=rest)
