"""What an attack maximises, and the smoothness that it pays for. Tensors in, tensors out.

An objective is a callable ``objective(model, features, rows) -> (b,)``: of the b images whose numbers are `rows`, how
close their features (b, Dp) are to where the attack wants them; higher = closer, each image by itself. B is the number
of images, W the width of the space in which they are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError

if TYPE_CHECKING:
    import torch

    from embedstore.encoders import Differentiable

    Objective: TypeAlias = Callable[[Differentiable, torch.Tensor, slice], torch.Tensor]
else:
    Objective = object


@dataclass(frozen=True)
class Toward:
    """Cosine similarity to each image's own target.

    Before the projection, with the features of target images, this is the attack of Adaloglou et al. (arXiv
    2303.05828). A target can as well be a class prototype, or, in the joint space, the embedding of a text: the attack
    on maximum concept matching.

    Attributes
    ----------
    targets : (B, W) tensor
        Of any length; of the model's dtype, on its device. W is Dp, or D if `joint`.
    joint : bool
        Compare after the projection.
    """

    targets: torch.Tensor
    joint: bool = False

    def __call__(self, model: Differentiable, features: torch.Tensor, rows: slice) -> torch.Tensor:
        """(b,) in [-1, 1]."""
        from torch.nn.functional import cosine_similarity

        vectors = model.joint(features) if self.joint else features
        return cosine_similarity(vectors, self.targets[rows], dim=1)


@dataclass(frozen=True)
class ProbeEnergy:
    """The energy of a linear probe, T = 1: logsumexp over classes of its logits, as ``embedstore.energy`` has it.

    Attributes
    ----------
    coef : (C, Dp) tensor
        Of features as they are; see :func:`probe_energy`.
    intercept : (C,) tensor
    """

    coef: torch.Tensor
    intercept: torch.Tensor

    def __call__(self, model: Differentiable, features: torch.Tensor, rows: slice) -> torch.Tensor:
        """(b,): higher = more in-distribution. Row by row, for a matrix product may round otherwise in a batch."""
        import torch

        logits = torch.stack([self.coef @ row + self.intercept for row in features])
        return torch.logsumexp(logits, dim=1)


def probe_energy(
    model: Differentiable, coef: npt.ArrayLike, intercept: npt.ArrayLike, mean: npt.ArrayLike, scale: npt.ArrayLike
) -> ProbeEnergy:
    """The energy of a fitted probe, its standardisation taken into the weights.

    Parameters
    ----------
    coef : (C, Dp)
        Of standardised features, as ``LinearProbe.coef_``; intercept (C,), mean and scale (Dp,) likewise.

    Raises
    ------
    UsageError
        The shapes do not fit.
    """
    import torch

    weights, bias, centre, spread = (np.asarray(array, dtype=np.float64) for array in (coef, intercept, mean, scale))
    classes, width = weights.shape if weights.ndim == 2 else (-1, -1)
    if (bias.shape, centre.shape, spread.shape) != ((classes,), (width,), (width,)):
        raise UsageError(
            f"a probe is coef (C, D), intercept (C,), mean (D,) and scale (D,); got {weights.shape}, {bias.shape}, "
            f"{centre.shape} and {spread.shape}"
        )
    raw = weights / spread
    folded = (torch.from_numpy(array).to(model.device, model.dtype) for array in (raw, bias - raw @ centre))
    return ProbeEnergy(*folded)


def smoothness(perturbation: torch.Tensor) -> torch.Tensor:
    """How rough each perturbation is: mean(dy²) + mean(dx²), (B,).

    dy and dx are forward differences along height and width, zero in the last row and the last column, and both means
    run over all elements, those zeros included (torchmetrics' ``image_gradients``, as the released code of arXiv
    2303.05828 uses it).

    Parameters
    ----------
    perturbation : (B, 3, H, W)
    """
    dy, dx = perturbation.diff(dim=2), perturbation.diff(dim=3)
    elements = perturbation[0].numel()
    total: torch.Tensor = (dy.square().flatten(1).sum(dim=1) + dx.square().flatten(1).sum(dim=1)) / elements
    return total
