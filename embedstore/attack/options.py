"""How an attack is carried out, with the paper's two ways as presets.

``smooth``    clip-ood-adversarial-examples.ipynb of the code released with arXiv 2303.05828: lambda 5e3, as its cells
              call it (the function's own default is 1e3).
``patchy``    the same notebook with lambda 0, which leaves visible patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedstore.attack.budget import Budget
from embedstore.errors import UsageError

OPTIMIZERS = ("adam", "pgd")


@dataclass(frozen=True)
class Options:
    """How each image is perturbed; the defaults are those of the notebook released with arXiv 2303.05828.

    Attributes
    ----------
    steps : int
        At least 1. The notebook calls its function with 250, whose own default is 200.
    lr : float, optional
        The learning rate of Adam, 1e-3 if not given; the length of a step of PGD, 2.5 / `steps` of the budget if not.
    smoothness : float
        What roughness costs: lambda of mean(dy²) + mean(dx²).
    init_scale : float
        Standard deviation of the Gaussian noise that a perturbation begins as.
    budget : Budget, optional
        The notebook has none.
    optimizer : str
        ``"adam"``; or ``"pgd"``, the baseline of Madry et al. (arXiv 1706.06083): steps of one length along the sign of
        the gradient, in a linf budget.
    snapshots : tuple of int
        Keep the features after so many steps, each in [0, `steps`].
    every : int
        Record loss and similarity after every so many steps.

    Raises
    ------
    UsageError
        A value out of its range; PGD without a linf budget.
    """

    steps: int = 250
    lr: float | None = None
    smoothness: float = 5e3
    init_scale: float = 1e-3
    budget: Budget | None = None
    optimizer: str = "adam"
    snapshots: tuple[int, ...] = ()
    every: int = 10

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"the optimizer is one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}")
        if self.optimizer == "pgd" and (self.budget is None or self.budget.norm != "linf"):
            raise UsageError("pgd walks in a linf budget; give one, as linf=8/255")
        if self.steps < 1 or self.every < 1:
            raise UsageError(f"steps and every must be at least 1, got steps={self.steps}, every={self.every}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UsageError(f"the learning rate must be positive, not {self.lr}")
        for name, value in (("smoothness", self.smoothness), ("init_scale", self.init_scale)):
            if not 0 <= value < float("inf"):
                raise UsageError(f"{name} must be 0 or more, not {value}")
        if any(not 0 <= step <= self.steps for step in self.snapshots):
            raise UsageError(f"snapshots must be in [0, {self.steps}], the steps; got {list(self.snapshots)}")

    @property
    def step_size(self) -> float:
        """`lr`, or its default."""
        if self.lr is not None:
            return self.lr
        return 2.5 * self.budget.size / self.steps if self.optimizer == "pgd" and self.budget else 1e-3

    @property
    def trace_steps(self) -> list[int]:
        """After how many steps loss and similarity are recorded."""
        return [*range(0, self.steps, self.every), self.steps]

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all that the images depend on, defaults filled in."""
        return {
            "steps": self.steps,
            "lr": self.step_size,
            "smoothness": self.smoothness,
            "init_scale": self.init_scale,
            "budget": str(self.budget) if self.budget else None,
            "optimizer": self.optimizer,
            "snapshots": sorted(set(self.snapshots)),
            "every": self.every,
        }


PRESETS: Mapping[str, Options] = {"smooth": Options(), "patchy": Options(smoothness=0.0)}
