"""Multinomial logistic regression at its optimum, the L2 penalty chosen on held-out training rows.

The linear probe of Radford et al. (CLIP, arXiv 2103.00020): L-BFGS, and a sweep of the penalty on rows that are neither
trained on nor the test's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError
from embedstore.probes.base import Int64, Moments, Probe, as_tensor
from embedstore.probes.descent import descended

if TYPE_CHECKING:
    import torch


# The mean loss of standardised features: from a penalty under which every logit is about 0 to next to none.
_GRID = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_ROWS = 1024  # in float64 at once; with 512 features a third faster than 4,096, which leave the processor's cache
_ROWS_ON_DEVICE = 65_536  # off the CPU a small block takes less time than starting the work on it
_ROWS_OF_CURVATURE = 4096  # of 1,280 features a good estimate; with those of all rows as many steps are needed
_SLACK = 1e-3  # of l2: the weights are then within this times the root of their number of the optimum


class LogisticProbe(Probe):
    """One linear layer with bias on standardised features, at the minimum of the penalised cross-entropy.

    Like :class:`LinearProbe`, it has a logit for each class even when there are two, and for classes without rows.

    Over the N training rows, weights W (C, D) and intercepts b (C,) minimise

        1/N sum_i -log softmax(W x_i + b)[y_i]  +  l2/2 sum_cd W_cd^2

    The intercepts are not penalised. On the same standardised features scikit-learn's ``LogisticRegression`` has the
    same minimum with C = 1 / (l2 * N); for two classes its one weight vector is the difference of ours, with
    C = 2 / (l2 * N). The minimum is unique but for a number added to all intercepts; here those of the classes with
    rows sum to 0.

    Without ``l2``, part of the training rows is held out, stratified; the rest is fitted with every penalty of
    ``l2_grid``, the strongest first, each fit starting from the one before. The penalty with the best accuracy on the
    held-out rows, of several the strongest, is then used for all training rows.

    Parameters
    ----------
    n_classes : int or None
        None: the classes are the labels that occur. An integer C: labels are indices in [0, C).
    l2 : float or None
        The penalty, positive: without one, classes that can be separated have no optimum. None: choose it.
    l2_grid : tuple of float
        What to choose from, by default the powers of ten from 10 to 1e-6.
    held_out : float, default 0.2
        In (0, 1): this part of every class is held out, at least one row, but never the last one.
    max_iter : int, default 1000
        Of L-BFGS, for every fit.
    tol : float, default 1e-6
        Converged when no partial derivative of the loss is larger, nor, in the last fit, than l2 / 1000: the weights
        are within norm(gradient) / l2 of the optimum, so that one number for all penalties would be too large for
        weak ones. While the penalty is chosen, ``tol`` alone counts.
    seed : int, default 0
        Of the draw of held-out rows; nothing else is random.
    standardize : bool, default True
        By the mean and the unbiased standard deviation of all training rows; a constant feature is only centred.
    device : str, default "cpu"
        Where to compute: matrix products and softmax in float32 as far as that leads, the end and everything that is
        promised above in float64 (the device must have it). The features live there in their own dtype.

    Attributes
    ----------
    classes_ : (C,)
    coef_ : (C, D) float64
        Of the standardised features; 0 for a class without rows.
    intercept_ : (C,) float64
        Of a class without rows the minimum would be at minus infinity. It gets the smallest logit of any training row
        less log(N + 1): on training rows its probability is at most 1 / (N + 1).
    mean_, scale_ : (D,) float64
        0 and 1 without ``standardize``.
    l2_ : float
        The penalty used.
    l2_path_ : dict of float to float
        Held-out accuracy, in [0, 1], of every penalty tried, the strongest first; empty where ``l2`` was given. If the
        best is the first or the last of the grid, a wider grid may have a better one.
    n_iter_ : int
        Iterations of L-BFGS of the last fit.
    n_features_in_ : int
    """

    l2_: float
    l2_path_: dict[float, float]
    n_iter_: int

    def __init__(
        self,
        n_classes: int | None = None,
        l2: float | None = None,
        l2_grid: Sequence[float] = _GRID,
        held_out: float = 0.2,
        max_iter: int = 1000,
        tol: float = 1e-6,
        seed: int = 0,
        standardize: bool = True,
        device: str = "cpu",
    ) -> None:
        self.n_classes = n_classes
        self.l2 = l2
        self.l2_grid = l2_grid
        self.held_out = held_out
        self.max_iter = max_iter
        self.tol = tol
        self.seed = seed
        self.standardize = standardize
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, *, moments: Moments | None = None) -> Self:
        """Train from zero. Beside X, memory holds 1,024 rows in float64 (off the CPU 65,536), some 40 arrays
        like W and three of shape (D, D).

        X may be mapped from disk (``numpy.memmap``, read-only): every evaluation of the loss reads it once, in order.

        Parameters
        ----------
        X : (N, D) float16, float32 or float64
        y : (N,)
            Rows with an unknown label (-1) must be left out: without ``n_classes`` it would be a class of its own.
        moments
            As :func:`embedstore.probes.fit_probes`.

        Raises
        ------
        UsageError
            A parameter is out of range, a label outside [0, n_classes), or ``moments`` are not as described there.
        NotAvailable
            The penalty is to be chosen, but every class has a single row, so that none can be held out.
        ValueError
            X is not a finite matrix, or y does not fit it.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            The last fit stopped before the optimum, at ``max_iter`` or because rounding lets the loss fall no further.
            (Those before it may stop, too; their accuracy counts as it is.)
        """
        import torch

        _check_ranges(self)
        rows, codes = self._training_rows(X, y, moments)
        present, places = np.unique(codes, return_inverse=True)
        mean, scale = (torch.as_tensor(m, device=self.device) for m in (self.mean_, self.scale_))
        data = _Data(
            as_tensor(rows).to(self.device), as_tensor(places).to(self.device), mean, scale, len(present), chosen=None
        )
        parameters = torch.zeros(len(present), rows.shape[1] + 1, dtype=torch.float64, device=self.device)
        self.l2_path_ = {}
        if self.l2 is None:
            self.l2_, parameters = self._choose(data, places, parameters)
        else:
            self.l2_ = float(self.l2)
        limit = min(self.tol, _SLACK * self.l2_)
        parameters, self.n_iter_, steepest = _minimum(data, self.l2_, parameters, self.max_iter, limit)
        if not steepest <= limit:
            _warn(self, steepest, limit)
        self._keep(data, parameters, present)
        return self

    def _choose(self, data: _Data, places: Int64, parameters: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The best penalty on held-out rows and its parameters, where the last fit may start."""
        train, held = _split(places, self.held_out, self.seed)
        if not len(held):
            raise NotAvailable(
                "to choose l2, rows are held out, but no class has two rows "
                f"(n_samples={len(places)}, n_classes={data.n_classes}); give l2"
            )
        fitted, tested = data.part(train), data.part(held)
        best = self.l2_grid[0], parameters
        for l2 in sorted(self.l2_grid, reverse=True):
            parameters, _, _ = _minimum(fitted, l2, parameters, self.max_iter, self.tol)
            accuracy = _accuracy(tested, parameters)
            if accuracy > max(self.l2_path_.values(), default=-1.0):
                best = float(l2), parameters
            self.l2_path_[float(l2)] = accuracy
        return best

    def _keep(self, data: _Data, parameters: torch.Tensor, present: Int64) -> None:
        """Weights of all classes from the parameters of those with rows."""
        n_classes = len(self.classes_)
        # The same number for all classes changes no probability, so at the minimum it is 0. Rounding adds one.
        parameters = parameters - parameters.mean(dim=0)
        self.coef_, self.intercept_ = np.zeros((n_classes, data.x.shape[1])), np.zeros(n_classes)
        self.coef_[present], self.intercept_[present] = parameters[:, :-1].cpu(), parameters[:, -1].cpu()
        if len(present) < n_classes:
            smallest = min(float(z.min()) for z, _, _ in data.logits(parameters, parameters.dtype))
            self.intercept_[np.setdiff1d(np.arange(n_classes), present)] = smallest - np.log(len(data) + 1)


