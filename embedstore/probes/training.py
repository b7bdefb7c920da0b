"""The paper's training loop, for one probe or a stack of them: Adam with coupled weight decay, warm-up and cosine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.probes.base import Features, Float32, Float64, as_tensor

if TYPE_CHECKING:
    import torch


def learning_rates(total_steps: int, peak: float) -> Float64:
    """The learning rate of every step: a linear warm-up from 0, then half a cosine towards 0.

    The first int(0.1 x total) steps rise from 0 to the peak, both included; the others fall from the peak, so the peak
    appears twice, and the last rate is a little above 0. As in the released code of Adaloglou et al., whose scaling of
    the rate by batch size / 256 is overwritten by this schedule and so never happens.

    Parameters
    ----------
    total_steps : int
    peak : float

    Returns
    -------
    (total_steps,) float64
    """
    warm = int(0.1 * total_steps)
    fall = total_steps - warm
    cosine = 0.5 * peak * (1 + np.cos(np.pi * np.arange(fall) / max(fall, 1)))
    return np.concatenate([np.linspace(0, peak, warm), cosine])


@dataclass(frozen=True)
class Stack:
    """What G x L probes that are trained together have in common, and in what they differ.

    Every one of the G seeds has L probes, which start from the same weights and see the same batches, so each batch is
    fetched and standardised once for all L of them. ``lr`` and ``weight_decay`` have G rows of L numbers.
    """

    seeds: Sequence[int]
    lr: Sequence[Sequence[float]]
    weight_decay: Sequence[Sequence[float]]
    epochs: int
    batch_size: int
    device: str


def train(
    stack: Stack, rows: Features, targets: Features, n_classes: int, mean: Float64, scale: Float64
) -> tuple[Float32, Float32]:
    """Weights (G, L, C, D) and biases (G, L, C).

    ``targets`` are classes, (N,) int64, or probabilities, (N, C) float.

    Autograd rather than gradients by hand: those were at most 10 % faster (1.2 against 1.3 ms a step for 256 x
    1,280 and 100 classes on two CPU cores), which is not worth the calculus.
    """
    import torch

    device, seeds, each, width = stack.device, len(stack.seeds), len(stack.lr[0]), rows.shape[1]
    # On the CPU, so that all devices draw the same numbers.
    generators = [torch.Generator().manual_seed(int(seed)) for seed in stack.seeds]  # torch takes no numpy integer
    drawn = [_initial(generator, n_classes, width) for generator in generators]
    weight, bias = (t.to(device).requires_grad_() for t in _stacked(drawn, each))
    adam = _Adam(weight, bias, np.array(stack.lr).ravel(), np.array(stack.weight_decay).ravel())
    x, y = as_tensor(rows).to(device), as_tensor(targets).to(device)
    # float64 features are standardised as such: rounded before, those far from zero would lose what varies in them.
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    center, spread = (torch.as_tensor(m, dtype=precision, device=device) for m in (mean, scale))
    orders = zip(*(_batches(g, len(rows), stack.batch_size, stack.epochs) for g in generators), strict=True)
    steps = stack.epochs * -(-len(rows) // stack.batch_size)
    for rate, batch in zip(learning_rates(steps, 1.0).tolist(), orders, strict=True):
        index = torch.cat(batch).to(device)  # (G * B,)
        # One indexing operation a batch; a DataLoader over a tensor fetches and stacks it row by row.
        standard = ((x.index_select(0, index).to(precision) - center) / spread).float()
        loss = _loss(standard, y.index_select(0, index), weight, bias, n_classes)
        adam.step(loss, rate)
    shape = (seeds, each, n_classes)
    return weight.detach().cpu().numpy().reshape(*shape, width), bias.detach().cpu().numpy().reshape(shape)


def _stacked(drawn: Sequence[tuple[torch.Tensor, torch.Tensor]], each: int) -> Sequence[torch.Tensor]:
    """The initial weights of all seeds: those of one lie in one wide layer, (G, L * C, D), and its bias, (G, L * C).

    A single probe's stay (C, D) and (C,): even views would cost it a tenth of its time.
    """
    import torch

    if len(drawn) == each == 1:
        return drawn[0]
    weights, biases = zip(*drawn, strict=True)
    return torch.stack(weights).repeat(1, each, 1), torch.stack(biases).repeat(1, each)


def _loss(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, n_classes: int) -> torch.Tensor:
    """The sum over all probes of their mean cross-entropies, so that each probe's gradient is its own.

    x : (G * B, D); y : (G * B,) classes or (G * B, C) probabilities; weight and bias as :func:`_stacked` shapes them.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear

    if y.is_floating_point():
        y = y.float()
    if weight.ndim == 2:
        return cross_entropy(linear(x, weight, bias), y)
    seeds, wide, width = weight.shape
    each, size = wide // n_classes, len(x) // seeds
    # Classes before rows: the gradient of the weights comes out contiguous, and few classes do not make short rows.
    z = torch.baddbmm(bias[:, :, None], weight, x.view(seeds, size, width).transpose(1, 2))  # (G, L * C, B)
    targets = y.view(seeds, 1, size).expand(seeds, each, size).reshape(-1, size)
    return cross_entropy(z.view(-1, n_classes, size), targets, reduction="sum") / size


