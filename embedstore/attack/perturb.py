"""Perturb images until their features say what an attack wants. Tensors in, arrays out; N is the number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from embedstore.attack.budget import Room
from embedstore.attack.objective import Objective, smoothness
from embedstore.attack.options import Options
from embedstore.attack.perturbed import Perturbed, joined
from embedstore.encoders.runtime import exact_convolutions, out_of_memory
from embedstore.errors import ModelUnavailable, NotAvailable, UsageError
from embedstore.records import FloatArray

if TYPE_CHECKING:
    import torch

    from embedstore.encoders import Differentiable

T = TypeVar("T")

# Called with the images that are done, the steps that those in hand have behind them, and their mean loss and
# similarity.
Watch: TypeAlias = Callable[[int, int, float, float], None]


@dataclass
class Batches:
    """How many images there is memory for; halved, with a note, when there turns out not to be.

    Attributes
    ----------
    size : int
        Images at once.
    notes : list of str
        What a person should know.
    """

    size: int = 16
    notes: list[str] = field(default_factory=list)

    def over(self, count: int, one: Callable[[slice], T]) -> Iterator[T]:
        """``one(rows)`` for the slices of `count` rows, in order.

        Raises
        ------
        UsageError
            The size is less than 1.
        ModelUnavailable
            There is not even memory for one image.
        """
        import torch

        if self.size < 1:
            raise UsageError(f"a batch must have at least one image, not {self.size}")
        start = 0
        while start < count:
            rows = slice(start, min(start + self.size, count))
            try:
                made = one(rows)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                tried = rows.stop - rows.start
                if tried == 1:
                    why = str(error).partition("\n")[0]
                    raise ModelUnavailable(f"there is no memory for one image: {why}") from error
                self.size = tried // 2
                self.notes.append(f"out of memory with {tried} images at once; going on with {self.size}")
            else:
                yield made
                start = rows.stop
                continue
            torch.cuda.empty_cache()  # only here: the exception held on to what did not fit


def perturb(
    model: Differentiable,
    images: torch.Tensor,
    objective: Objective,
    options: Options | None = None,
    *,
    seeds: Sequence[Sequence[int]],
    batches: Batches | None = None,
    watch: Watch | None = None,
) -> Perturbed:
    """Maximise similarity less smoothness by gradient steps on the pixels.

    The loop of the code released with arXiv 2303.05828: noise, clamped to valid pixels; then, `steps` times, Adam
    (torch's defaults) on -similarity + lambda smoothness, and the clamp again. Theirs is the loss of a batch, the mean
    over its 16 images; here every image has its own, so that nothing depends on the batch. Adam divides the gradient by
    its size, so the two differ only through its eps of 1e-8, which weighs 16 times less here.

    An image whose loss or gradient is not finite is marked as failed and left as it was; the others go on. Out of
    memory, the batch is halved for all that is left and begun again.

    Parameters
    ----------
    model : Differentiable
    images : (N, 3, H, W) tensor of the model's dtype
        Clean, in [0, 1]; moved to the model's device batch by batch.
    objective : callable
        See :mod:`embedstore.attack.objective`.
    options : Options, optional
        By default the released protocol.
    seeds : N sequences of int
        Each image's own seed of the noise, say (seed, row); drawn on the CPU, so the same on every device.
    batches : Batches, optional
        By default 16 images at once.
    watch : callable, optional
        See :data:`Watch`; called whenever a trace is recorded.

    Raises
    ------
    UsageError
        Images that are no such tensor, or not as many seeds as images.
    NotAvailable
        The model's features do not depend on the pixels in a way that gradients see.
    ModelUnavailable
        There is not even memory for one image.
    """
    options = options or Options()
    _check(images, seeds)

    def one(rows: slice) -> Perturbed:
        clean = images[rows].to(model.device, model.dtype)
        return _Walk(model, clean, objective, rows, options, watch).run(_noise(clean, seeds[rows], options.init_scale))

    return joined(list((batches or Batches()).over(len(images), one)))


def _check(images: torch.Tensor, seeds: Sequence[Sequence[int]]) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise UsageError(f"images must be a (N, 3, H, W) tensor with N >= 1, got {tuple(images.shape)}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise UsageError("clean pixels must be in [0, 1], before normalisation")
    if len(seeds) != len(images):
        raise UsageError(f"{len(images)} images need as many seeds, got {len(seeds)}")


def _noise(clean: torch.Tensor, seeds: Sequence[Sequence[int]], scale: float) -> torch.Tensor:
    import torch

    shape = clean.shape[1:]
    drawn = np.stack([np.random.default_rng(list(seed)).standard_normal(shape) for seed in seeds])
    return (scale * torch.from_numpy(drawn)).to(clean.device, clean.dtype)


class _Walk:
    """One batch of b images on its way."""

    def __init__(
        self,
        model: Differentiable,
        clean: torch.Tensor,
        objective: Objective,
        rows: slice,
        options: Options,
        watch: Watch | None,
    ) -> None:
        self._model, self._clean, self._objective, self._rows = model, clean, objective, rows
        self._options, self._watch = options, watch
        self._room = Room(clean, options.budget)
        self._reasons: list[str | None] = [None] * len(clean)
        self._traces: list[tuple[FloatArray, FloatArray]] = []
        self._snapshots: dict[int, FloatArray] = {}

    def run(self, noise: torch.Tensor) -> Perturbed:
        """All steps, from this noise."""
        import torch

        rho = self._room.project(noise).requires_grad_()
        adam = torch.optim.Adam([rho], lr=self._options.step_size)
        with exact_convolutions(self._model.device):
            for step in range(self._options.steps):
                rho.grad = self._gradient(rho, step)
                with torch.no_grad():
                    if self._options.optimizer == "adam":
                        adam.step()
                    else:
                        rho -= self._options.step_size * rho.grad.sign()
                    rho.copy_(self._room.project(rho))
                    if any(self._reasons):
                        rho[self._failed()] = 0
            with torch.no_grad():
                return self._result(rho.detach())

    def _gradient(self, rho: torch.Tensor, step: int) -> torch.Tensor:
        """Of each image's own loss; anything for those that have failed."""
        import torch

        with torch.enable_grad():
            features = self._model.features(self._clean + rho)
            if not features.requires_grad:
                raise NotAvailable(
                    "the model's features carry no gradient back to the pixels, so it cannot be attacked"
                )
            similarity = self._objective(self._model, features, self._rows)
            loss = self._options.smoothness * smoothness(rho) - similarity
            gradient: torch.Tensor = torch.autograd.grad(loss.sum(), rho)[0]
        finite = loss.isfinite() & gradient.isfinite().flatten(1).all(dim=1)
        for row in torch.nonzero(~finite).flatten().tolist():
            what = "gradient" if bool(loss[row].isfinite()) else "loss"
            self._reasons[row] = self._reasons[row] or f"model: the {what} is not finite after {step} steps"
        self._record(step, features.detach(), loss.detach(), similarity.detach())
        return gradient

    def _failed(self) -> torch.Tensor:
        import torch

        return torch.tensor([reason is not None for reason in self._reasons], device=self._clean.device)

    def _record(self, step: int, features: torch.Tensor, loss: torch.Tensor, similarity: torch.Tensor) -> None:
        last = step == self._options.steps
        if step in self._options.snapshots:
            self._snapshots[step] = _float32(features)
        if step in self._options.trace_steps:
            self._traces.append((_float64(loss), _float64(similarity)))
            if self._watch is not None:
                fine = [row for row, reason in enumerate(self._reasons) if reason is None]
                means = [float(trace[fine].mean()) if fine else float("nan") for trace in self._traces[-1]]
                self._watch(self._rows.stop if last else self._rows.start, step, *means)

    def _measured(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self._model.features(images)
        return features, self._objective(self._model, features, self._rows)

    def _result(self, rho: torch.Tensor) -> Perturbed:
        import torch

        images = self._room.images(rho)
        rounded = (images * 255).round().to(torch.uint8)
        clean_features, before = self._measured(self._clean)
        features, after = self._measured(images)
        rounded_features, after_rounding = self._measured(rounded.to(images.dtype) / 255)
        finite = (before + after + after_rounding).isfinite()
        for row in torch.nonzero(~finite).flatten().tolist():
            self._reasons[row] = self._reasons[row] or "model: the similarity is not finite"
        self._record(
            self._options.steps, features, self._options.smoothness * smoothness(images - self._clean) - after, after
        )
        change = (images.double() - self._clean.double()).flatten(1)
        lost = np.flatnonzero([reason is not None for reason in self._reasons])
        losses, similarities = zip(*self._traces, strict=True)
        with np.errstate(divide="ignore"):
            psnr = -10 * np.log10(_float64(change.square().mean(dim=1)))
        return Perturbed(
            images=images.cpu().numpy(),
            rounded=rounded.cpu().numpy(),
            features_clean=_without(lost, _float32(clean_features)),
            features=_without(lost, _float32(features)),
            features_rounded=_without(lost, _float32(rounded_features)),
            similarity_before=_without(lost, _float64(before)),
            similarity=_without(lost, _float64(after)),
            similarity_rounded=_without(lost, _float64(after_rounding)),
            l2=_without(lost, _float64(change.square().sum(dim=1).sqrt())),
            linf=_without(lost, _float64(change.abs().amax(dim=1))),
            psnr=_without(lost, psnr),
            trace_steps=np.array(self._options.trace_steps, dtype=np.int64),
            trace_loss=_without(lost, np.stack(losses, axis=1)),
            trace_similarity=_without(lost, np.stack(similarities, axis=1)),
            snapshots={step: _without(lost, found) for step, found in sorted(self._snapshots.items())},
            reasons=tuple(self._reasons),
        )


def _float32(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


def _float64(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.double().cpu().numpy(), dtype=np.float64)


def _without(lost: npt.NDArray[np.intp], values: FloatArray) -> FloatArray:
    values = values.copy()
    values[lost] = np.nan
    return values