@dataclass(frozen=True)
class _Data:
    """Training rows on a device, or some of them, and the loss on these.

    Parameters are (C, D + 1) float64 on the device: weights, and in the last column the intercepts.
    """

    x: torch.Tensor  # (N, D) of any floating dtype
    y: torch.Tensor  # (N,) int64 in [0, n_classes)
    mean: torch.Tensor  # (D,) float64
    scale: torch.Tensor  # (D,) float64
    n_classes: int
    chosen: torch.Tensor | None  # (n,) int64 row numbers, ascending; None: all

    def __len__(self) -> int:
        return len(self.x if self.chosen is None else self.chosen)

    def part(self, chosen: Int64) -> _Data:
        picked = as_tensor(chosen).to(self.x.device)
        return replace(self, chosen=picked if self.chosen is None else self.chosen[picked])

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Centred features (B, D) of this dtype and classes (B,)."""
        import torch

        rows = _ROWS if self.x.device.type == "cpu" else _ROWS_ON_DEVICE
        # float64 features are centred as such: those far from zero would lose what varies in them.
        mean = self.mean.to(torch.promote_types(self.x.dtype, dtype))
        for start in range(0, len(self), rows):
            block = slice(start, start + rows)
            if self.chosen is None:
                x, y = self.x[block], self.y[block]
            else:
                x, y = self.x[self.chosen[block]], self.y[self.chosen[block]]
            yield (x - mean).to(dtype), y

    def logits(
        self, parameters: torch.Tensor, dtype: torch.dtype
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Blocks of logits (B, C), classes (B,) and centred features (B, D)."""
        import torch

        # Only centred: dividing the weights instead of each block by the deviation saves a pass over the features.
        scaled, bias = (parameters[:, :-1] / self.scale).to(dtype).T, parameters[:, -1].to(dtype)
        for centred, y in self.blocks(dtype):
            yield torch.addmm(bias, centred, scaled), y, centred

    def loss(self, parameters: torch.Tensor, l2: float, dtype: torch.dtype) -> tuple[float, torch.Tensor, float]:
        """The penalised mean cross-entropy, its gradient, and how much of the loss may be rounding.

        Products and softmax in this dtype, sums in float64.
        """
        import torch

        total = torch.zeros((), dtype=torch.float64, device=parameters.device)
        gradient = torch.zeros_like(parameters)
        for z, y, centred in self.logits(parameters, dtype):
            log_p = torch.log_softmax(z, dim=1)
            total -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64)
            slope = log_p.exp_()  # d loss / d z: the probabilities less the 1 of the true class
            slope[torch.arange(len(y), device=y.device), y] -= 1
            gradient[:, :-1] += slope.T @ centred
            gradient[:, -1] += slope.sum(dim=0, dtype=torch.float64)
        gradient[:, :-1] /= self.scale
        gradient /= len(self)
        # Classes' slopes sum to 0. What rounding adds to all of them alike is nearly flat, and steep for no step back.
        gradient -= gradient.mean(dim=0)
        weight = parameters[:, :-1]
        gradient[:, :-1] += l2 * weight
        value = float(total / len(self) + 0.5 * l2 * weight.square().sum())
        return value, gradient, 4 * torch.finfo(dtype).eps * (1 + abs(value))

    def inverse_curvature(self, parameters: torch.Tensor, l2: float, dtype: torch.dtype) -> torch.Tensor | None:
        """The inverse of the loss's second derivative by one class's parameters, (D + 1, D + 1): classes' average.

        Of some thousand rows, and only about: it changes how fast the minimum is found, not where it is. None where
        the rows are fewer than the features, since inverting would take longer than it saves.
        """
        import torch

        width = parameters.shape[1]
        if len(self) < width:
            return None
        some = self.part(np.arange(0, len(self), -(-len(self) // _ROWS_OF_CURVATURE)))
        curvature = l2 * torch.eye(width, dtype=torch.float64, device=parameters.device)
        for z, _, centred in some.logits(parameters, torch.float32):
            p = torch.softmax(z, dim=1)
            weights = (p * (1 - p)).mean(dim=1, keepdim=True) / len(some)
            rows = torch.nn.functional.pad(centred / self.scale.float(), (0, 1), value=1.0)
            curvature += (rows * weights).T @ rows
        # What float32 products may have lost, which can be more than l2.
        curvature.diagonal().add_(torch.finfo(torch.float32).eps * curvature.trace())
        return torch.cholesky_inverse(torch.linalg.cholesky(curvature)).to(dtype)


def _minimum(data: _Data, l2: float, start: torch.Tensor, max_iter: int, tol: float) -> tuple[torch.Tensor, int, float]:
    """Parameters at the minimum, iterations, and the largest partial derivative there: at most ``tol`` if it converged.

    In float32, which takes half the time, until the gradient is small or rounding hides the rest. What is returned was
    measured, and where needed improved, in float64.
    """
    import torch

    parameters, taken, steepest = start, 0, np.inf
    for dtype in (torch.float32, torch.float64):
        loss = partial(data.loss, l2=l2, dtype=dtype)
        curvature = partial(data.inverse_curvature, l2=l2, dtype=dtype)
        limit = max(tol, torch.finfo(dtype).eps) if dtype == torch.float32 else tol  # below that it finds noise
        parameters, more, steepest = descended(loss, curvature, parameters, max_iter - taken, limit)
        taken += more
    return parameters, taken, steepest


def _accuracy(data: _Data, parameters: torch.Tensor) -> float:
    hits = sum(int((z.argmax(dim=1) == y).sum()) for z, y, _ in data.logits(parameters, parameters.dtype))
    return hits / len(data)


def _split(places: Int64, held_out: float, seed: int) -> tuple[Int64, Int64]:
    """Row numbers to train on and to hold out, ascending; of every class at least one of each, if it has two rows."""
    order = np.random.default_rng(seed).permutation(len(places))
    order = order[np.argsort(places[order], kind="stable")]  # by class, inside a class in random order
    counts = np.bincount(places)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.minimum(np.maximum(np.rint(held_out * counts), 1), counts - 1)
    is_held = rank < held[places[order]]
    return np.sort(order[~is_held]), np.sort(order[is_held])


def _check_ranges(probe: LogisticProbe) -> None:
    penalties = probe.l2_grid if probe.l2 is None else [probe.l2]
    if not len(penalties) or not all(0 < l2 < np.inf for l2 in penalties):
        name = "l2" if probe.l2 is not None else "l2_grid"
        raise UsageError(f"L2 penalties must be positive numbers, at least one of them; got {name}={penalties!r}")
    held_out, max_iter, tol = probe.held_out, probe.max_iter, probe.tol
    if not 0 < held_out < 1 or max_iter < 1 or not tol > 0:
        raise UsageError(
            "held_out must lie between 0 and 1, max_iter be at least 1 and tol positive; "
            f"got {held_out=}, {max_iter=}, {tol=}"
        )


def _warn(probe: LogisticProbe, steepest: float, limit: float) -> None:
    from sklearn.exceptions import ConvergenceWarning

    remedy = f"raise max_iter={probe.max_iter} or l2"
    if probe.n_iter_ < probe.max_iter:
        remedy = f"rounding lets the loss fall no further; standardise the features, raise l2 or tol={probe.tol:g}"
    warnings.warn(
        f"L-BFGS stopped before the optimum, after {probe.n_iter_} iterations with l2={probe.l2_:g}: the loss has a "
        f"partial derivative of {steepest:.1e}, and {limit:.1e} was to be reached; {remedy}",
        ConvergenceWarning,
        stacklevel=3,
    )