class _Adam:
    """Adam (Kingma & Ba, arXiv 1412.6980) with coupled weight decay: the numbers of ``torch.optim.Adam``.

    Of several probes, which lie one after the other in weight and bias, each has its peak rate and its weight decay.

    Written out because merely constructing one of torch's optimizers imports torch's compiler, which takes several
    seconds: longer than most probes train. The step itself is the one that they call: in one pass over the numbers,
    where operation by operation takes 3 times as long for one probe of 100 x 768, and 10 times for 25.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, lr: Float64, weight_decay: Float64) -> None:
        import torch

        self.parameters, self.n_probes = (weight, bias), len(lr)
        self.steps = torch.zeros((), device=bias.device)
        state = [[torch.zeros_like(p, requires_grad=False) for p in self.parameters] for _ in range(2)]
        self.first, self.second = (self._each(moments) for moments in state)
        self.values = self._each([p.detach() for p in self.parameters])
        alike: dict[tuple[float, float], list[int]] = {}
        for place, numbers in enumerate(zip(lr.tolist(), weight_decay.tolist(), strict=True)):
            alike.setdefault(numbers, []).extend([place, self.n_probes + place])
        self.alike = alike

    def _each(self, pair: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The weights of every probe, then the biases of every probe, as they lie in weight and bias."""
        return [own for both in pair for own in both.reshape(self.n_probes, -1).unbind()]

    def step(self, loss: torch.Tensor, part: float) -> None:
        """Differentiate the loss and move the parameters by this part of the peak rates."""
        import torch

        self.steps += 1
        gradients = self._each(torch.autograd.grad(loss, self.parameters))
        for (peak, weight_decay), places in self.alike.items():
            torch._fused_adam_(
                [self.values[place] for place in places],
                [gradients[place] for place in places],
                [self.first[place] for place in places],
                [self.second[place] for place in places],
                [],
                [self.steps] * len(places),
                lr=part * peak,
                beta1=0.9,
                beta2=0.999,
                weight_decay=weight_decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


def _initial(generator: torch.Generator, n_classes: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``torch.nn.Linear(width, n_classes)`` starts from: uniform in ±1 / sqrt(width), weights then bias."""
    import torch

    bound = width**-0.5
    weight = torch.empty(n_classes, width).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(n_classes).uniform_(-bound, bound, generator=generator)


def _batches(generator: torch.Generator, n: int, size: int, epochs: int) -> Iterator[torch.Tensor]:
    """Row numbers of each batch; a new permutation every epoch, the last batch of which may be smaller."""
    import torch

    for _ in range(epochs):
        order = torch.randperm(n, generator=generator)
        yield from (order[start : start + size] for start in range(0, n, size))
