"""How far an attacked image may be from the clean one, held exactly in floating point."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.errors import UsageError

if TYPE_CHECKING:
    import torch

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Budget:
    """The most that an image may be changed by, in pixels of [0, 1].

    Attributes
    ----------
    norm : str
        ``"linf"``, the largest change of a value; or ``"l2"``, the Euclidean length of the change of all of them.
    size : float
        Positive; of linf below 1, which is no bound.

    Raises
    ------
    UsageError
        Anything else.
    """

    norm: str
    size: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS or not 0 < self.size < float("inf"):
            raise UsageError(f"a budget is linf=SIZE or l2=SIZE with a positive size, not {self.norm}={self.size}")
        if self.norm == "linf" and self.size >= 1:
            raise UsageError(
                f"the budget linf={self.size:g} is no bound: pixels are in [0, 1]. For {self.size:g} levels of 255 "
                f"write linf={self.size:g}/255"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``"linf=8/255"``, ``"linf=0.03"`` or ``"l2=2.5"``; UsageError for anything else."""
        number = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
        found = re.fullmatch(rf"\s*(linf|l2)\s*=\s*(?P<over>{number})\s*(?:/\s*(?P<under>{number}))?\s*", text)
        if found is None or float(found["under"] or 1) == 0:
            raise UsageError(f"the budget {text!r} is not understood; write linf=8/255, linf=0.03 or l2=2.5")
        return cls(found[1], float(found["over"]) / float(found["under"] or 1))

    def __str__(self) -> str:
        return f"{self.norm}={self.size!r}"


class Room:
    """Where perturbations of some images may be: valid pixels, and within the budget if there is one.

    Without a budget it is the box [-y, 1 - y] of the released code of arXiv 2303.05828. With one, what
    :meth:`images` gives satisfies both to the last bit: every pixel in [0, 1], and the norm of the difference to the
    clean image, computed in float64, at most the budget's size.

    Parameters
    ----------
    clean : (B, 3, H, W) float32 or float64
        In [0, 1].
    """

    def __init__(self, clean: torch.Tensor, budget: Budget | None) -> None:
        import torch

        self._clean, self._budget = clean, budget
        self._low, self._high = torch.zeros_like(clean), torch.ones_like(clean)
        if budget is not None and budget.norm == "linf":
            wide = clean.double()
            self._low = _inward(wide - budget.size, wide, budget.size, clean.dtype, towards=1.0).clamp(min=0)
            self._high = _inward(wide + budget.size, wide, budget.size, clean.dtype, towards=0.0).clamp(max=1)

    def project(self, perturbation: torch.Tensor) -> torch.Tensor:
        """The perturbation, (B, 3, H, W), brought back into its room.

        First the box, then the ball: a box that contains 0 stays satisfied when everything shrinks towards 0, and what
        the box cuts off leaves more of the ball to the rest than the other way round.
        """
        inside = perturbation.clamp(self._low - self._clean, self._high - self._clean)
        if self._budget is None or self._budget.norm != "l2":
            return inside
        lengths = inside.double().square().flatten(1).sum(dim=1).sqrt()
        factors = (self._budget.size / lengths.clamp(min=self._budget.size)).to(inside.dtype)
        return inside * factors[:, None, None, None]

    def images(self, perturbation: torch.Tensor) -> torch.Tensor:
        """The perturbed images, (B, 3, H, W), for perturbations that :meth:`project` gave."""
        made = (self._clean + perturbation).clamp(self._low, self._high)
        if self._budget is None or self._budget.norm != "l2":
            return made
        # Sums round, so that a projected perturbation can come out a little too long: then shrink until it is not.
        shrink = 2.0**-22
        wide = self._clean.double()
        while (too_long := _length(made, wide) > self._budget.size * (1 - 1e-12)).any():
            kept = max(0.0, 1.0 - shrink)
            shorter = (wide + (made.double() - wide) * kept).to(made.dtype)
            made = shorter.where(too_long[:, None, None, None], made)
            shrink *= 2
        return made


def _length(images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return (images.double() - clean).square().flatten(1).sum(dim=1).sqrt()


def _inward(
    bound: torch.Tensor, clean: torch.Tensor, size: float, dtype: torch.dtype, *, towards: float
) -> torch.Tensor:
    """A bound in a narrower dtype, never further from the clean image than `size`, whichever way it was rounded."""
    import torch

    found = bound.to(dtype)
    inner = torch.full_like(found, towards)
    while (outside := (found.double() - clean).abs() > size).any():
        found = torch.nextafter(found, inner).where(outside, found)
    return found
