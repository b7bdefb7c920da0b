"""Where an attack wants the features: at target images, class prototypes, texts, or high in a probe's energy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.attack.objective import Objective, Toward, probe_energy
from embedstore.errors import UsageError
from embedstore.records import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

    from embedstore.encoders import Differentiable

PROBE = ("coef", "intercept", "mean", "scale")


@dataclass(frozen=True)
class Aim:
    """What the features of an attacked image are pulled towards.

    Attributes
    ----------
    kind : str
        ``"images"``: the features of the drawn target image, as in arXiv 2303.05828.
        ``"prototypes"``: the vector of the target's class among `vectors`, before the projection.
        ``"texts"``: the same in the joint space, against zero-shot methods.
        ``"energy"``: no target; the energy of a linear probe is to be high.
    vectors : (C, W) float, optional
        One for each class, in label order, for prototypes (W = Dp) and texts (W = D). Of any length.
    probe : mapping of str to array
        ``coef`` (C, Dp), ``intercept`` (C,), ``mean`` and ``scale`` (Dp,), as results keep the weights of a probe.
    templates : str, optional
        Which prompts texts were made with; for the record alone.

    Raises
    ------
    UsageError
        An unknown kind, or arrays that do not belong to it.
    """

    kind: str = "images"
    vectors: FloatArray | None = None
    probe: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    templates: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("images", "prototypes", "texts", "energy"):
            raise UsageError(f"an attack aims at images, prototypes, texts or energy, not at {self.kind!r}")
        if (self.vectors is not None) != self.by_class:
            raise UsageError(f"aiming at {self.kind} {'needs' if self.by_class else 'takes no'} vectors of classes")
        if sorted(self.probe) != (sorted(PROBE) if self.kind == "energy" else []):
            raise UsageError(
                f"aiming at energy needs a probe's {', '.join(PROBE)}; aiming at {self.kind}, {sorted(self.probe)} "
                f"were given"
            )
        if self.vectors is not None and not (self.vectors.ndim == 2 and np.isfinite(self.vectors).all()):
            raise UsageError(f"the vectors of classes must be a finite (C, W) array, got shape {self.vectors.shape}")

    @property
    def by_class(self) -> bool:
        """Whether only the target's class matters."""
        return self.kind in ("prototypes", "texts")

    def check(self, labels: IntArray, feature_dim: int, joint_dim: int) -> None:
        """Raise UsageError unless every target's class has a vector, and vectors are as wide as the model's.

        Parameters
        ----------
        labels : (N,) int
            Of the targets.
        feature_dim, joint_dim : int
            The model's widths before (Dp) and after (D) the projection.
        """
        if self.kind == "energy" and np.shape(self.probe["coef"])[1:] != (feature_dim,):
            raise UsageError(f"the model's features are {feature_dim} wide, the probe's {np.shape(self.probe['coef'])}")
        if self.vectors is None:
            return
        width = joint_dim if self.kind == "texts" else feature_dim
        if self.vectors.shape[1] != width:
            raise UsageError(f"vectors to aim at must be {width} wide for this model, not {self.vectors.shape[1]}")
        has_one = (self.vectors != 0).any(axis=1).tolist()  # a vector of zeros has no direction
        lost = sum(not (0 <= label < len(has_one) and has_one[label]) for label in labels.tolist())
        if lost:
            raise UsageError(
                f"aiming at {self.kind}, every target needs a class among the {sum(has_one)} that have a vector; "
                f"{lost} of {len(labels)} targets have none"
            )

    def to_json(self) -> dict[str, Any]:
        """The kind, a SHA-256 of the arrays, and the templates if there are any."""
        arrays = {"vectors": self.vectors, **self.probe} if self.vectors is not None else dict(self.probe)
        digest = hashlib.sha256()
        for name in sorted(arrays):
            wide = np.ascontiguousarray(arrays[name], dtype="<f8")
            digest.update(f"{name} {wide.shape}".encode() + wide.tobytes())
        found = {"kind": self.kind, "arrays": digest.hexdigest() if arrays else None}
        return found if self.templates is None else {**found, "templates": self.templates}

    def objective(self, model: Differentiable, targets: torch.Tensor | None, labels: IntArray) -> Objective:
        """What to maximise for N images.

        Parameters
        ----------
        targets : (N, Dp) tensor or None
            Features of the target images, if they are what is aimed at.
        labels : (N,) int
            Classes of the targets.
        """
        import torch

        if self.kind == "energy":
            return probe_energy(model, *(self.probe[name] for name in PROBE))
        if self.vectors is not None:
            chosen = torch.from_numpy(np.asarray(self.vectors[labels], dtype=np.float64))
            return Toward(chosen.to(model.device, model.dtype), joint=self.kind == "texts")
        if targets is None:
            raise UsageError("aiming at images needs the features of the targets")
        return Toward(targets)
